"""A small transformer as the pipeline exports it, plans that TensorRT-RTX builds here, and a GPU of host memory."""

from __future__ import annotations

import ctypes
import enum
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from engines.backends.onnxruntime import OnnxEngine
from engines.backends.tensorrt.build import Plan, build_plan
from engines.backends.tensorrt.library import Flavour, load_flavour
from engines.engine import INPUT
from stage1.artifacts import sha256_file

DINOV3_SIZE_PX = 64


@pytest.fixture(
    params=[
        {"outputs": ("logits", "score")},
        {"outputs": ("select_score", "logits")},
        {"heads": ("works",)},
        {"dtype": TensorProto.FLOAT},
        {"channels": 1},
        {"size_px": "S"},
        {"width_px": "W"},
    ],
    ids=str,
)
def other_ports(request: pytest.FixtureRequest) -> dict[str, object]:
    """Inputs or outputs that are not those of a Stage-1, for `write_onnx`."""
    changes: dict[str, object] = request.param
    return changes


@pytest.fixture(scope="session")
def small_dinov3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of a DINOv3 of three blocks with a named head and random weights."""
    pytest.importorskip("torch")
    from offline.certify.onnx_export import export_onnx  # noqa: PLC0415
    from stage1.model.backbones import build  # noqa: PLC0415
    from stage1.model.settings import ModelSettings, NamedHead, RandomBackbone  # noqa: PLC0415

    works = NamedHead(column="works", classes=("none", "active", "planned"))
    settings = ModelSettings(backbone=RandomBackbone(layers=3), heads={"works": works})
    path = tmp_path_factory.mktemp("dinov3") / "model.onnx"
    export_onnx(build(settings, shape=(DINOV3_SIZE_PX, DINOV3_SIZE_PX), seed=0), path, (DINOV3_SIZE_PX, DINOV3_SIZE_PX))
    return path


@pytest.fixture(scope="session")
def weights_beside(tmp_path_factory: pytest.TempPathFactory, small_dinov3: Path) -> Path:
    """The same graph with its weights in a second file, as a large one has them."""
    path = tmp_path_factory.mktemp("beside") / "model.onnx"
    onnx.save(
        onnx.load(small_dinov3), str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0
    )
    return path


@pytest.fixture(scope="session")
def photographs() -> NDArray[np.uint8]:
    """Images for `small_dinov3` that differ in brightness and contrast."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (32, 3, DINOV3_SIZE_PX, DINOV3_SIZE_PX))
    contrast, brightness = rng.uniform(0.05, 1, (2, 32, 1, 1, 1))
    images: NDArray[np.uint8] = (noise * contrast * brightness).astype(np.uint8)
    return images


Status = enum.IntEnum("Status", {"cudaSuccess": 0, "cudaErrorUnknown": 999})
CONSTANTS = {
    "cudaStreamNonBlocking": 1,
    "cudaMemcpyKind": SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2),
    "cudaStreamCaptureMode": SimpleNamespace(cudaStreamCaptureModeThreadLocal=1),
}


