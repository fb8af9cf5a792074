"""The CUDA runtime through NVIDIA's own bindings, without torch: memory, streams and captured graphs.

None of it has been run by us on a GPU.
"""

from __future__ import annotations

import ctypes
import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from engines.errors import BundleRefused, InferenceError


class Cuda:
    """`cuda.bindings.runtime`, with errors as exceptions.

    Args:
        api: the module, or what stands in for it.

    Raises:
        BundleRefused: it is not installed.
    """

    def __init__(self, api: Any = None) -> None:  # noqa: ANN401  the bindings have no types
        try:
            self.api: Any = api or importlib.import_module("cuda.bindings.runtime")
        except (ImportError, OSError) as error:
            raise BundleRefused(f"cuda-bindings is missing ({error}): pip install cuda-bindings") from error

    def call(self, function: str, *arguments: object) -> Any:  # noqa: ANN401
        """Call by name.

        Returns:
            What the function returns beside its status; None for nothing.

        Raises:
            InferenceError: the status is not success.
        """
        status, *values = getattr(self.api, function)(*arguments)
        if int(status):
            raise InferenceError(f"{function} failed: {status.name}")
        return values[0] if values else None

    def release(self, function: str, *arguments: object) -> None:
        """As `call`, for what frees: a GPU that failed says so at every call, and there is nothing left to do."""
        getattr(self.api, function)(*arguments)


class Buffer:
    """Memory of one tensor on the GPU, and page-locked beside it on the host.

    Args:
        cuda: the runtime.
        shape: of the largest batch.
        dtype: of an element.

    Attributes:
        device: address on the GPU.
        array: the host's side, of that shape.
    """

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._cuda = cuda
        size = math.prod(shape) * np.dtype(dtype).itemsize
        self.device: int = cuda.call("cudaMalloc", size)
        try:
            self._host: int = cuda.call("cudaMallocHost", size)
        except InferenceError:
            cuda.release("cudaFree", self.device)
            raise
        view = (ctypes.c_uint8 * size).from_address(self._host)
        self.array: NDArray[Any] = np.ctypeslib.as_array(view).view(dtype).reshape(shape)

    def upload(self, count: int, stream: int) -> None:
        """Begin to copy the first `count` rows to the GPU."""
        self._copy(self.device, self._host, count, self._cuda.api.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)

    def download(self, count: int, stream: int) -> None:
        """Begin to copy the first `count` rows to the host."""
        self._copy(self._host, self.device, count, self._cuda.api.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)

    def close(self) -> None:
        """Free both sides; nothing may be using them."""
        self._cuda.release("cudaFree", self.device)
        self._cuda.release("cudaFreeHost", self._host)

    def _copy(self, to: int, source: int, count: int, kind: object, stream: int) -> None:
        size = self.array[:count].nbytes
        self._cuda.call("cudaMemcpyAsync", to, source, size, kind, stream)


def capture(cuda: Cuda, stream: int, work: Callable[[], None]) -> int:
    """Record what `work` puts on a stream, without running it.

    Returns:
        A graph that `cudaGraphLaunch` runs.

    Raises:
        InferenceError: something in it cannot be captured; the stream is usable afterwards.
    """
    # Other threads go on with their own streams meanwhile.
    cuda.call("cudaStreamBeginCapture", stream, cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
    try:
        work()
    except InferenceError:
        _, broken = cuda.api.cudaStreamEndCapture(stream)
        if broken:
            cuda.release("cudaGraphDestroy", broken)
        raise
    graph = cuda.call("cudaStreamEndCapture", stream)
    try:
        return int(cuda.call("cudaGraphInstantiate", graph, 0))
    finally:
        cuda.release("cudaGraphDestroy", graph)
