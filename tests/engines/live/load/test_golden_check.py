"""Engines that compute something else than their graph, the way the field saw it, are refused at each batch size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from engines.backends.onnxruntime import OnnxEngine
from engines.backends.registry import open_engine
from engines.batches import buckets
from engines.errors import BundleRefused, ParityError
from engines.live.load.golden_check import LEAST_SHARE, SHARES, USUAL, check_parity, compare, limits
from engines.spec import EngineSpec, Precision
from engines.store.golden import write_golden
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels
from stage1.tolerance import TOLERANCE

MOST = 8
SIZES = buckets(MOST)
BF16_TOLERANCE = 2e-2
Edit = Callable[[onnx.ModelProto], None]


def rounded(bits: int) -> Edit:
    """Weights with so many bits of a mantissa: 7 as in bf16, 10 as in TF32."""

    def edit(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                values = numpy_helper.to_array(tensor)
                drop = 23 - bits
                kept = (values.view(np.uint32) + np.uint32(1 << (drop - 1))) >> drop << drop
                tensor.CopyFrom(numpy_helper.from_array(kept.view(np.float32).reshape(values.shape), tensor.name))

    return edit


def with_collapsed_scores(model: onnx.ModelProto) -> None:
    """The attention of the first block looks at everything alike, as where its scores are lost."""
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    lost = helper.make_node("Mul", [softmax.input[0], "nothing"], ["lost"])
    model.graph.node.insert(list(model.graph.node).index(softmax), lost)
    softmax.input[0] = "lost"


def with_the_first_block_off(model: onnx.ModelProto) -> None:
    """What the attention of the first block says is off by 7."""
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    weighted = next(node for node in model.graph.node if softmax.output[0] in node.input)
    model.graph.initializer.append(numpy_helper.from_array(np.array(7, np.float32), "seven"))
    place, made = list(model.graph.node).index(weighted), weighted.output[0]
    weighted.output[0] = "right"
    model.graph.node.insert(place + 1, helper.make_node("Add", ["right", "seven"], [made]))


DOUBLES: dict[str, Edit] = {
    "the first block is off": with_the_first_block_off,
    "scores collapse": with_collapsed_scores,
    "bf16 in place of fp32": rounded(7),
    "TF32 in place of fp32": rounded(10),
}


class At:
    """An engine that is another one for batches of one size.

    Args:
        engine: what it is otherwise.
        double: what it is then.
        size: of those batches.
    """

    def __init__(self, engine: OnnxEngine, double: OnnxEngine, size: int) -> None:
        self.engine, self.double, self.size = engine, double, size

    def infer(self, batch: Pixels) -> Stage1Outputs:
        return (self.double if len(batch) == self.size else self.engine).infer(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


@pytest.fixture(scope="module")
def engine(small_dinov3: Path) -> OnnxEngine:
    return OnnxEngine(small_dinov3, threads=1)


@pytest.fixture(scope="module")
def double(small_dinov3: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], OnnxEngine]:
    """The engine of a graph with a fault."""
    made: dict[str, OnnxEngine] = {}

    def of(name: str) -> OnnxEngine:
        if name not in made:
            model = onnx.load(small_dinov3)
            DOUBLES[name](model)
            path = tmp_path_factory.mktemp("double") / "model.onnx"
            onnx.save(model, str(path))
            made[name] = OnnxEngine(path, threads=1)
        return made[name]

    return of


@pytest.fixture(scope="module")
def golden(engine: OnnxEngine, photographs: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden") / "golden.npz"
    write_golden(path, photographs[:MOST], engine.infer(photographs[:MOST]))
    return path


@pytest.mark.parametrize("spot", [True, False])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DOUBLES)
def test_a_double_is_refused_at_the_batch_size_at_which_it_is_one(
    name: str, size: int, engine: OnnxEngine, double: Callable[[str], OnnxEngine], golden: Path, *, spot: bool
) -> None:
    with pytest.raises(ParityError, match=f"at batch size {size}, outputs differ from the golden ones by"):
        check_parity(At(engine, double(name), size), golden, TOLERANCE, precision="fp32", sizes=SIZES, spot=spot)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["the first block is off", "scores collapse"])
def test_in_bf16_a_wrong_attention_is_no_rounding(
    name: str, size: int, engine: OnnxEngine, double: Callable[[str], OnnxEngine], golden: Path
) -> None:
    """Within the tolerance of bf16 alone, which says nothing of a network whose outputs are all so small."""
    with pytest.raises(ParityError, match=f"at batch size {size}, "):
        check_parity(At(engine, double(name), size), golden, BF16_TOLERANCE, precision="bf16", sizes=SIZES)


def test_in_bf16_the_kernels_of_other_batch_sizes_pass(
    small_dinov3: Path, photographs: NDArray[np.uint8], tmp_path: Path
) -> None:
    try:
        real = open_engine(EngineSpec(backend="openvino", precision="bf16"), small_dinov3, threads=1)
    except BundleRefused as error:
        pytest.skip(str(error))
    write_golden(tmp_path / "golden.npz", photographs[:MOST], real.infer(photographs[:MOST]))
    check_parity(real, tmp_path / "golden.npz", BF16_TOLERANCE, precision="bf16", sizes=SIZES)
    real.close()


def test_the_engine_itself_passes_with_room_to_spare(engine: OnnxEngine, golden: Path) -> None:
    assert check_parity(engine, golden, TOLERANCE, precision="fp32", sizes=SIZES) < 1e-6


class TestLimits:
    @staticmethod
    def outputs(*scores: float) -> Stage1Outputs:
        column = np.array(scores, np.float32)
        return Stage1Outputs(
            np.stack([-column, column], axis=1), 2 * column, {"works": 3 * np.stack([column] * 3, axis=1)}
        )

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_are_a_share_of_the_range_of_each_output(self, precision: Precision) -> None:
        share = SHARES[precision]
        found = limits(self.outputs(0.0, 0.05), USUAL[precision], precision, precision)
        assert found == pytest.approx([share * 0.1, share * 0.1, share * 0.15], rel=1e-5)

    def test_grow_with_a_tolerance_that_a_bundle_has_of_its_own(self) -> None:
        usual, more = (limits(self.outputs(0.0, 0.05), tolerance, "fp32", "fp32") for tolerance in (1e-3, 2e-2))
        assert more == pytest.approx([20 * limit for limit in usual])

    def test_are_never_above_the_tolerance(self) -> None:
        assert limits(self.outputs(-500.0, 500.0), 1e-3, "fp32", "fp32") == (1e-3,) * 3

    def test_of_images_that_are_all_alike_are_what_fp32_can_tell(self) -> None:
        assert limits(self.outputs(2.0, 2.0), 2e-2, "bf16", "bf16")[1] == pytest.approx(4.0 * LEAST_SHARE)
        assert limits(self.outputs(0.0, 0.0), 1e-3, "fp32", "fp32")[1] == pytest.approx(1e-6)

    def test_in_int8_are_the_tolerance(self) -> None:
        assert limits(self.outputs(0.0, 0.05), 1e-3, "int8", "int8") == (1e-3,) * 3


def test_a_number_that_is_none_is_no_agreement(engine: OnnxEngine, photographs: NDArray[np.uint8]) -> None:
    expected = engine.infer(photographs[:2])
    with pytest.raises(ParityError, match="more than nan"):
        compare(engine, photographs[:2], expected, [float("nan")] * 3, sizes=(1, 2))
