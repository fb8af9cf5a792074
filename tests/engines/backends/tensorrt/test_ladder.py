"""Where an engine computes something else than its graph, the next rung is built: by the real TensorRT-RTX.

What runs the plans is the reference with a fault, because there is no GPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from structlog.testing import capture_logs

from engines.backends.backend import CompileOptions
from engines.backends.onnxruntime import OnnxEngine
from engines.backends.tensorrt import ladder
from engines.backends.tensorrt.build import Plan, build_plan
from engines.backends.tensorrt.ladder import RUNGS, build_on_ladder, graph_of
from engines.backends.tensorrt.library import Flavour
from engines.backends.tensorrt.plan import DESCRIPTION, PlanDescription, read_plan
from engines.engine import Engine
from engines.errors import BuildFailed, BundleRefused, ParityError, Unavailable
from engines.live.load.golden_check import check_parity
from engines.spec import EngineSpec, twin
from engines.store.golden import write_golden
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels
from tests.support.tensorrt import BF16, FP32

Wrong = Callable[[str, int], bool]


class Faulty(OnnxEngine):
    """The reference, which collapses where a rung is wrong at a batch size.

    Args:
        model: the graph.
        rung: how it computes.
        wrong: of a rung and a batch size.
    """

    def __init__(self, model: Path, rung: str, wrong: Wrong) -> None:
        super().__init__(model, threads=1)
        self.rung, self.wrong = rung, wrong

    def infer(self, batch: Pixels) -> Stage1Outputs:
        found = super().infer(batch)
        if self.wrong(self.rung, len(batch)):
            return Stage1Outputs(found.logits * np.float32(0.05), found.select_score, found.heads)
        return found


def multiplied_in_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The twin of a graph whose only weights are those of one product."""
    (product,) = (node for node in model.graph.node if node.op_type == "MatMul")
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == product.input[1])
    kept = onnx.numpy_helper.to_array(weights)
    weights.CopyFrom(
        onnx.helper.make_tensor(weights.name, onnx.TensorProto.BFLOAT16, kept.shape, kept.ravel().tolist())
    )
    place, given, made = list(model.graph.node).index(product), product.input[0], product.output[0]
    product.input[0], product.output[0] = "given_bf16", "made_bf16"
    after = onnx.helper.make_node("Cast", ["made_bf16"], [made], to=onnx.TensorProto.FLOAT)
    before = onnx.helper.make_node("Cast", [given], ["given_bf16"], to=onnx.TensorProto.BFLOAT16)
    model.graph.node.insert(place + 1, after)
    model.graph.node.insert(place, before)
    return model


@pytest.fixture
def model(tmp_path: Path, tiny_engine: Path) -> Path:
    path = tmp_path / "model.onnx"
    shutil.copy(tiny_engine, path)
    onnx.save(multiplied_in_bf16(onnx.load(path)), str(twin(path, "bf16")))
    return path


@pytest.fixture
def climb(model: Path, flavour: Flavour, tmp_path: Path) -> Callable[..., PlanDescription]:
    """Build with a fault, compared with golden images at batch sizes 1, 2, 4 and 8."""
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
    golden = tmp_path / "golden.npz"
    write_golden(golden, images, OnnxEngine(model, threads=1).infer(images))

    def climbed(wrong: Wrong, spec: EngineSpec = BF16, opens: Callable[[], Engine] | None = None) -> PlanDescription:
        into = tmp_path / "plan"
        into.mkdir(exist_ok=True)

        def faulty() -> Engine:
            rung = PlanDescription.read(into / DESCRIPTION).rung
            assert rung is not None
            return Faulty(model, rung, wrong)

        def gate(engine: Engine) -> None:
            check_parity(engine, golden, 2e-2, precision="bf16", sizes=(1, 2, 4, 8))

        options = CompileOptions(gate=gate)
        build_on_ladder(spec, model, into, options, flavour, opens or faulty)
        assert read_plan(model, spec, into)[0] == PlanDescription.read(into / DESCRIPTION)
        return PlanDescription.read(into / DESCRIPTION)

    return climbed


