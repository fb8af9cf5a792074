"""One way through a TensorRT engine: a stream, buffers, and a context for each batch size.

Never executed by us: there was no GPU.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.backends.tensorrt.cuda import Buffer, Cuda, capture
from engines.backends.tensorrt.fusion import INNER
from engines.backends.tensorrt.kernel_cache import KernelCache
from engines.backends.tensorrt.library import Flavour
from engines.batches import bucket_of
from engines.engine import INPUT
from engines.errors import InferenceError
from stage1.preprocess import Pixels

# The first run at a shape compiles and allocates, which must not happen inside a capture.
RUNS_BEFORE_CAPTURE = 2
# Two captures at once disturb each other, also those of two engines.
_CAPTURING = threading.Lock()


@dataclass
class _Bucket:
    """What runs batches of one size; a captured graph is true of one context at one shape."""

    context: Any
    runs: int = 0
    graph: int | None = None
    capturable: bool = True


class Lane:
    """For one thread at a time; the batches of one lane run one after another.

    Args:
        flavour: the library.
        engine: `ICudaEngine`; must outlive the lane.
        cuda: the runtime.
        sizes: batch sizes, ascending.
        kernels: what contexts of TensorRT-RTX share and keep; None to make kernels anew.
    """

    def __init__(
        self,
        flavour: Flavour,
        engine: Any,  # noqa: ANN401
        cuda: Cuda,
        sizes: tuple[int, ...],
        kernels: KernelCache | None = None,
    ) -> None:
        self._kernels = kernels
        self._flavour, self._engine, self._cuda, self._sizes = flavour, engine, cuda, sizes
        self._buckets: dict[int, _Bucket] = {}
        self._buffers: dict[str, Buffer] = {}
        self._scratch: int | None = None
        self._stream: int | None = None
        try:
            # On the default stream the library waits for the whole device.
            self._stream = int(cuda.call("cudaStreamCreateWithFlags", cuda.api.cudaStreamNonBlocking))
            self._scratch = int(cuda.call("cudaMalloc", max(engine.device_memory_size_v2, 256)))
            for index in range(engine.num_io_tensors):
                name = engine.get_tensor_name(index)
                shape = (sizes[-1], *tuple(engine.get_tensor_shape(name))[1:])
                self._buffers[name] = Buffer(cuda, shape, np.uint8 if name == INPUT else np.float32)
        except BaseException:
            self.close()
            raise

    @property
    def captured(self) -> list[int]:
        """Batch sizes that run as a captured graph."""
        return [size for size, bucket in self._buckets.items() if bucket.graph is not None]

    def infer(self, batch: Pixels) -> dict[str, NDArray[np.float32]]:
        """Outputs by name for at most as many images as the largest batch size.

        Raises:
            InferenceError: the library or the GPU failed.
        """
        count = len(batch)
        size = bucket_of(count, self._sizes)
        self._buffers[INPUT].array[:count] = batch
        with self._flavour.errors.recorded() as lines:
            try:
                self._run(size)
            except InferenceError as error:
                told = "; ".join([str(error), *lines])
                raise InferenceError(f"{self._flavour} failed on {size} images: {told}") from error
        return {name: buffer.array[:count].copy() for name, buffer in self._buffers.items() if _is_asked_for(name)}

    def close(self) -> None:
        """Free everything, the youngest first."""
        if self._stream is not None:
            self._cuda.release("cudaStreamSynchronize", self._stream)
        for bucket in self._buckets.values():
            if bucket.graph is not None:
                self._cuda.release("cudaGraphExecDestroy", bucket.graph)
        self._buckets.clear()
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers.clear()
        if self._scratch is not None:
            self._cuda.release("cudaFree", self._scratch)
        if self._stream is not None:
            self._cuda.release("cudaStreamDestroy", self._stream)
        self._scratch = self._stream = None

    def _run(self, size: int) -> None:
        bucket = self._buckets.get(size)
        if bucket is None:
            bucket = self._buckets[size] = _Bucket(self._context(size))
        if bucket.graph is None and bucket.capturable and bucket.runs >= RUNS_BEFORE_CAPTURE:
            self._capture(bucket, size)
        if bucket.graph is None:
            self._enqueue(bucket.context, size)
        else:
            self._cuda.call("cudaGraphLaunch", bucket.graph, self._stream_id)
        self._cuda.call("cudaStreamSynchronize", self._stream_id)
        bucket.runs += 1

    def _capture(self, bucket: _Bucket, size: int) -> None:
        try:
            with _CAPTURING:
                bucket.graph = capture(self._cuda, self._stream_id, lambda: self._enqueue(bucket.context, size))
        except InferenceError as error:
            # It runs as it is, only slower; `captured` tells.
            bucket.capturable = False
            self._flavour.errors.add(f"batches of {size} cannot be captured: {error}")

    def _enqueue(self, context: Any, size: int) -> None:  # noqa: ANN401
        self._buffers[INPUT].upload(size, self._stream_id)
        if not context.execute_async_v3(self._stream_id):
            raise InferenceError("execute_async_v3 returned False")
        for name, buffer in self._buffers.items():
            if _is_asked_for(name):
                buffer.download(size, self._stream_id)

    def _context(self, size: int) -> Any:  # noqa: ANN401
        """A context at one shape; all of a lane share the scratch memory, because they never run at once."""
        context = new_context(self._flavour, self._engine, self._kernels)
        if context is None:
            raise InferenceError("the library made no execution context")
        context.error_recorder = self._flavour.recorder
        context.set_device_memory(self._scratch, self._engine.device_memory_size_v2)
        shape = (size, *self._buffers[INPUT].array.shape[1:])
        if not context.set_input_shape(INPUT, shape) or context.infer_shapes():
            raise InferenceError(f"the engine does not take the shape {shape}")
        for name, buffer in self._buffers.items():
            if not context.set_tensor_address(name, buffer.device):
                raise InferenceError(f"the engine does not take an address for {name}")
        return context

    @property
    def _stream_id(self) -> int:
        if self._stream is None:
            raise InferenceError("the lane is closed")
        return self._stream


def _is_asked_for(name: str) -> bool:
    # What keeps an attention unfused is written, and read by nobody; its numbers may be shorter than fp32.
    return name != INPUT and not name.startswith(INNER)


def new_context(flavour: Flavour, engine: Any, kernels: KernelCache | None = None) -> Any:  # noqa: ANN401
    """An execution context without memory of its own."""
    trt = flavour.trt
    if flavour.name == "tensorrt":
        return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    rtx, settings = trt, engine.create_runtime_config()
    settings.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    # By default kernels for a shape are made beside the first runs, and a graph would keep the slow ones for ever.
    settings.dynamic_shapes_kernel_specialization_strategy = rtx.DynamicShapesKernelSpecializationStrategy.EAGER
    if kernels is not None:
        kernels.attach(settings)
    return engine.create_execution_context(settings)
