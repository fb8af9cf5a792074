"""Graphs computed by torch say what ONNX Runtime says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from engines.backends.onnxruntime import OnnxEngine  # noqa: E402
from engines.backends.torch.graph import OPERATORS, OnnxModule  # noqa: E402
from engines.errors import BundleRefused  # noqa: E402

RNG = np.random.default_rng(0)
X: NDArray[np.float32] = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_of_a_dinov3_are_those_of_the_reference(small_dinov3: Path, photographs: NDArray[np.uint8], count: int) -> None:
    expected = OnnxEngine(small_dinov3, threads=1).infer(photographs[:count])
    with torch.no_grad():
        logits, select_score, works = OnnxModule(small_dinov3)(torch.from_numpy(photographs[:count]))
    assert logits.numpy() == pytest.approx(expected.logits, abs=1e-5)
    assert select_score.numpy() == pytest.approx(expected.select_score, abs=1e-5)
    assert works.numpy() == pytest.approx(expected.heads["works"], abs=1e-5)


def test_products_in_bf16_are_near_and_not_the_same(small_dinov3: Path, photographs: NDArray[np.uint8]) -> None:
    expected = OnnxEngine(small_dinov3, threads=1).infer(photographs[:4])
    with torch.no_grad():
        logits = OnnxModule(small_dinov3, torch.bfloat16)(torch.from_numpy(photographs[:4]))[0].numpy()
    away = np.abs(logits - expected.logits).max() / np.abs(expected.logits).max()
    assert 1e-5 < away < 0.1


def number(name: str, values: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)


# Nodes from `x`, `(2, 3, 8, 8)`, to `y`, with their weights.
CASES: dict[str, tuple[list[Any], list[onnx.TensorProto]]] = {
    "Erf": ([("Erf", ["x"], {})], []),
    "Relu": ([("Relu", ["x"], {})], []),
    "Sigmoid": ([("Sigmoid", ["x"], {})], []),
    "Tanh": ([("Tanh", ["x"], {})], []),
    "Identity": ([("Identity", ["x"], {})], []),
    "Clip": ([("Clip", ["x", "low", "high"], {})], [number("low", np.float32(0)), number("high", np.float32(1))]),
    "Pow": ([("Pow", ["x", "two"], {})], [number("two", np.float32(2))]),
    "Gelu": ([("Gelu", ["x"], {"approximate": "tanh"})], []),
    "ReduceMean": ([("ReduceMean", ["x", "axes"], {"keepdims": 0})], [number("axes", [2, 3])]),
    "ReduceSum": ([("ReduceSum", ["x", "axes"], {})], [number("axes", [1])]),
    "ReduceMax": ([("ReduceMax", ["x", "axes"], {})], [number("axes", [-1])]),
    "GlobalAveragePool": ([("GlobalAveragePool", ["x"], {})], []),
    "Conv with pads and groups": (
        [("Conv", ["x", "w", "b"], {"pads": [1, 0, 2, 1], "strides": [2, 1], "group": 3})],
        [number("w", RNG.normal(size=(6, 1, 3, 3)).astype(np.float32)), number("b", np.ones(6, np.float32))],
    ),
    "Gather of one": ([("Gather", ["x", "at"], {"axis": 1})], [number("at", np.int64(2))]),
    "Gather of some": ([("Gather", ["x", "at"], {"axis": 2})], [number("at", [3, 0, 5])]),
    "Slice": (
        [("Slice", ["x", "from", "to", "axes", "steps"], {})],
        [number("from", [1, -3]), number("to", [7, 2**63 - 1]), number("axes", [2, 3]), number("steps", [2, 1])],
    ),
    "Split": ([("Split", ["x", "sizes"], {"axis": 3})], [number("sizes", [3, 5])]),
    "Squeeze and Unsqueeze": (
        [("Unsqueeze", ["x", "axes"], {}), ("Squeeze", ["t0", "axes"], {}), ("Neg", ["t1"], {})],
        [number("axes", [0, 3])],
    ),
    "a shape that is computed": (
        [
            ("Shape", ["x"], {"end": 2}),
            ("Concat", ["t0", "rest"], {"axis": 0}),
            ("Reshape", ["x", "t1"], {}),
        ],
        [number("rest", [-1])],
    ),
    "Reshape that keeps a size": ([("Reshape", ["x", "shape"], {"allowzero": 0})], [number("shape", [0, 0, -1])]),
    "Expand": ([("Expand", ["w", "shape"], {})], [number("w", X[:1, :, :1]), number("shape", [2, 1, 4, 8])]),
    "Gemm": (
        [("Reshape", ["x", "flat"], {}), ("Gemm", ["t0", "w", "b"], {"transB": 1, "alpha": 0.5, "beta": 2.0})],
        [
            number("flat", [2, -1]),
            number("w", RNG.normal(size=(4, 192)).astype(np.float32)),
            number("b", np.ones(4, np.float32)),
        ],
    ),
    "LayerNormalization without a bias": (
        [("LayerNormalization", ["x", "w"], {"axis": -1, "epsilon": 1e-5})],
        [number("w", np.arange(8, dtype=np.float32))],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_of_each_operator_are_those_of_onnx_runtime(name: str, tmp_path: Path) -> None:
    nodes, weights = CASES[name]
    last = len(nodes) - 1
    made = [
        helper.make_node(
            kind, given, ["y", "z"] if kind == "Split" else ["y" if place == last else f"t{place}"], **options
        )
        for place, (kind, given, options) in enumerate(nodes)
    ]
    ports = [helper.make_tensor_value_info(port, TensorProto.FLOAT, None) for port in ("x", "y")]
    ports[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 8, 8])
    graph = helper.make_graph(made, "one", ports[:1], ports[1:], weights)
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    (expected,) = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": X})
    (found,) = OnnxModule(path)(torch.from_numpy(X))
    assert found.shape == expected.shape
    assert found.numpy() == pytest.approx(expected, abs=1e-5)


def test_an_operator_that_is_not_known_is_named(tmp_path: Path, write_onnx: Callable[..., Path]) -> None:
    path = write_onnx(tmp_path / "model.onnx")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Resize"
    onnx.save(model, str(path))
    with pytest.raises(BundleRefused, match=r"model\.onnx: torch is not told how to compute Resize"):
        OnnxModule(path)
    assert "Resize" not in OPERATORS


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleRefused, match=r"junk\.onnx: not an ONNX model"):
        OnnxModule(tmp_path / "junk.onnx")
