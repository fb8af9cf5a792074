"""ONNX Runtime on a GPU, up to the border of the library.

What the libraries answer without a GPU is as onnxruntime-gpu 1.31.1 and the plugin 0.5.0 of TensorRT-RTX answered here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from engines.backends import onnxruntime_cuda, onnxruntime_rtx
from engines.backends.backend import Backend
from engines.backends.bound_session import BoundEngine
from engines.backends.onnxruntime_cuda import OPTIONS, OnnxRuntimeCuda, cuda_provider
from engines.backends.onnxruntime_rtx import OnnxRuntimeRtx, is_rtx, provider_options, rtx_devices
from engines.backends.registry import check_available, open_engine
from engines.errors import BundleRefused, Unavailable
from engines.machine.gpu import Gpu, NoGpu, check_gpu_memory, find_gpu
from engines.spec import EngineSpec
from tests.support.tensorrt import GPU

CUDA, RTX = onnxruntime_cuda.SPEC, onnxruntime_rtx.SPEC
OF_GPU = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
OF_CPU = ["AzureExecutionProvider", "CPUExecutionProvider"]
NOT_LOADED = (
    "[ONNXRuntimeError] : 1 : FAIL : Failed to load library libonnxruntime_providers_nv_tensorrt_rtx.so with error: "
    "libcuda.so.1: cannot open shared object file: No such file or directory"
)
NO_GPU = NoGpu(reason="libcuda.so.1: cannot open shared object file")
without_gpu = pytest.mark.skipif(isinstance(find_gpu(), Gpu), reason="there is a GPU")


class Library:
    """ONNX Runtime with the providers of another build.

    Args:
        available: names of its providers.
        devices: names of the providers that its devices are of.
        used: provider that a session ends up with; None for the one that was asked for.
    """

    __version__ = "1.31.1"

    def __init__(self, available: list[str], devices: tuple[str, ...] = (), used: str | None = None) -> None:
        self.available, self.devices, self.used = available, devices, used
        self.asked: list[Any] = []
        self.registered: list[tuple[str, str]] = []
        self.refuses = ""
        self.OrtValue = ort.OrtValue

    def get_available_providers(self) -> list[str]:
        return self.available

    def preload_dlls(self) -> None:
        sys.stdout.write("Failed to load libcublasLt.so.13: cannot open shared object file\n")

    def register_execution_provider_library(self, name: str, path: str) -> None:
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.registered.append((name, path))

    def get_ep_devices(self) -> list[Any]:
        return [SimpleNamespace(ep_name=name) for name in self.devices]

    def SessionOptions(self) -> Any:  # noqa: N802
        return SimpleNamespace(
            add_provider_for_devices=lambda devices, options: self.asked.append((devices[0].ep_name, options))
        )

    def InferenceSession(self, path: str, _options: Any = None, providers: Any = None) -> Any:  # noqa: N802
        if providers is not None:
            self.asked.append(providers)
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        asked = self.asked[-1][0]
        name = asked[0] if isinstance(asked, tuple) else asked
        session.get_providers = lambda: [self.used or name, "CPUExecutionProvider"]
        return session


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Library]:
    """Put another build in place of the one that is installed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(onnxruntime_rtx, "_REGISTERED", set())

    def put(*args: Any, **named: Any) -> Library:
        made = Library(*args, **named)
        monkeypatch.setattr(onnxruntime_cuda, "ort", made)
        monkeypatch.setattr(onnxruntime_rtx, "ort", made)
        return made

    return put


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of the plugin."""
    found = SimpleNamespace(
        get_ep_name=lambda: "NvTensorRTRTXExecutionProvider",
        get_library_path=lambda: "/lib/rtx.so",
        __version__="0.5.0",
    )
    whole = importlib.import_module
    monkeypatch.setattr(
        importlib, "import_module", lambda name: found if name == onnxruntime_rtx.PLUGIN else whole(name)
    )


def open_it(backend: Backend, spec: EngineSpec, model: Path) -> Any:
    return backend.open(spec, model, compiled=None, threads=None)


class TestCuda:
    @without_gpu
    def test_without_a_gpu_says_that_there_is_none(self, tiny_engine: Path) -> None:
        with pytest.raises(Unavailable, match="onnxruntime-cuda cuda fp32: needs a GPU, and there is none"):
            check_available(CUDA)
        with pytest.raises(Unavailable, match="onnxruntime-cuda cuda fp32"):
            open_engine(CUDA, tiny_engine)

    def test_a_build_without_cuda_says_what_to_install(self, library: Callable[..., Library]) -> None:
        library(OF_CPU)
        with pytest.raises(Unavailable, match=r"built without CUDA: pip install 'streetvision-cascade\[gpu\]'"):
            OnnxRuntimeCuda(lambda: GPU).check(CUDA)

    def test_two_onnxruntimes_are_none(self, library: Callable[..., Library], monkeypatch: pytest.MonkeyPatch) -> None:
        library(OF_GPU)
        monkeypatch.setattr(onnxruntime_cuda, "onnxruntime_conflict", lambda: "both are installed")
        with pytest.raises(Unavailable, match="both are installed"):
            OnnxRuntimeCuda(lambda: GPU).check(CUDA)

    def test_asks_for_no_tf32_and_no_search_within_a_request(
        self, library: Callable[..., Library], tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = library(OF_GPU)
        monkeypatch.setattr(onnxruntime_cuda, "BoundEngine", lambda _, spec, **named: (spec, named))
        spec, named = open_it(OnnxRuntimeCuda(lambda: GPU), CUDA, tiny_engine)
        assert made.asked == [[("CUDAExecutionProvider", OPTIONS)]]
        assert OPTIONS["use_tf32"] == "0"
        assert OPTIONS["cudnn_conv_algo_search"] != "EXHAUSTIVE"
        assert (spec, named["device"], named["details"]["gpu"]) == (CUDA, "cuda", "Some GPU")

    def test_that_turns_out_to_be_a_cpu_is_refused_with_what_is_missing(
        self, library: Callable[..., Library], tiny_engine: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        library(OF_GPU, used="CPUExecutionProvider")
        with pytest.raises(Unavailable, match=r"fell back from CUDAExecutionProvider to CPU.*libcublasLt\.so\.13"):
            open_it(OnnxRuntimeCuda(lambda: GPU), CUDA, tiny_engine)
        assert capsys.readouterr().out == ""

    def test_a_file_that_is_no_graph_is_refused(self, library: Callable[..., Library], tmp_path: Path) -> None:
        library(OF_GPU)
        (tmp_path / "junk.onnx").write_bytes(b"no graph")
        with pytest.raises(BundleRefused, match=r"junk\.onnx: ONNX Runtime cannot load it"):
            open_it(OnnxRuntimeCuda(lambda: GPU), CUDA, tmp_path / "junk.onnx")

    @pytest.mark.parametrize(
        ("available", "found"),
        [(OF_GPU, "CUDAExecutionProvider"), (["CudaExecutionProvider"], "CudaExecutionProvider"), (OF_CPU, None)],
    )
    def test_its_provider_is_found_however_it_is_written(self, available: list[str], found: str | None) -> None:
        assert cuda_provider(available) == found


@pytest.mark.usefixtures("plugin")
class TestRtx:
    @pytest.mark.parametrize(
        ("name", "is_one"),
        [
            ("TensorRTRTX", True),
            ("NvTensorRtRtx", True),
            ("NvTensorRTRTX", True),
            ("NvTensorRTRTXExecutionProvider", True),
            ("nv_tensorrt_rtx", True),
            ("TensorrtExecutionProvider", False),
            ("CUDAExecutionProvider", False),
            ("CPUExecutionProvider", False),
        ],
    )
    def test_its_name_is_known_in_all_its_spellings(self, name: str, *, is_one: bool) -> None:
        assert is_rtx(name) is is_one
        assert bool(rtx_devices([SimpleNamespace(ep_name=name)])) is is_one

    def test_without_a_driver_the_plugin_is_not_registered_and_that_is_told(
        self, library: Callable[..., Library], tiny_engine: Path
    ) -> None:
        library(OF_CPU).refuses = NOT_LOADED
        with pytest.raises(Unavailable, match=r"does not take the plugin of TensorRT-RTX: .*libcuda\.so\.1"):
            open_it(OnnxRuntimeRtx(lambda: GPU), RTX, tiny_engine)

    def test_without_a_gpu_nothing_is_registered(self, library: Callable[..., Library], tiny_engine: Path) -> None:
        made = library(OF_CPU)
        with pytest.raises(Unavailable, match="onnxruntime-rtx cuda fp32: needs a GPU, and there is none: libcuda"):
            open_it(OnnxRuntimeRtx(lambda: NO_GPU), RTX, tiny_engine)
        assert made.registered == []

    def test_without_a_device_of_its_own_names_the_others(
        self, library: Callable[..., Library], tiny_engine: Path
    ) -> None:
        library(OF_CPU, devices=("CPUExecutionProvider",))
        with pytest.raises(Unavailable, match="has no device on this machine; there are CPUExecutionProvider"):
            open_it(OnnxRuntimeRtx(lambda: GPU), RTX, tiny_engine)

    @pytest.mark.parametrize("name", ["TensorRTRTX", "NvTensorRtRtx"])
    def test_a_device_is_taken_with_one_profile_and_registered_once(
        self, library: Callable[..., Library], tiny_engine: Path, tmp_path: Path, name: str
    ) -> None:
        made = library(OF_CPU, devices=("CPUExecutionProvider", name), used=name)
        for _ in range(2):
            engine = open_it(OnnxRuntimeRtx(lambda: GPU), RTX, tiny_engine)
        assert made.registered == [("NvTensorRTRTXExecutionProvider", "/lib/rtx.so")]
        (asked, options) = made.asked[-1]
        assert asked == name
        assert options == provider_options((32, 32), tmp_path / "cache" / "streetvision-cascade" / "rtx")
        assert options["nv_profile_max_shapes"] == "image:32x3x32x32"
        assert isinstance(engine, BoundEngine)
        assert len(engine.infer(np.zeros((3, 3, 32, 32), np.uint8))) == 3

    def test_that_turns_out_to_be_a_cpu_is_refused(self, library: Callable[..., Library], tiny_engine: Path) -> None:
        library(OF_CPU, devices=("TensorRTRTX",), used="CPUExecutionProvider")
        with pytest.raises(Unavailable, match="fell back from TensorRT-RTX to CPUExecutionProvider"):
            open_it(OnnxRuntimeRtx(lambda: GPU), RTX, tiny_engine)


def test_a_plugin_that_is_not_installed_says_what_to_install(library: Callable[..., Library]) -> None:
    library(OF_CPU)
    with pytest.raises(Unavailable, match=r"plugin of TensorRT-RTX is not installed .*streetvision-cascade\[rtx\]"):
        OnnxRuntimeRtx(lambda: GPU).check(RTX)


@pytest.mark.usefixtures("plugin")
def test_a_runtime_that_is_too_old_for_plugins_says_so(
    library: Callable[..., Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    library(OF_CPU)
    monkeypatch.delattr(Library, "register_execution_provider_library")
    with pytest.raises(Unavailable, match=r"onnxruntime 1\.31\.1 takes no plugin"):
        OnnxRuntimeRtx(lambda: GPU).check(RTX)


@pytest.mark.parametrize("spec", [CUDA, RTX], ids=str)
def test_a_gpu_without_room_says_how_much_is_needed(spec: EngineSpec, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(bytes(10 << 20))
    (tmp_path / "model.onnx.data").write_bytes(bytes(20 << 20))
    full = GPU.model_copy(update={"free_bytes": 50 << 20})
    with pytest.raises(Unavailable, match=f"{spec}: needs about 60 MiB on the Some GPU, which has 50 MiB free"):
        check_gpu_memory(full, model, str(spec))
    assert check_gpu_memory(GPU, model, str(spec)) is GPU
