"""A graph compiled by torch's AOTInductor into a shared library, and the engine that runs it.

On a GPU it has never been run by us.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.backends.torch.aot_package import PACKAGE, Machine, describe_package, read_package
from engines.backends.torch.graph import OnnxModule
from engines.batches import BUCKETS, bucket_of, filled_up, run_at_buckets
from engines.engine import EngineDescription
from engines.errors import BuildFailed, BundleRefused, InferenceError, Unavailable
from engines.machine.cores import usable_cores
from engines.machine.gpu import Gpu, NoGpu, check_gpu_memory
from engines.signature import Port, checked_shape, named_outputs
from engines.spec import EngineSpec
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

MOST = BUCKETS[-1]


def compile_package(spec: EngineSpec, model: Path, into: Path, find: Callable[[], Gpu | NoGpu]) -> None:
    """Write `engine.pt2` and `engine.pt2.json`; takes a minute and more, and a C++ compiler.

    Args:
        spec: the engine.
        model: the fp32 graph.
        into: directory.
        find: looks for the GPU.

    Raises:
        BundleRefused: the graph is none, or has an operator that is not known.
        BuildFailed: torch cannot compile it.
    """
    gpu = None if spec.device == "cpu" else check_gpu_memory(find(), model, str(spec))
    module = OnnxModule(model, torch.bfloat16 if spec.precision == "bf16" else torch.float32).eval().to(spec.device)
    shape, outputs = _ports(model)
    example = torch.zeros((2, 3, *shape), dtype=torch.uint8, device=spec.device)
    batch = torch.export.Dim("batch", min=1, max=MOST)
    partial = into / f"{PACKAGE}.partial.pt2"
    with _exact(), _quiet(), torch.no_grad():
        try:
            exported = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
            torch._inductor.aoti_compile_and_package(exported, package_path=str(partial))  # noqa: SLF001  its only name
        except Exception as error:  # the compiler's own, of a dozen types
            partial.unlink(missing_ok=True)
            last = str(error).strip().splitlines() or ["it does not say why"]
            raise BuildFailed(f"torch cannot compile {model.name}: {last[-1]}") from error
    partial.rename(into / PACKAGE)
    describe_package(into, spec, model, Machine.here(torch.__version__, gpu), shape, outputs)


class TorchEngine:
    """A package of AOTInductor, for one batch at a time.

    Args:
        model: the fp32 graph.
        spec: asks for `torch`.
        compiled: directory of the package; default beside the graph.
        threads: intra-op threads of this process's torch; None for all usable cores.
        find: looks for the GPU.

    Raises:
        BundleRefused: the package is not the one that was compiled, or not for this machine. Nothing of it is loaded
            before everything else agreed.
    """

    def __init__(
        self,
        model: Path,
        spec: EngineSpec,
        *,
        compiled: Path | None,
        threads: int | None,
        find: Callable[[], Gpu | NoGpu],
    ) -> None:
        described, package = read_package(model, spec, compiled)
        gpu = None if spec.device == "cpu" else check_gpu_memory(find(), model, str(spec))
        differences = described.machine.differences(Machine.here(torch.__version__, gpu))
        if differences:
            raise Unavailable(f"{PACKAGE} must be compiled anew for this machine: {', '.join(differences)}")
        self._threads = threads or usable_cores()
        torch.set_num_threads(self._threads)
        # TF32 keeps ten bits of a factor, and convolutions use it by default.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            with _quiet():
                self._run: Any = torch._inductor.aoti_load_package(str(package))  # noqa: SLF001
        except Exception as error:  # as when it is compiled
            raise BundleRefused(f"torch does not load {PACKAGE}: {error}") from error
        self._described, self._spec = described, spec
        self._lock = threading.Lock()
        self._details = {"gpu": gpu.name} if gpu else {"cpu": torch.backends.cpu.get_cpu_capability()}

    def infer(self, batch: Pixels) -> Stage1Outputs:
        """See `Engine.infer`.

        Raises:
            stage1.errors.OutputsError: the engine returned NaN or a wrong shape.
            InferenceError: torch failed, or the engine is closed.
        """
        if batch.dtype != np.uint8 or batch.shape[1:] != (3, *self._described.shape) or not len(batch):
            raise InferenceError(f"torch failed on a batch of shape {batch.shape} and type {batch.dtype}")
        parts = [self._some(batch[start : start + MOST]) for start in range(0, len(batch), MOST)]
        return Stage1Outputs.concatenate(parts)

    def warm_up(self, most: int) -> None:
        """See `Engine.warm_up`."""
        run_at_buckets(self, self._described.shape, most)

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._run = None
        if self._spec.device == "cuda":
            torch.cuda.empty_cache()

    def describe(self) -> EngineDescription:
        """See `Engine.describe`."""
        threads = self._threads if self._spec.device == "cpu" else 1
        return EngineDescription(
            self._spec, f"torch {torch.__version__}", self._described.shape, threads, self._details
        )

    def _some(self, batch: Pixels) -> Stage1Outputs:
        # Filled up to a size that golden images are tried at; a GPU has kernels for each.
        size = bucket_of(len(batch)) if self._spec.device == "cuda" else len(batch)
        filled = filled_up(batch, size)
        with self._lock, torch.no_grad():
            if self._run is None:
                raise InferenceError("the engine is closed")
            try:
                made = self._run(torch.from_numpy(filled).to(self._spec.device))
                values = [tensor[: len(batch)].float().cpu().numpy() for tensor in made]
            except RuntimeError as error:
                raise InferenceError(f"torch failed on a batch of shape {batch.shape}: {error}") from error
        return named_outputs(self._described.outputs, values, rows=len(batch))


def _ports(model: Path) -> tuple[tuple[int, int], list[str]]:
    import onnx  # noqa: PLC0415  it was read already, and has no types

    graph = onnx.load(str(model), load_external_data=False).graph
    kinds = onnx.TensorProto.DataType
    inputs = [
        Port(
            port.name,
            kinds.Name(port.type.tensor_type.elem_type),
            tuple(side.dim_value or side.dim_param for side in port.type.tensor_type.shape.dim),
        )
        for port in graph.input
    ]
    outputs = [port.name for port in graph.output]
    return checked_shape(model.name, inputs, outputs, kind="UINT8"), outputs


@contextmanager
def _exact() -> Iterator[None]:
    """Products in fp32 are of fp32 while a graph is compiled."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """The compiler's reports of what is not there, which are none of an operator's business."""
    loggers = [logging.getLogger(name) for name in ("torch._inductor", "torch.export", "torch._dynamo")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
