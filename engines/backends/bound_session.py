"""An ONNX Runtime session on a GPU: inputs and outputs stay where they are, and batches have few sizes.

A batch is filled up to the next of `engines.batches.BUCKETS`, and cut at the largest: so the sizes that an engine is
warmed up and compared with its golden images at are all that it ever runs, and no request waits for a kernel to be
chosen or compiled for a size of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.batches import BUCKETS, bucket_of, filled_up, run_at_buckets
from engines.engine import INPUT, EngineDescription
from engines.errors import InferenceError
from engines.signature import Port, checked_shape, named_outputs
from engines.spec import EngineSpec
from stage1.outputs import Floats, Stage1Outputs
from stage1.preprocess import Pixels, Shape
from stage1.telemetry import without_telemetry

if TYPE_CHECKING:
    import onnxruntime as ort
else:
    ort = without_telemetry("onnxruntime")


@dataclass
class _Lane:
    """Buffers of one thread at a time, for each batch size.

    Attributes:
        device: where they are, as ONNX Runtime calls it.
    """

    session: Any
    shape: Shape
    outputs: dict[str, tuple[int, ...]]
    device: str
    _bound: dict[int, tuple[Any, Any, list[Any]]] = field(default_factory=dict)

    def run(self, batch: Pixels) -> list[Floats]:
        size = bucket_of(len(batch))
        if size not in self._bound:
            self._bound[size] = self._bind(size)
        binding, given, made = self._bound[size]
        given.update_inplace(filled_up(batch, size))
        self.session.run_with_iobinding(binding)
        # What is on the CPU already is the buffer itself, which the next batch is written to.
        return [np.array(value.numpy()[: len(batch)]) for value in made]

    def _bind(self, size: int) -> tuple[Any, Any, list[Any]]:
        make = ort.OrtValue.ortvalue_from_shape_and_type
        given = make((size, 3, *self.shape), np.uint8, self.device, 0)
        made = [make((size, *rest), np.float32, self.device, 0) for rest in self.outputs.values()]
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(INPUT, given)
        for name, value in zip(self.outputs, made, strict=True):
            binding.bind_ortvalue_output(name, value)
        return binding, given, made


class BoundEngine:
    """A session with buffers of its own for each thread that asks.

    Args:
        session: an `InferenceSession`.
        spec: what was asked for.
        name: how to name the graph in an error.
        device: of the buffers: `cuda`, or `cpu` where the provider copies by itself.
        details: what else decides its numbers.

    Raises:
        BundleRefused: inputs and outputs are not those of a Stage-1.
    """

    def __init__(
        self,
        session: Any,  # noqa: ANN401  it has no types
        spec: EngineSpec,
        *,
        name: str,
        device: str,
        details: dict[str, str],
    ) -> None:
        inputs = [Port(port.name, port.type, tuple(port.shape)) for port in session.get_inputs()]
        outputs = {port.name: tuple(port.shape[1:]) for port in session.get_outputs()}
        self._shape = checked_shape(name, inputs, list(outputs), kind="tensor(uint8)")
        self._outputs = outputs
        self._session: Any = session
        self._device = device
        self._idle: deque[_Lane] = deque()
        self._description = EngineDescription(spec, f"onnxruntime {ort.__version__}", self._shape, 1, details)

    def infer(self, batch: Pixels) -> Stage1Outputs:
        """See `Engine.infer`.

        Raises:
            stage1.errors.OutputsError: the engine returned NaN or a wrong shape.
            InferenceError: the runtime or the GPU failed, or the engine is closed.
        """
        session = self._session
        if session is None:
            raise InferenceError("the engine is closed")
        if batch.dtype != np.uint8 or batch.shape[1:] != (3, *self._shape) or not len(batch):
            raise InferenceError(f"ONNX Runtime failed on a batch of shape {batch.shape} and type {batch.dtype}")
        try:
            lane = self._idle.pop()
        except IndexError:
            lane = _Lane(session, self._shape, self._outputs, self._device)
        parts = []
        try:
            for start in range(0, len(batch), BUCKETS[-1]):
                some = batch[start : start + BUCKETS[-1]]
                parts.append(named_outputs(list(self._outputs), lane.run(some), rows=len(some)))
        except RuntimeError as error:  # ONNX Runtime raises a dozen types, all of this one
            raise InferenceError(f"ONNX Runtime failed on a batch of shape {batch.shape}: {error}") from error
        # One that failed is not used again.
        self._idle.append(lane)
        return Stage1Outputs.concatenate(parts)

    def warm_up(self, most: int) -> None:
        """See `Engine.warm_up`."""
        run_at_buckets(self, self._shape, most)

    def close(self) -> None:
        """See `Engine.close`; the memory of the GPU goes with the last buffer."""
        self._session = None
        self._idle.clear()

    def describe(self) -> EngineDescription:
        """See `Engine.describe`."""
        return self._description
