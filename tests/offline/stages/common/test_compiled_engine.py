"""An engine that computes something else than its graph is found before rows are spent on it; and what scores."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engines.backends.onnxruntime import OnnxEngine
from engines.batches import BUCKETS
from engines.errors import ParityError
from engines.spec import REFERENCE, EngineSpec, Precision
from offline.certify.engine_agreement import check_agreement, correlation, reference_gate
from offline.certify.scoring_engine import ScoringRecord
from offline.config import load_config
from offline.stages.common import compiled_engine
from offline.stages.common.compiled_engine import COMPARED, FEWEST_SCORED, scoring_engine
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

SPEC = EngineSpec(backend="tensorrt", precision="bf16", device="cuda")
OutputsOf = Callable[..., Stage1Outputs]


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, 500)


def test_rounding_is_no_other_network(outputs_of: OutputsOf, scores: np.ndarray) -> None:
    rounded = scores * (1 + np.random.default_rng(1).normal(0, 0.02, 500))
    check_agreement(SPEC, outputs_of(rounded), outputs_of(scores))
    assert correlation(outputs_of(rounded), outputs_of(scores)) > 0.99


@pytest.mark.parametrize("wrong", ["noise", "constant", "upside down"])
def test_a_miscompiled_engine_is_refused(outputs_of: OutputsOf, scores: np.ndarray, wrong: str) -> None:
    noise = np.random.default_rng(2).normal(0, 2, 500)
    said = {"noise": noise, "constant": np.full(500, 0.3), "upside down": -scores}[wrong]
    with pytest.raises(ParityError, match="tensorrt cuda bf16 computes something else than its graph: over 500 images"):
        check_agreement(SPEC, outputs_of(said), outputs_of(scores))


def test_a_network_that_says_the_same_of_everything_agrees_with_itself(outputs_of: OutputsOf) -> None:
    constant = np.full(20, 0.3)
    check_agreement(SPEC, outputs_of(constant + 1e-5), outputs_of(constant))
    assert correlation(outputs_of(constant + 1e-5), outputs_of(constant)) == 1.0


@pytest.mark.parametrize(
    ("precision", "apart", "passes"),
    [("fp32", 1e-4, True), ("fp32", 0.02, False), ("bf16", 0.02, True), ("bf16", 0.7, False)],
)
@pytest.mark.parametrize("size", BUCKETS)
def test_an_engine_is_as_near_to_the_reference_as_its_precision_promises_at_every_batch_size(
    outputs_of: OutputsOf, precision: Precision, apart: float, size: int, *, passes: bool
) -> None:
    """Of scores between -3 and 3, with an error at one batch size alone."""
    images = np.arange(32, dtype=np.uint8).reshape(-1, 1, 1, 1)
    said = np.linspace(-3, 3, 32)

    def infer(batch: Pixels) -> Stage1Outputs:
        off = apart if len(batch) == size else 0.0
        return outputs_of(said[batch.ravel()] + off)

    spec = EngineSpec(backend="tensorrt", precision=precision, device="cuda")
    gate = reference_gate(spec, images, outputs_of(said))
    assert gate is not None
    engine: Any = SimpleNamespace(infer=infer)
    if passes:
        gate(engine)
    else:
        with pytest.raises(ParityError, match=f"at batch size {size}, "):
            gate(engine)


def test_the_reference_and_int8_promise_no_nearness(outputs_of: OutputsOf, scores: np.ndarray) -> None:
    images = np.zeros((500, 3, 4, 4), np.uint8)
    assert reference_gate(REFERENCE, images, outputs_of(scores)) is None
    assert reference_gate(EngineSpec(precision="int8"), images, outputs_of(scores)) is None


@dataclass(frozen=True)
class Rows:
    """Pictures that are in memory."""

    images: Pixels
    rows: tuple[int, ...] = ()

    def array(self, _: object) -> Pixels:
        return self.images[: len(self.rows)]


@pytest.fixture
def context(
    tiny_engine: Path, plain_images: Callable[..., Pixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Of a stage behind the export of a small graph."""
    colours = np.random.default_rng(0).integers(0, 256, (80, 3))
    rows = Rows(plain_images(colours), tuple(range(80)))
    monkeypatch.setattr(compiled_engine, "sent_rows_of", lambda *_: rows)
    return SimpleNamespace(
        config=load_config("tiny"), inputs={"export": tiny_engine.parent}, workspace=tmp_path, out=tmp_path
    )


def test_openvino_is_compared_on_the_pictures_that_choose_and_nothing_of_it_stays(
    context: Any, tiny_engine: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    with (
        closing(OnnxEngine(tiny_engine)) as serving,
        scoring_engine(context, serving, FEWEST_SCORED) as (engine, record),
    ):
        trial = next(trial for trial in record.trials if trial.engine.backend == "openvino")
        assert trial.difference is not None
        assert trial.difference < 1e-3
        assert trial.images_a_second is not None
        assert record.images == COMPARED
        assert record.engine == engine.describe().spec
        assert record.engine in {REFERENCE, trial.engine}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("wanted", "pictures"), [("serving", 10**6), ("fastest", FEWEST_SCORED - 1)])
def test_the_serving_engine_scores_where_it_is_asked_to_or_there_is_little_to_score(
    context: Any, tiny_engine: Path, wanted: str, pictures: int
) -> None:
    context.config = load_config("tiny", None, {"eval_selective.cell_engine": wanted})
    with closing(OnnxEngine(tiny_engine)) as serving, scoring_engine(context, serving, pictures) as (engine, record):
        assert engine is serving
        assert record == ScoringRecord(serving=REFERENCE, engine=REFERENCE)
