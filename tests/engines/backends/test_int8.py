from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.backends.int8 import quantise_dynamic
from engines.backends.onnxruntime import OnnxEngine
from engines.errors import BundleRefused
from engines.spec import EngineSpec

INT8 = EngineSpec(precision="int8")


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory, small_dinov3: Path) -> Path:
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    quantise_dynamic(small_dinov3, path)
    return path


def test_answers_are_near_those_of_the_source(
    quantised: Path, small_dinov3: Path, photographs: NDArray[np.uint8]
) -> None:
    engine, reference = OnnxEngine(quantised, INT8), OnnxEngine(small_dinov3)
    ours, theirs = engine.infer(photographs), reference.infer(photographs)
    scale = np.abs(theirs.logits).max()
    assert 0 < np.abs(ours.logits - theirs.logits).max() < 0.1 * scale
    assert list(ours.heads) == ["works"]
    assert quantised.stat().st_size < 0.75 * small_dinov3.stat().st_size


def test_an_answer_does_not_depend_on_who_else_asks(quantised: Path, photographs: NDArray[np.uint8]) -> None:
    engine = OnnxEngine(quantised, INT8)
    alone = np.concatenate([engine.infer(photographs[row : row + 1]).logits for row in range(8)])
    assert np.array_equal(engine.infer(photographs[:8]).logits, alone)
    # In the graph itself it does.
    session = ort.InferenceSession(str(quantised), providers=["CPUExecutionProvider"])
    assert not np.allclose(session.run(["logits"], {"image": photographs[:8]})[0], alone, rtol=0, atol=1e-5)


def test_only_products_with_weights_are_quantised(quantised: Path, small_dinov3: Path) -> None:
    made = [node.op_type for node in onnx.load(quantised).graph.node]
    source = [node.op_type for node in onnx.load(small_dinov3).graph.node]
    assert "MatMulInteger" in made
    assert "ConvInteger" not in made
    assert made.count("Softmax") == source.count("Softmax") > 0


def test_no_cpu_overflows(quantised: Path) -> None:
    """Without VNNI two products are added up in 16 bits; such a CPU must answer as the one of the certificate."""
    graph = onnx.load(quantised).graph
    weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    multiplied = [weights[node.input[1]] for node in graph.node if node.op_type == "MatMulInteger"]
    assert multiplied
    assert all(each.dtype == np.int8 for each in multiplied)
    assert max(2 * 255 * int(np.abs(each.astype(np.int32)).max()) for each in multiplied) < 2**15


def test_leaves_nothing_but_the_target(tmp_path: Path, small_dinov3: Path, caplog: pytest.LogCaptureFixture) -> None:
    handlers = logging.getLogger().handlers[:]
    quantise_dynamic(small_dinov3, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert [path.name for path in small_dinov3.parent.iterdir()] == ["model.onnx"]
    assert caplog.records == []
    assert logging.getLogger().handlers == handlers


def test_twice_makes_the_same_file(tmp_path: Path, quantised: Path, small_dinov3: Path) -> None:
    quantise_dynamic(small_dinov3, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == quantised.read_bytes()


def test_weights_that_lie_beside_the_source_are_in_the_target(
    tmp_path: Path, quantised: Path, weights_beside: Path, photographs: NDArray[np.uint8]
) -> None:
    quantise_dynamic(weights_beside, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    ours, theirs = OnnxEngine(tmp_path / "model.onnx", INT8), OnnxEngine(quantised, INT8)
    assert np.array_equal(ours.infer(photographs[:4]).logits, theirs.infer(photographs[:4]).logits)


def test_another_graph_does_not_pass_for_one_in_int8(small_dinov3: Path) -> None:
    with pytest.raises(BundleRefused, match=r"takes a graph of engines\.backends\.int8"):
        OnnxEngine(small_dinov3, INT8)


def test_what_is_not_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"not a model")
    with pytest.raises(BundleRefused, match=r"junk\.onnx: not an ONNX model"):
        quantise_dynamic(tmp_path / "junk.onnx", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_graph_without_weights_is_refused(tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3])
    same = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["logits"])], "same", [image], [same])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(made, str(tmp_path / "same.onnx"))
    with pytest.raises(BundleRefused, match="no product with weights"):
        quantise_dynamic(tmp_path / "same.onnx", tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["same.onnx"]
