"""What every engine takes and returns, whichever runtime computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.engine import HEAD_PREFIX, INPUT, OUTPUTS
from engines.errors import BundleRefused, InferenceError
from stage1.outputs import Floats, Stage1Outputs
from stage1.preprocess import Shape


@dataclass(frozen=True)
class Port:
    """An input as a runtime tells it.

    Attributes:
        name: in the graph.
        kind: the runtime's word for its type.
        shape: a number for each fixed dimension, something else for one that is not.
    """

    name: str
    kind: str
    shape: tuple[object, ...]


def checked_shape(file: str, inputs: Sequence[Port], outputs: Sequence[str], *, kind: str) -> Shape:
    """Height and width of the images that a graph takes, px.

    Args:
        file: how to name the graph in an error.
        inputs: its inputs.
        outputs: names of its outputs, in order.
        kind: the runtime's word for uint8.

    Raises:
        BundleRefused: the inputs and outputs are not those of a Stage-1.
    """
    found = [port.name for port in inputs], list(outputs)
    heads = [output for output in outputs if output.startswith(HEAD_PREFIX)]
    if found != ([INPUT], [*OUTPUTS, *heads]):
        raise BundleRefused(f"{file}: inputs and outputs are {found}, expected {([INPUT], [*OUTPUTS, *heads])}")
    port = inputs[0]
    match port.shape:
        case (_, 3, int(height), int(width)) if port.kind == kind:
            return height, width
    raise BundleRefused(f"{file}: the input is {port.kind} {list(port.shape)}, expected {kind} [N, 3, H, W]")


def named_outputs(names: Sequence[str], values: Sequence[Floats], *, rows: int) -> Stage1Outputs:
    """What a runtime returned, by the names that `checked_shape` has seen.

    Args:
        names: of the outputs.
        values: the outputs.
        rows: images that were asked about.

    Raises:
        stage1.errors.OutputsError: there are NaN or wrong shapes among them.
        InferenceError: there are more or fewer answers than images.
    """
    logits, select_score, *heads = (np.asarray(value) for value in values)
    named = {name.removeprefix(HEAD_PREFIX): head for name, head in zip(names[2:], heads, strict=True)}
    outputs = Stage1Outputs(logits, select_score, named)
    # OpenVINO computes on where a shape does not fit.
    if len(outputs) != rows:
        raise InferenceError(f"the engine failed on a batch of {rows} images: it answered {len(outputs)}")
    return outputs
