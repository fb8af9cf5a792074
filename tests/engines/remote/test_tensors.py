"""Tensors of the Open Inference Protocol as bytes."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from engines.errors import RemoteError
from engines.remote.inference_server import ModelMetadata
from engines.remote.tensors import Tensor, files, pixels, read_reply, request_body
from stage2_bridge.servers.language.answers import Completion

PHOTOGRAPHS = (b"\xff\xd8 one", b"", bytes(range(256)))


@pytest.mark.parametrize("name", ["image", 'an "odd" name \\ ü'])
@pytest.mark.parametrize("shape", [None, (3, 1)])
def test_files_in_json_are_base64_and_say_so(name: str, shape: tuple[int, ...] | None) -> None:
    body, length = request_body([files(name, PHOTOGRAPHS, shape)], ["p", name], binary=False)
    assert length is None
    assert json.loads(body) == {
        "inputs": [
            {
                "name": name,
                "datatype": "BYTES",
                "shape": list(shape or (3,)),
                "parameters": {"content_type": "base64"},
                "data": [base64.b64encode(one).decode() for one in PHOTOGRAPHS],
            }
        ],
        "outputs": [{"name": "p"}, {"name": name}],
    }


def test_several_inputs_in_json_have_their_own_numbers() -> None:
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    scale = Tensor("scale", "FP32", (2,), (np.array([0.5, 2.0], "<f4").tobytes(),))
    found = json.loads(request_body([pixels("image", images), scale], [], binary=False)[0])
    assert found == {
        "inputs": [
            {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": list(range(12))},
            {"name": "scale", "datatype": "FP32", "shape": [2], "data": [0.5, 2.0]},
        ],
        "outputs": [],
    }


def test_files_behind_the_json_have_their_lengths_before_them() -> None:
    body, length = request_body([files("image", PHOTOGRAPHS)], ["p"], binary=True)
    assert length is not None
    told = json.loads(body[:length])["inputs"][0]
    assert told["parameters"] == {"binary_data_size": len(body) - length}
    assert body[length:] == b"".join(len(one).to_bytes(4, "little") + one for one in PHOTOGRAPHS)


def test_a_reply_whose_items_are_all_wrong_is_refused_at_the_first() -> None:
    with pytest.raises(RemoteError, match=r"outputs\.0") as told:
        read_reply(json.dumps({"outputs": [1] * 1000}).encode(), None, ["p"])
    cause = told.value.__cause__
    assert isinstance(cause, ValidationError)
    assert cause.error_count() == 1


@pytest.mark.parametrize(
    ("model", "reply"),
    [
        (ModelMetadata, {"name": "m", "versions": [1] * 1000}),
        (ModelMetadata, {"name": "m", "inputs": [1] * 1000}),
        (Completion, {"choices": [1] * 1000}),
        (Completion, {"choices": [{"logprobs": {"content": [1] * 1000}}]}),
    ],
)
def test_so_is_what_a_model_says_of_itself_and_what_it_says(model: type[BaseModel], reply: object) -> None:
    with pytest.raises(ValidationError) as told:
        model.model_validate_json(json.dumps(reply))
    assert told.value.error_count() <= 2


@pytest.mark.parametrize(
    "output",
    [
        {"name": "p", "shape": [10**1000] * 30},
        {"name": "p", "shape": [0, *[10**1000] * 30]},
        {"name": "p", "shape": [1] * 1000},
        {"name": "n" * 10_000, "shape": [-1]},
    ],
)
def test_an_error_about_a_reply_is_short_and_multiplies_no_huge_numbers(output: dict[str, object]) -> None:
    content = json.dumps({"outputs": [output | {"datatype": "FP32", "data": [0.5]}]}).encode()
    with pytest.raises(RemoteError) as told:
        read_reply(content, None, ["p"])
    assert len(str(told.value)) < 300
