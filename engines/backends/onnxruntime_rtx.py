"""TensorRT-RTX as a plugin of ONNX Runtime, in fp32: for RTX 30, 40 and 50, from PyPI alone, out of the same graph.

Not for H100 and H200. Never executed by us on a GPU. Without a driver the plugin cannot even be registered: it is
linked with `libcuda.so.1`.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.backends.backend import Backend
from engines.backends.bound_session import BoundEngine
from engines.batches import BUCKETS
from engines.engine import INPUT, Engine
from engines.errors import BundleRefused, Unavailable
from engines.machine.gpu import Gpu, NoGpu, check_gpu_memory, find_gpu
from engines.machine.packages import onnxruntime_conflict
from engines.spec import EngineSpec
from stage1.preprocess import Shape
from stage1.telemetry import without_telemetry

if TYPE_CHECKING:
    import onnxruntime as ort
else:
    ort = without_telemetry("onnxruntime")

SPEC = EngineSpec(backend="onnxruntime-rtx", device="cuda")
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
INSTALL = "pip install 'streetvision-cascade[rtx]'"
# The batch size that the engine is fastest at.
BEST = 8
_REGISTERED: set[str] = set()
_LOCK = threading.Lock()


def is_rtx(name: str) -> bool:
    """Whether a provider is TensorRT-RTX, of which documents and releases write the name in four ways.

    Args:
        name: as a device or a package tells it: `TensorRTRTX`, `NvTensorRtRtx`, `NvTensorRTRTXExecutionProvider`. The
            provider `TensorrtExecutionProvider` is another one.
    """
    return "tensorrtrtx" in re.sub(r"[^a-z]", "", name.lower())


def rtx_devices(devices: Iterable[Any]) -> list[Any]:
    """Devices of TensorRT-RTX among those of ONNX Runtime.

    Args:
        devices: each with an `ep_name`.
    """
    return [device for device in devices if is_rtx(str(device.ep_name))]


def provider_options(shape: Shape, kernels: Path) -> dict[str, str]:
    """One profile of batches, as a plan of TensorRT has it, and a directory for the kernels that it makes.

    Args:
        shape: height and width of the images, px.
        kernels: the directory.
    """
    sizes = {"min": BUCKETS[0], "opt": BEST, "max": BUCKETS[-1]}
    profile = {f"nv_profile_{name}_shapes": f"{INPUT}:{count}x3x{shape[0]}x{shape[1]}" for name, count in sizes.items()}
    return {**profile, "nv_runtime_cache_path": str(kernels)}


class OnnxRuntimeRtx(Backend):
    """ONNX Runtime on a GPU by TensorRT-RTX.

    Args:
        find: looks for the GPU.
    """

    specs = (SPEC,)
    distributions = ("onnxruntime", "onnxruntime-ep-nv-tensorrt-rtx", "onnxruntime-ep-nv-tensorrt-rtx-cu13")

    def __init__(self, find: Callable[[], Gpu | NoGpu] = find_gpu) -> None:
        self._find = find

    def check(self, spec: EngineSpec) -> str:
        """See `Backend.check`."""
        if told := onnxruntime_conflict():
            raise Unavailable(f"{spec}: {told}")
        plugin = _plugin(spec)
        if not hasattr(ort, "register_execution_provider_library"):
            raise Unavailable(f"{spec}: onnxruntime {ort.__version__} takes no plugin: {INSTALL}")
        return f"onnxruntime {ort.__version__} with TensorRT-RTX {getattr(plugin, '__version__', '')}".strip()

    def open(self, spec: EngineSpec, model: Path, *, compiled: Path | None, threads: int | None) -> Engine:  # noqa: ARG002
        """See `Backend.open`."""
        runtime = self.check(spec)
        gpu = check_gpu_memory(self._find(), model, str(spec))
        devices = _devices(spec)
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streetvision-cascade" / "rtx"
        home.mkdir(parents=True, exist_ok=True)
        # The plugin has no option for it, and TensorRT would keep ten bits of a factor.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            # The reference tells the shape, which the profile is made of, before minutes are spent on compiling.
            known = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]).get_inputs()[0].shape
            options.add_provider_for_devices(devices, provider_options((int(known[2]), int(known[3])), home))
            session = ort.InferenceSession(str(model), options)
        except Exception as error:  # it raises a dozen types that have nothing in common
            raise BundleRefused(f"{model.name}: {runtime} cannot load it: {error}") from error
        used = session.get_providers()[0]
        if not is_rtx(used):
            raise Unavailable(f"{spec}: ONNX Runtime fell back from TensorRT-RTX to {used}")
        details = {"provider": used, "gpu": gpu.name, "compute_capability": gpu.compute_capability}
        # This build of ONNX Runtime knows no memory of CUDA: the plugin copies.
        return BoundEngine(session, spec, name=model.name, device="cpu", details=details)


def _plugin(spec: EngineSpec) -> Any:  # noqa: ANN401  it has no types
    try:
        return importlib.import_module(PLUGIN)
    except (ImportError, OSError) as error:
        raise Unavailable(f"{spec}: the plugin of TensorRT-RTX is not installed ({error}): {INSTALL}") from error


def _devices(spec: EngineSpec) -> list[Any]:
    """Devices of the plugin, which is registered once in a process.

    Raises:
        Unavailable: it cannot be registered, or has no device.
    """
    plugin = _plugin(spec)
    with _LOCK:
        if plugin.get_library_path() not in _REGISTERED:
            try:
                ort.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
            except RuntimeError as error:
                raise Unavailable(
                    f"{spec}: ONNX Runtime does not take the plugin of TensorRT-RTX: {' '.join(str(error).split())}"
                ) from error
            _REGISTERED.add(plugin.get_library_path())
    found = rtx_devices(ort.get_ep_devices())
    if not found:
        others = ", ".join(sorted({str(device.ep_name) for device in ort.get_ep_devices()}))
        raise Unavailable(f"{spec}: TensorRT-RTX has no device on this machine; there are {others}")
    return found


BACKEND = OnnxRuntimeRtx()
