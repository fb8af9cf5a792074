"""Tensors of the Open Inference Protocol as bytes."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from engines.remote.tensors import Tensor, files, pixels, request_body

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