class HostCuda:
    """The functions of CUDA that an engine calls; a stream does its work at once, unless it is being captured."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.handles: dict[int, str] = {}
        self.recording: dict[int, list[Callable[[], None]]] = {}
        self.recorded: dict[int, list[Callable[[], None]]] = {}
        self.launches = 0
        self.broken: set[str] = set()
        self._next = itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        if name in CONSTANTS:
            return CONSTANTS[name]
        if not name.startswith("cuda"):
            raise AttributeError(name)
        does = getattr(self, re.sub("([A-Z])", r"_\1", name.removeprefix("cuda")).lower())

        def call(*arguments: Any) -> tuple[Any, ...]:
            if name in self.broken:
                return (Status.cudaErrorUnknown, None)
            found = does(*arguments)
            return (Status.cudaSuccess,) if found is None else (Status.cudaSuccess, found)

        return call

    def submit(self, stream: int, work: Callable[[], None]) -> None:
        assert self.handles[stream] == "stream"
        if stream in self.recording:
            self.recording[stream].append(work)
        else:
            work()

    def _new(self, kind: str) -> int:
        handle = next(self._next)
        self.handles[handle] = kind
        return handle

    def _malloc(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    _malloc_host = _malloc

    def _free(self, address: int) -> None:
        del self.memory[address]

    _free_host = _free

    def _stream_create_with_flags(self, _flags: int) -> int:
        return self._new("stream")

    def _stream_synchronize(self, stream: int) -> None:
        assert stream not in self.recording

    def _stream_destroy(self, stream: int) -> None:
        del self.handles[stream]

    def _memcpy_async(self, to: int, source: int, size: int, _kind: int, stream: int) -> None:
        self.submit(stream, lambda: (ctypes.memmove(to, source, size), None)[1])

    def _stream_begin_capture(self, stream: int, _mode: int) -> None:
        self.recording[stream] = []

    def _stream_end_capture(self, stream: int) -> int:
        graph = self._new("graph")
        self.recorded[graph] = self.recording.pop(stream)
        return graph

    def _graph_instantiate(self, graph: int, _flags: int) -> int:
        made = self._new("executable")
        self.recorded[made] = self.recorded[graph]
        return made

    def _graph_destroy(self, graph: int) -> None:
        del self.handles[graph]

    _graph_exec_destroy = _graph_destroy

    def _graph_launch(self, graph: int, stream: int) -> None:
        self.launches += 1
        for work in self.recorded[graph]:
            self.submit(stream, work)


class Context:
    """Computes what the graph does, from the addresses that it was told."""

    def __init__(self, engine: HostEngine) -> None:
        self.engine, self.addresses, self.shape = engine, dict[str, int](), (0, 0, 0, 0)
        self.error_recorder = None

    def set_device_memory(self, address: int, size: int) -> None:
        assert address in self.engine.cuda.memory
        assert size == self.engine.device_memory_size_v2

    def set_input_shape(self, name: str, shape: tuple[int, int, int, int]) -> bool:
        assert name == INPUT
        self.shape = shape
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address in self.engine.cuda.memory

    def execute_async_v3(self, stream: int) -> bool:
        if self.engine.fails:
            return False
        if self.engine.capture_fails and stream in self.engine.cuda.recording:
            return False
        self.engine.cuda.submit(stream, self._work)
        return True

    def _work(self) -> None:
        count, pixels = self.shape[0], int(np.prod(self.shape))
        images = np.ctypeslib.as_array((ctypes.c_uint8 * pixels).from_address(self.addresses[INPUT]))
        found = self.engine.reference.infer(images.reshape(self.shape))
        values = {"logits": found.logits, "select_score": found.select_score}
        values |= {f"head.{name}": head for name, head in found.heads.items()}
        for name, value in values.items():
            assert len(value) == count
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)


class Kernels:
    """A runtime cache, to which each context of this process adds nothing."""

    def __init__(self) -> None:
        self.content = b"kernels"

    def deserialize(self, kept: bytes) -> bool:
        self.content = kept
        return kept.startswith(b"kernels")

    def serialize(self) -> bytes:
        return self.content


class HostEngine:
    """An engine that computes on the reference.

    Args:
        model: the graph.
        cuda: where its memory is.
        trt: the library whose enums it speaks in.
    """

    device_memory_size_v2 = 4096

    def __init__(self, model: Path, cuda: HostCuda, trt: Any) -> None:
        self.trt = trt
        self.reference, self.cuda = OnnxEngine(model, threads=1), cuda
        heads = self.reference.infer(np.zeros((1, 3, 32, 32), np.uint8)).heads
        self.shapes: dict[str, tuple[int, ...]] = {INPUT: (-1, 3, 32, 32), "logits": (-1, 2), "select_score": (-1,)}
        self.shapes |= {f"head.{name}": (-1, head.shape[1]) for name, head in heads.items()}
        self.num_io_tensors = len(self.shapes)
        self.fails = self.capture_fails = False

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_mode(self, name: str) -> Any:
        return self.trt.TensorIOMode.INPUT if name == INPUT else self.trt.TensorIOMode.OUTPUT

    def create_runtime_config(self) -> SimpleNamespace:
        return SimpleNamespace(
            set_execution_context_allocation_strategy=lambda strategy: strategy,
            create_runtime_cache=Kernels,
            set_runtime_cache=lambda kernels: isinstance(kernels, Kernels),
        )

    def create_execution_context(self, _settings: object) -> Context:
        return Context(self)


@pytest.fixture(scope="session")
def flavour() -> Flavour:
    """The TensorRT that is on PyPI."""
    pytest.importorskip("tensorrt_rtx")
    return load_flavour("tensorrt_rtx")


@pytest.fixture(scope="session")
def plan_of(flavour: Flavour) -> Callable[[Path], Plan]:
    """The plan of a graph, built once for each graph with its weights."""
    built: dict[str, Plan] = {}

    def of(model: Path) -> Plan:
        graph = sha256_file(model)
        if graph not in built:
            built[graph] = build_plan(model, flavour=flavour)
        return built[graph]

    return of


@pytest.fixture(scope="session")
def plan(tiny_engine: Path, plan_of: Callable[[Path], Plan]) -> Plan:
    """Of the tiny linear engine."""
    return plan_of(tiny_engine)


@pytest.fixture
def host_gpu(
    flavour: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], tuple[HostCuda, HostEngine]]:
    """Makes what an engine calls of a graph; kernels are kept in a directory of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def made(model: Path) -> tuple[HostCuda, HostEngine]:
        cuda = HostCuda()
        return cuda, HostEngine(model, cuda, flavour.trt)

    return made
