"""ONNX Runtime's CUDA provider, in fp32: for every GPU that its package was built for, H100 and H200 among them.

Never executed by us on a GPU; without one its library refuses, which is tested.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.backends.backend import Backend
from engines.backends.bound_session import BoundEngine
from engines.engine import Engine
from engines.errors import BundleRefused, Unavailable
from engines.machine.gpu import Gpu, NoGpu, check_gpu_memory, find_gpu
from engines.machine.packages import onnxruntime_conflict
from engines.spec import EngineSpec
from stage1.telemetry import without_telemetry

if TYPE_CHECKING:
    import onnxruntime as ort
else:
    ort = without_telemetry("onnxruntime")

SPEC = EngineSpec(backend="onnxruntime-cuda", device="cuda")
INSTALL = "pip install 'streetvision-cascade[gpu]', and then the two commands of docs/engines.md"
OPTIONS = {
    "device_id": "0",
    # TF32 keeps ten bits of a factor, and is on by default.
    "use_tf32": "0",
    # By default every shape tries all algorithms of a convolution when it first comes.
    "cudnn_conv_algo_search": "HEURISTIC",
    # By default the arena doubles, and keeps what a swap needed for ever.
    "arena_extend_strategy": "kSameAsRequested",
}


def cuda_provider(available: Sequence[str]) -> str | None:
    """The name of the CUDA provider among those that a build of ONNX Runtime has; however it is written.

    Args:
        available: names of providers.
    """
    return next((name for name in available if name.lower().startswith("cuda")), None)


class OnnxRuntimeCuda(Backend):
    """ONNX Runtime on a GPU by CUDA.

    Args:
        find: looks for the GPU.
    """

    specs = (SPEC,)
    distributions = ("onnxruntime", "onnxruntime-gpu")

    def __init__(self, find: Callable[[], Gpu | NoGpu] = find_gpu) -> None:
        self._find = find

    def check(self, spec: EngineSpec) -> str:
        """See `Backend.check`."""
        if told := onnxruntime_conflict():
            raise Unavailable(f"{spec}: {told}")
        if cuda_provider(ort.get_available_providers()) is None:
            raise Unavailable(f"{spec}: this ONNX Runtime was built without CUDA: {INSTALL}")
        return f"onnxruntime-gpu {ort.__version__}"

    def open(self, spec: EngineSpec, model: Path, *, compiled: Path | None, threads: int | None) -> Engine:  # noqa: ARG002
        """See `Backend.open`."""
        self.check(spec)
        gpu = check_gpu_memory(self._find(), model, str(spec))
        provider = str(cuda_provider(ort.get_available_providers()))
        said = preload()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            session = ort.InferenceSession(str(model), options, providers=[(provider, OPTIONS)])
        except Exception as error:  # it raises a dozen types that have nothing in common
            raise BundleRefused(f"{model.name}: ONNX Runtime cannot load it: {error}") from error
        used = session.get_providers()[0]
        if used != provider:
            raise Unavailable(
                f"{spec}: ONNX Runtime fell back from {provider} to {used}, because its libraries are not there: "
                f"{INSTALL}{f' ({said})' if said else ''}"
            )
        details = {"provider": used, "gpu": gpu.name, "compute_capability": gpu.compute_capability}
        return BoundEngine(session, spec, name=model.name, device="cuda", details=details)


def preload() -> str:
    """Load CUDA and cuDNN from the packages that the extra brings; what the library says where it cannot."""
    said = io.StringIO()
    # It prints what is missing, and goes on.
    with contextlib.redirect_stdout(said):
        getattr(ort, "preload_dlls", lambda: None)()
    return " ".join(said.getvalue().split())


BACKEND = OnnxRuntimeCuda()
