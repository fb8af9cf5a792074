"""What a library says that it built: lists that TensorRT-RTX 1.7.1 wrote here, and the inspector's JSON of the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from engines.backends.tensorrt.layers import (
    check_built,
    fused_attentions,
    layers_of_inspector,
    layers_of_log,
    products_by_type,
)
from engines.backends.tensorrt.library import LayerListing
from engines.errors import BuildFailed
from engines.spec import Precision

LISTED = {name: Path(__file__).with_name(f"layers_{name}.txt").read_text() for name in ("fp32", "bf16")}
PORT = re.compile(r"\{ Name: (.*?), Dimensions: .*?, Datatype: (\w+), Format: (.*?) \}")
LINE = re.compile(r"Name: (.*?), LayerType: (.*?), Inputs: \[(.*?)\], Constants: ")


def in_json(listed: str, *, older: bool) -> str:
    """The same list as an inspector writes it: older releases name the type in `Format/Datatype`."""
    layers = []
    for line in listed.splitlines():
        if match := LINE.match(line):
            ports = [
                {"Name": name, "Format/Datatype": kind} if older else {"Name": name, "Datatype": kind, "Format": form}
                for name, kind, form in PORT.findall(match[3])
            ]
            layers.append({"Name": match[1], "LayerType": match[2], "Inputs": ports, "Outputs": []})
    return json.dumps({"Layers": layers, "Bindings": ["image", "logits"]})


def test_a_build_in_bf16_multiplies_in_bf16_but_for_the_heads() -> None:
    layers = layers_of_log(LISTED["bf16"])
    assert products_by_type(layers) == {"bf16": 11, "fp32": 5}
    assert fused_attentions(layers) == 2


def test_a_build_in_fp32_multiplies_in_nothing_else() -> None:
    layers = layers_of_log(LISTED["fp32"])
    assert list(products_by_type(layers)) == ["fp32"]
    assert fused_attentions(layers) == 0


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_inspector_says_the_same_as_the_log(precision: str, *, older: bool) -> None:
    assert layers_of_inspector(in_json(LISTED[precision], older=older)) == layers_of_log(LISTED[precision])


@pytest.mark.parametrize(
    ("told", "kind"), [("Half", "fp16"), ("Row major linear FP16 format", "fp16"), ("Int8", "int8")]
)
def test_types_by_their_other_names(told: str, kind: str) -> None:
    layer = {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Name": "x", "Format/Datatype": told}]}
    assert products_by_type(layers_of_inspector(json.dumps({"Layers": [layer]}))) == {kind: 1}


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"Layers": ["only a name"]}', '{"Layers": []}'])
def test_an_inspector_that_tells_names_alone_or_nothing_says_nothing(text: str) -> None:
    assert layers_of_inspector(text) == []


def test_what_multiplies_no_numbers_counts_for_nothing() -> None:
    shapes = [{"Name": "gemm", "LayerType": "gemm", "Inputs": [{"Name": "x", "Datatype": "Int64"}]}]
    assert products_by_type(layers_of_inspector(json.dumps({"Layers": shapes}))) == {}


@pytest.mark.parametrize(
    ("products", "precision"),
    [({}, "bf16"), ({}, "fp32"), ({"fp32": 20}, "fp32"), ({"bf16": 13, "fp32": 5}, "bf16")],
)
def test_what_was_asked_for_passes(products: dict[str, int], precision: Precision) -> None:
    check_built(products, precision, "model.onnx")


@pytest.mark.parametrize(
    ("products", "precision", "told"),
    [
        ({"fp32": 18}, "bf16", "asked for bf16, and the products that were built are 18 in fp32"),
        ({"fp32": 9, "bf16": 9}, "bf16", "9 in fp32, 9 in bf16"),
        ({"bf16": 13, "fp16": 1}, "bf16", "1 in fp16"),
        ({"fp32": 17, "fp16": 1}, "fp32", "asked for fp32"),
        ({"bf16": 18}, "fp32", "18 in bf16"),
    ],
)
def test_another_precision_is_refused(products: dict[str, int], precision: Precision, told: str) -> None:
    with pytest.raises(BuildFailed, match=told):
        check_built(products, precision, "model.onnx")


def test_a_listing_is_kept_once() -> None:
    listing = LayerListing()
    for message in ("Total Weights Memory: 1", "Layers:\nName: a", "Adding 1 engine(s) to plan file."):
        listing.add(message)
    assert listing.taken() == "Layers:\nName: a"
    assert listing.taken() == ""