def test_the_first_rung_is_kept_where_it_computes_what_it_must(climb: Callable[..., PlanDescription]) -> None:
    made = climb(lambda _rung, _size: False)
    assert (made.rung, made.refused) == ("bf16", ())


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_a_fused_attention_that_is_wrong_at_one_batch_size_is_taken_apart(
    climb: Callable[..., PlanDescription], size: int
) -> None:
    with capture_logs() as logged:
        made = climb(lambda rung, found: rung == "bf16" and found == size)
    assert made.rung == "bf16 unfused"
    (refused,) = made.refused
    assert refused.startswith(f"bf16: at batch size {size}, outputs differ from the golden ones by ")
    assert [entry["rung"] for entry in logged if entry["event"] == "rung_refused"] == ["bf16"]
    assert [entry["rung"] for entry in logged if entry["event"] == "rung_built"] == ["bf16 unfused"]


def test_bf16_that_is_wrong_either_way_ends_in_fp32_and_says_so(climb: Callable[..., PlanDescription]) -> None:
    made = climb(lambda rung, _size: rung != "fp32")
    assert (made.rung, made.precision) == ("fp32", "fp32")
    assert [told.partition(":")[0] for told in made.refused] == ["bf16", "bf16 unfused"]


def test_what_is_wrong_in_fp32_is_not_built(climb: Callable[..., PlanDescription]) -> None:
    with pytest.raises(BuildFailed, match=r"bf16: at batch size 1, .*; bf16 unfused: .*; fp32: at batch size 1"):
        climb(lambda _rung, _size: True)
    with pytest.raises(BuildFailed, match=r"^fp32: at batch size 2"):
        climb(lambda _rung, size: size == 2, spec=FP32)


def test_without_a_gpu_the_first_rung_is_for_the_machine_that_has_one(climb: Callable[..., PlanDescription]) -> None:
    def opens() -> Engine:
        raise Unavailable("needs a GPU, and there is none")

    assert climb(lambda _rung, _size: True, opens=opens).rung == "bf16"


def test_a_plan_that_the_library_does_not_take_back_is_left_as_well(climb: Callable[..., PlanDescription]) -> None:
    def opens() -> Engine:
        raise BundleRefused("does not load")

    with pytest.raises(BuildFailed, match=r"bf16: does not load; bf16 unfused: does not load; fp32: does not load"):
        climb(lambda _rung, _size: True, opens=opens)


def test_a_plan_in_fp32_that_did_not_step_down_is_not_one_of_bf16(
    climb: Callable[..., PlanDescription], model: Path, tmp_path: Path
) -> None:
    climb(lambda _rung, _size: False, spec=FP32)
    with pytest.raises(BundleRefused, match="computes in fp32, asked for is bf16"):
        read_plan(model, BF16, tmp_path / "plan")


@pytest.mark.parametrize(("slower", "kept"), [(1.0, True), (1.04, True), (1.2, False)])
def test_a_plan_that_takes_other_weights_is_kept_where_it_is_as_fast(
    model: Path, flavour: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slower: float, *, kept: bool
) -> None:
    """Such a plan can be built on a GPU alone: here it is one that says so."""
    time = [0.0]

    def built(onnx_path: Path, *, refit: bool, **named: Any) -> Plan:
        made = build_plan(onnx_path, **named)
        return Plan(made.content, made.description.model_copy(update={"refittable": refit}))

    class Timed(OnnxEngine):
        def infer(self, batch: Pixels) -> Stage1Outputs:
            refittable = PlanDescription.read(tmp_path / DESCRIPTION).refittable
            time[0] += slower if refittable else 1.0
            return super().infer(batch)

    monkeypatch.setattr(ladder, "build_plan", built)
    options = CompileOptions(refittable=True)
    build_on_ladder(FP32, model, tmp_path, options, flavour, lambda: Timed(model, threads=1), seconds=lambda: time[0])
    assert read_plan(model, FP32, tmp_path)[0].refittable is kept


def test_every_rung_has_a_graph() -> None:
    assert [graph_of(rung) for rung in RUNGS["bf16"]] == ["bf16", "bf16", "fp32"]
    assert [graph_of(rung) for rung in RUNGS["fp32"]] == ["fp32"]
    assert issubclass(ParityError, BundleRefused)
