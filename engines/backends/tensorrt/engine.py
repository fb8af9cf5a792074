"""Stage-1 in a TensorRT engine, on a GPU.

What comes before the library touches the plan (hash, graph, fingerprint, GPU) runs in the tests. What comes after has
never been executed by us, for want of a GPU: deserialising, contexts, memory and captured graphs are written after the
documentation, and their calls checked by name against the bindings of TensorRT 10.16, 11.4 and RTX 1.7.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from engines.backends.tensorrt.cuda import Cuda
from engines.backends.tensorrt.execution import RUNS_BEFORE_CAPTURE, Lane
from engines.backends.tensorrt.fusion import INNER
from engines.backends.tensorrt.kernel_cache import KernelCache, cache_path
from engines.backends.tensorrt.library import Flavour, load_flavour
from engines.backends.tensorrt.plan import DESCRIPTION, PLAN, Fingerprint, PlanDescription, read_plan
from engines.backends.tensorrt.refit import check_refit, refit
from engines.batches import buckets
from engines.engine import HEAD_PREFIX, OUTPUTS, EngineDescription
from engines.errors import BundleRefused, InferenceError, Unavailable
from engines.machine.gpu import Gpu, NoGpu, find_gpu
from engines.spec import EngineSpec, twin
from stage1.errors import ArtifactError
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

log = structlog.get_logger(__name__)


class TensorRtEngine:
    """A plan of either TensorRT, for as many threads as ask; each has a context, a stream and buffers to itself.

    Batches are filled up to the next batch size that is warm, and cut at the largest that the plan takes.

    Args:
        model: the reference graph; the one that the plan was built from lies beside it.
        spec: asks for `tensorrt` and a precision.
        compiled: directory of `engine.plan` and `engine.json`; default beside the graph.
        find: looks for the GPU.

    Raises:
        BundleRefused: the plan is not the one that was built, not for this machine, or the library does not take it;
            with the library's own reasons. A plan is not deserialised before everything else agreed.
    """

    def __init__(
        self,
        model: Path,
        spec: EngineSpec,
        *,
        compiled: Path | None = None,
        find: Callable[[], Gpu | NoGpu] = find_gpu,
    ) -> None:
        if spec.device != "cuda":
            raise BundleRefused(f"{spec}: TensorRT computes on a GPU, ask for the device cuda")
        self.plan, content = read_plan(model, spec, compiled)
        self.flavour = load_flavour(self.plan.fingerprint.flavour)
        gpu = check_machine(self.plan, self.flavour, find)
        self._spec = spec
        self._gpu = gpu
        self._cuda = Cuda()
        self._validity, self._runtime, self._engine = deserialize(self.flavour, content)
        if self.plan.refused:
            log.warning("engine_stepped_down", engine=str(spec), rung=self.plan.rung, refused=self.plan.refused)
        rtx = self.flavour.name == "tensorrt_rtx"
        self._kernels = KernelCache(self.flavour, cache_path(self.plan, gpu, compiled)) if rtx else None
        self._sizes = tuple(size for size in buckets(self.plan.profile.most) if size >= self.plan.profile.least)
        self._outputs = [name for name in _tensors(self._engine, self.flavour) if name not in OUTPUTS]
        self._lock = threading.Lock()
        self._idle: list[Lane] = []
        self._busy = 0
        self._refits = 0
        self._closed = False

    def infer(self, batch: Pixels) -> Stage1Outputs:
        """See `Engine.infer`.

        Raises:
            stage1.errors.OutputsError: the engine returned NaN or a wrong shape.
            InferenceError: the library or the GPU failed, or the engine is closed.
        """
        if batch.dtype != np.uint8 or batch.shape[1:] != (3, *self.plan.shape) or not len(batch):
            raise InferenceError(f"{self.flavour} failed on a batch of shape {batch.shape} and type {batch.dtype}")
        most = self._sizes[-1]
        parts = []
        with self._lane() as lane:
            for start in range(0, len(batch), most):
                found = lane.infer(batch[start : start + most])
                logits, select_score = (found[name] for name in OUTPUTS)
                heads = {name.removeprefix(HEAD_PREFIX): found[name] for name in self._outputs}
                parts.append(Stage1Outputs(logits, select_score, heads))
        return Stage1Outputs.concatenate(parts)

    def warm_up(self, most: int) -> None:
        """See `Engine.warm_up`; afterwards each batch size runs as a captured graph."""
        for size in self._sizes:
            batch = np.zeros((size, 3, *self.plan.shape), np.uint8)
            for _ in range(RUNS_BEFORE_CAPTURE + 1):
                self.infer(batch)
            if size >= most:
                break
        if self._kernels is not None:
            self._kernels.save()

    def close(self) -> None:
        """See `Engine.close`; what is still running ends first."""
        with self._lock:
            self._closed = True
            self._close_idle()
            if not self._busy:
                self._let_go()

    def takes(self, model: Path) -> bool:
        """See `Refittable.takes`."""
        try:
            check_refit(self.plan, PlanDescription.read(model.with_name(DESCRIPTION)))
        except (BundleRefused, ArtifactError):
            return False
        return True

    def refit(self, model: Path) -> None:
        """See `Refittable.refit`."""
        try:
            refit(self, twin(model, self.plan.precision))
        except BaseException:
            self.close()
            raise
        self._refits += 1

    def describe(self) -> EngineDescription:
        """See `Engine.describe`."""
        with self._lock:
            captured = sorted({size for lane in self._idle for size in lane.captured})
        details = {
            "gpu": self._gpu.name,
            "compute_capability": self._gpu.compute_capability,
            "driver": self._gpu.driver,
            "plan_sha256": self.plan.plan_sha256,
            "rung": self.plan.rung or "unknown",
            "products": " ".join(f"{kind}:{count}" for kind, count in self.plan.products.items()),
            "validity": self._validity,
            "captured": " ".join(map(str, captured)),
            "refits": str(self._refits),
            "error_lines": str(self.flavour.errors.total),
        }
        rung = (self.plan.rung or "") if self.plan.refused else ""
        return EngineDescription(self._spec, str(self.flavour), self.plan.shape, threads=1, details=details, rung=rung)

    @contextmanager
    def alone(self) -> Iterator[tuple[Any, Cuda]]:
        """The library's engine and the CUDA runtime while nobody else uses them; captured graphs are forgotten.

        Raises:
            InferenceError: it is in use, or closed.
        """
        with self._lock:
            if self._closed or self._busy:
                raise InferenceError("the engine is closed" if self._closed else "the engine is in use")
            self._close_idle()
            yield self._engine, self._cuda

    @contextmanager
    def _lane(self) -> Iterator[Lane]:
        with self._lock:
            if self._closed:
                raise InferenceError("the engine is closed")
            self._busy += 1
            lane = self._idle.pop() if self._idle else None
        usable = False
        try:
            lane = lane or Lane(self.flavour, self._engine, self._cuda, self._sizes, self._kernels)
            yield lane
            usable = True
        finally:
            self._give_back(lane if usable else None, broken=None if usable else lane)

    def _give_back(self, lane: Lane | None, broken: Lane | None) -> None:
        with self._lock:
            self._busy -= 1
            if lane is not None:
                self._idle.append(lane)
            # After an error a stream may be of no use any more: the next caller gets a fresh one.
            if broken is not None:
                broken.close()
            if self._closed:
                self._close_idle()
                if not self._busy:
                    self._let_go()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _let_go(self) -> None:
        """The engine before the runtime that made it."""
        self._engine = None
        self._runtime = None


def check_machine(plan: PlanDescription, flavour: Flavour, find: Callable[[], Gpu | NoGpu]) -> Gpu:
    """Refuse a plan that cannot run here, without showing it to the library.

    Raises:
        Unavailable: another version, another platform, no GPU, another GPU, or too little free memory on it.
    """
    built = plan.fingerprint
    without_gpu = built.differences(Fingerprint.here(flavour.name, flavour.version, None))
    if without_gpu:
        raise Unavailable(f"{PLAN} must be built anew for this machine: {', '.join(without_gpu)}")
    gpu = find()
    if isinstance(gpu, NoGpu):
        raise Unavailable(f"{flavour} needs a GPU, and there is none: {gpu.reason}")
    differences = built.differences(Fingerprint.here(flavour.name, flavour.version, gpu))
    if differences:
        raise Unavailable(f"{PLAN} must be built anew for this machine: {', '.join(differences)}")
    if gpu.free_bytes < plan.plan_size:
        raise Unavailable(f"{PLAN} needs {plan.plan_size} bytes on the {gpu.name}, which has {gpu.free_bytes} free")
    return gpu


def deserialize(flavour: Flavour, content: bytes) -> tuple[str, Any, Any]:
    """Have the library load a plan; the machine must have a GPU, or the process may end here.

    Returns:
        What the library says of the plan, the runtime, and the engine, which must not outlive the runtime.

    Raises:
        BundleRefused: it refuses.
    """
    trt = flavour.trt
    with flavour.errors.recorded() as lines:
        runtime = trt.Runtime(flavour.logger)
        runtime.error_recorder = flavour.recorder
        validity = check_validity(flavour, runtime, content, lines)
        engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise BundleRefused(f"{flavour} does not load {PLAN}: {'; '.join(lines) or 'it does not say why'}")
    return validity, runtime, engine


def check_validity(flavour: Flavour, runtime: Any, content: bytes, lines: list[str]) -> str:  # noqa: ANN401
    """What TensorRT-RTX says of a plan by its header alone; TensorRT has no such question.

    Raises:
        BundleRefused: it is not valid on this GPU.
    """
    if flavour.name != "tensorrt_rtx":
        return ""
    rtx = flavour.trt
    validity, why = runtime.get_engine_validity(content[: runtime.engine_header_size])
    if validity == rtx.EngineValidity.INVALID:
        names = [name for name, bit in rtx.EngineInvalidityDiagnostics.__members__.items() if int(why) & int(bit)]
        raise BundleRefused(f"{flavour}: {PLAN} is not valid on this GPU: {'; '.join([*names, *lines])}")
    return str(validity.name)


def _tensors(engine: Any, flavour: Flavour) -> list[str]:  # noqa: ANN401
    """Names of the outputs that are asked for."""
    trt = flavour.trt
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    return [name for name in outputs if not name.startswith(INNER)]
