"""What scores is the fastest engine that says what the serving one says; what differs, or fails, never scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from engines.engine import EngineDescription
from engines.errors import BundleRefused, InferenceError
from engines.spec import REFERENCE, EngineSpec
from offline.certify.scoring_engine import FASTER, PARITY, EngineTrial, ScoringRecord, Trials, candidates, difference
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), np.uint8)
OPENVINO = EngineSpec(backend="openvino")
TENSORRT = EngineSpec(backend="tensorrt", device="cuda")


class Clock:
    """Time that passes while engines compute."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class MadeEngine:
    """Answers by the brightness of an image, with an error of its own, in so many seconds an image."""

    spec: EngineSpec
    clock: Clock
    seconds: float
    error: float = 0.0
    fails: bool = False
    closed: bool = field(default=False, init=False)

    def infer(self, batch: Pixels) -> Stage1Outputs:
        assert not self.closed
        if self.fails:
            raise InferenceError("the device is gone")
        self.clock.now += self.seconds * len(batch)
        score = batch.mean((1, 2, 3)).astype(np.float32) / 255 + np.float32(self.error)
        return Stage1Outputs(np.stack([-score, score], 1), score, {"kind": np.stack([score, score, score], 1)})

    def warm_up(self, most: int) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        self.closed = True

    def describe(self) -> EngineDescription:
        return EngineDescription(self.spec, str(self.spec), (16, 16), 1)


Chosen = Callable[..., tuple[MadeEngine, ScoringRecord, list[MadeEngine]]]


@pytest.fixture
def chosen() -> Chosen:
    """Choose among a serving engine of 10 ms an image and others; returns what was chosen and all of them."""

    def choose(*others: tuple[EngineSpec, float, float, bool]) -> tuple[MadeEngine, ScoringRecord, list[MadeEngine]]:
        clock = Clock()
        serving = MadeEngine(REFERENCE, clock, 0.01)
        made = {spec: MadeEngine(spec, clock, seconds, error, fails) for spec, seconds, error, fails in others}
        engine, record = Trials(IMAGES, clock).choose(serving, list(made), made.__getitem__)
        assert isinstance(engine, MadeEngine)
        return engine, record, [serving, *made.values()]

    return choose


def test_the_fastest_of_those_that_agree_scores_and_the_others_are_closed(chosen: Chosen) -> None:
    engine, record, made = chosen((OPENVINO, 0.005, 1e-5, False), (TENSORRT, 0.001, 2e-5, False))
    assert engine.spec == record.engine == TENSORRT
    assert [each.closed for each in made] == [False, True, False]
    assert [round(trial.images_a_second or 0) for trial in record.trials] == [100, 200, 1000]
    assert record.images == 40
    assert record.trials[2].difference == pytest.approx(2e-5, rel=0.01)
    assert "What validators sent was scored on tensorrt cuda fp32" in record.words
    assert "the certificate are those of onnxruntime cpu fp32" in record.words


def test_one_that_differs_never_scores_however_fast(chosen: Chosen) -> None:
    engine, record, made = chosen((OPENVINO, 1e-6, 2 * PARITY, False))
    assert engine is made[0]
    assert record.engine == record.serving == REFERENCE
    assert made[1].closed
    assert record.trials[1].reason == "differs from the serving engine by 0.002, more than 0.001"
    assert record.words == ""


@pytest.mark.parametrize("faster", [0.9, FASTER * 0.99])
def test_one_that_is_hardly_faster_is_not_worth_it(chosen: Chosen, faster: float) -> None:
    engine, _, made = chosen((OPENVINO, 0.01 / faster, 0.0, False))
    assert engine is made[0]
    assert made[1].closed
    assert not made[0].closed


def test_one_that_fails_or_does_not_open_is_told_and_left_out() -> None:
    clock = Clock()
    serving, broken = MadeEngine(REFERENCE, clock, 0.01), MadeEngine(OPENVINO, clock, 0.001, fails=True)

    def opened(spec: EngineSpec) -> MadeEngine:
        if spec == OPENVINO:
            return broken
        raise BundleRefused("TensorRT is not installed")

    engine, record = Trials(IMAGES, clock).choose(serving, [OPENVINO, TENSORRT], opened)
    assert engine is serving
    assert broken.closed
    assert [trial.reason for trial in record.trials] == ["", "the device is gone", "TensorRT is not installed"]


def test_the_record_is_read_back(chosen: Chosen, tmp_path_factory: pytest.TempPathFactory) -> None:
    record = chosen((OPENVINO, 0.005, 1e-5, False))[1]
    path = tmp_path_factory.mktemp("out") / "scoring.json"
    record.write(path)
    assert ScoringRecord.read(path) == record


def test_every_output_is_compared() -> None:
    score = np.zeros(3, np.float32)
    outputs = Stage1Outputs(np.zeros((3, 2), np.float32), score, {"kind": np.zeros((3, 4), np.float32)})
    assert difference(outputs, outputs) == 0
    assert difference(replace(outputs, logits=outputs.logits + 1), outputs) == 1
    assert difference(replace(outputs, select_score=score - 2), outputs) == 2
    assert difference(replace(outputs, heads={"kind": outputs.heads["kind"] + 3}), outputs) == 3


def test_only_exact_engines_of_this_machine_are_tried() -> None:
    found = candidates(REFERENCE)
    assert REFERENCE not in found
    assert {spec.precision for spec in found} <= {"fp32"}
    assert EngineTrial(engine=REFERENCE).reason == ""
