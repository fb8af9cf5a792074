"""`config.pbtxt`: what Triton has to know of a Stage-1.

Reference:
    Triton Inference Server, `model_configuration.md`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engines.batches import buckets
from engines.engine import INPUT, OUTPUTS

TritonBackend = Literal["onnxruntime", "tensorrt", "python"]
MARK = "# cascade: "
WARM_UP, WARM_UP_IMAGE = "warmup", "golden"
# While a batch runs, company costs less than a batch of one; as `engine.batch.max_delay_s` of a miner.
DELAY_US = 2000
# What each backend reads in the directory of a version.
MODEL_FILES: dict[TritonBackend, str] = {"onnxruntime": "model.onnx", "tensorrt": "model.plan", "python": "model.py"}


class Interface(BaseModel):
    """What a model takes and gives, and who computes it; every version of one model has the same.

    Attributes:
        backend: of Triton.
        image: channels, height and width of an image, px.
        outputs: numbers of each image, by output.
        max_batch: images of the largest batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: TritonBackend
    image: tuple[int, int, int]
    outputs: dict[str, int]
    max_batch: int = Field(ge=1)

    @classmethod
    def of(cls, text: str) -> Interface | None:
        """That of a `config_text`; None if it is no text of ours."""
        line = next((line for line in text.splitlines() if line.startswith(MARK)), None)
        try:
            return None if line is None else cls.model_validate_json(line.removeprefix(MARK))
        except ValidationError:
            return None


def config_text(model: str, interface: Interface, *, warm_up: bool = True) -> str:
    """The file.

    Args:
        model: its name.
        interface: what it takes and gives.
        warm_up: whether a golden image lies beside it, which Triton computes before a version counts as ready.
    """
    dims = ", ".join(map(str, interface.image))
    port = f"data_type: TYPE_UINT8 dims: [ {dims} ]"
    batches = buckets(interface.max_batch)
    parts = [
        MARK + json.dumps(interface.model_dump(mode="json")),
        f'name: "{model}"',
        f'backend: "{interface.backend}"',
        f"max_batch_size: {interface.max_batch}",
        f'input [ {{ name: "{INPUT}" {port} }} ]',
        *(_output(name, numbers) for name, numbers in interface.outputs.items()),
        # Every version is a bundle, and every miner asks for its own.
        "version_policy { all { } }",
        "instance_group [ { kind: KIND_AUTO count: 1 } ]",
        _batching(batches),
        *((_warm_up(size, port) for size in sorted({1, interface.max_batch})) if warm_up else ()),
    ]
    return "\n".join(parts) + "\n"


def _output(name: str, numbers: int) -> str:
    # A graph gives one number an image as a vector, and in a batch Triton knows no empty shape.
    reshaped = " reshape { shape: [ ] }" if name == OUTPUTS[1] else ""
    return f'output [ {{ name: "{name}" data_type: TYPE_FP32 dims: [ {numbers} ]{reshaped} }} ]'


def _batching(batches: Sequence[int]) -> str:
    sizes = ", ".join(map(str, batches))
    return f"dynamic_batching {{ preferred_batch_size: [ {sizes} ] max_queue_delay_microseconds: {DELAY_US} }}"


def _warm_up(size: int, port: str) -> str:
    image = f'{{ key: "{INPUT}" value {{ {port} input_data_file: "{WARM_UP_IMAGE}" }} }}'
    return f'model_warmup [ {{ name: "golden-{size}" batch_size: {size} inputs {image} }} ]'
