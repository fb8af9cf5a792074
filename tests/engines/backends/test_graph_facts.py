"""Facts of the field that an export must not break, on what this program exports and on graphs that break one each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.backends.graph_facts import Graph, broken_facts

BLOCKS = 3
Nodes = list[onnx.NodeProto]


def facts(path: Path) -> list[str]:
    return [broken.fact for broken in broken_facts(path)]


def weight(name: str, *shape: int, kind: int = TensorProto.FLOAT) -> onnx.TensorProto:
    values: NDArray[np.float32] = np.ones(shape, np.float32)
    if kind == TensorProto.FLOAT:
        return numpy_helper.from_array(values, name)
    return helper.make_tensor(name, kind, shape, values.ravel().tolist())


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a graph of some nodes, from `x` to `y`."""

    def written(nodes: Nodes, *weights: onnx.TensorProto, opset: int = 20) -> Path:
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
        graph = helper.make_graph(nodes, "some", ports[:1], ports[1:], list(weights))
        path = tmp_path / "some.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), str(path))
        return path

    return written


def block(*between: onnx.NodeProto, norms: int = 3) -> Nodes:
    """An attention of `q`, `k` and `v`, with what stands between the product and the softmax, from `s` to `t`."""
    made = [
        helper.make_node("LayerNormalization", ["x" if n == 0 else f"n{n}", "w"], [f"n{n + 1}"]) for n in range(norms)
    ]
    made += [helper.make_node("MatMul", [f"n{norms}", "w2"], [name], name=name) for name in ("q", "k", "v")]
    made += [helper.make_node("MatMul", ["q", "k"], ["s"], name="product")]
    made += between or [helper.make_node("Identity", ["s"], ["t"])]
    return [
        *made,
        helper.make_node("Softmax", ["t"], ["p"], name="softmax"),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]


WEIGHTS = (weight("w", 4), weight("w2", 4, 4), weight("scale"))


def test_the_export_of_a_dinov3_breaks_none(small_dinov3: Path) -> None:
    graph = Graph(small_dinov3)
    assert broken_facts(small_dinov3) == []
    assert len(graph.attentions) == BLOCKS
    assert len(graph.of("LayerNormalization")) >= 2 * BLOCKS + 1
    assert graph.of("Gelu")
    assert graph.of("Erf", "Sqrt", "ReduceMean", "Pow") == []


def test_the_two_sides_of_a_product_are_scaled_before_it(small_dinov3: Path) -> None:
    graph = Graph(small_dinov3)
    for softmax, _ in graph.attentions:
        product = graph.maker(softmax.input[0])
        assert product.op_type == "MatMul"
        assert [graph.maker(side).op_type for side in product.input] == ["Mul", "Mul"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_export_of_a_dinov2_has_two_norms_a_block_and_one_behind(tmp_path: Path, precision: str) -> None:
    """And the heads have theirs, as the network has them: 2 L + 1, none of them in single steps."""
    torch = pytest.importorskip("torch")
    from offline.certify.onnx_export import export_bf16, export_onnx  # noqa: PLC0415
    from stage1.model.backbones import build  # noqa: PLC0415
    from stage1.model.settings import ModelSettings, PretrainedBackbone  # noqa: PLC0415

    config = {
        "model_type": "dinov2",
        "hidden_size": 32,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": 32,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = ModelSettings(backbone=PretrainedBackbone(name=str(tmp_path)), last_layers=None)
    net = build(settings, shape=(32, 32), seed=0).eval()
    norms = [name for name, module in net.named_modules() if isinstance(module, torch.nn.LayerNorm)]
    assert sum("backbone" in name for name in norms) == 2 * BLOCKS + 1
    path = tmp_path / "model.onnx"
    (export_onnx if precision == "fp32" else export_bf16)(net, path, (32, 32))
    assert broken_facts(path) == []
    assert len(Graph(path).attentions) == BLOCKS
    assert len(Graph(path).of("LayerNormalization")) == len(norms)


def test_a_block_with_its_norms_breaks_none(write: Callable[..., Path]) -> None:
    assert facts(write(block(), *WEIGHTS)) == []
    mask = helper.make_node("Add", ["s", "w2"], ["t"])
    assert facts(write(block(mask), *WEIGHTS)) == []


@pytest.mark.parametrize("opset", [17, 18, 23])
def test_another_opset_is_told(write: Callable[..., Path], opset: int) -> None:
    assert facts(write(block(), *WEIGHTS, opset=opset)) == ["opset"]


@pytest.mark.parametrize("kind", ["Mul", "Div"])
def test_a_scale_behind_the_product_is_told_with_its_place(write: Callable[..., Path], kind: str) -> None:
    late = [helper.make_node(kind, ["s", "scale"], ["u"]), helper.make_node("Add", ["u", "w2"], ["t"])]
    (broken,) = broken_facts(write(block(*late), *WEIGHTS))
    assert str(broken) == "scale_before_product: softmax and 0 more scale the product of queries and keys"


def test_an_attention_in_one_operator_is_told(write: Callable[..., Path]) -> None:
    whole = [helper.make_node("Attention", ["x", "x", "x"], ["y"], name="whole")]
    assert facts(write(whole, opset=23)) == ["opset", "primitive_attention"]


def test_a_norm_in_single_steps_is_told(write: Callable[..., Path]) -> None:
    steps = [
        helper.make_node("ReduceMean", ["x"], ["mean"]),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["squared"]),
        helper.make_node("ReduceMean", ["squared"], ["variance"]),
        helper.make_node("Add", ["variance", "scale"], ["above"]),
        helper.make_node("Sqrt", ["above"], ["root"], name="root"),
        helper.make_node("Div", ["centred", "root"], ["y"]),
    ]
    (broken,) = broken_facts(write(steps, weight("scale")))
    assert (broken.fact, broken.found) == ("native_norms", "root and 0 more are norms in single steps")


def test_a_root_of_something_else_is_no_norm(write: Callable[..., Path]) -> None:
    assert facts(write([helper.make_node("Sqrt", ["x"], ["y"])])) == []


def test_a_block_with_too_few_norms_is_told(write: Callable[..., Path]) -> None:
    (broken,) = broken_facts(write(block(norms=2), *WEIGHTS))
    assert (broken.fact, broken.found) == ("native_norms", "1 blocks with 2 norms, 3 at least are expected")


@pytest.mark.parametrize(
    ("opset", "kind", "told"),
    [(20, TensorProto.BFLOAT16, True), (22, TensorProto.BFLOAT16, False), (20, TensorProto.FLOAT, False)],
)
def test_a_convolution_in_bf16_that_the_standard_does_not_have_is_told(
    write: Callable[..., Path], opset: int, kind: int, *, told: bool
) -> None:
    path = write(
        [helper.make_node("Conv", ["x", "c"], ["y"], name="conv")], weight("c", 4, 3, 2, 2, kind=kind), opset=opset
    )
    assert facts(path) == (["no_early_bf16_convolution"] if told else [])
