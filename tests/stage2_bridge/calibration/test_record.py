"""What is known of a Stage-2 server, and what handing on is worth."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stage1.errors import ArtifactError
from stage1.probability.answer_quality import judge_answers
from stage1.probability.isotonic import fit_isotonic
from stage1.probability.server_score import FLOOR, fit_score
from stage2_bridge.calibration.record import GainTable, Latency, Stage2Record
from stage2_bridge.client import ServerIdentity

SERVER = ServerIdentity("detector", "yolo", "yolox", "1", "abc")


def drawn(sensitivity: float, specificity: float, rows: int = 20_000) -> GainTable:
    """The table of a server that is right about these shares, and of a Stage-1 whose probabilities are true."""
    rng = np.random.default_rng(0)
    stage1 = rng.random(rows)
    labels = (rng.random(rows) < stage1).astype(np.int8)
    right = rng.random(rows) < np.where(labels == 1, sensitivity, specificity)
    stage2 = np.where(right == (labels == 1), 0.9, 0.1)
    return GainTable.of(stage1, stage2, labels, np.abs(stage1 - 0.5) < 0.4)


def test_the_gain_is_what_is_gained() -> None:
    """Against a simulation: at each probability, how often Stage-2 is right less how often Stage-1 is."""
    table = drawn(0.9, 0.7)
    for p in (0.1, 0.3, 0.5, 0.8):
        assert table.gain(p) == pytest.approx(p * 0.9 + (1 - p) * 0.7 - max(p, 1 - p), abs=0.02)


def test_a_useless_server_gains_nothing_anywhere_and_a_perfect_one_most_where_stage_1_is_least_sure() -> None:
    useless, perfect = drawn(0.5, 0.5), drawn(1.0, 1.0)
    assert max(useless.gain(p) for p in np.linspace(0, 1, 11)) < 0.02
    assert perfect.gain(0.5) == pytest.approx(0.5, abs=0.01)
    assert perfect.gain(0.5) > perfect.gain(0.4) > perfect.gain(0.1)


def test_the_threshold_of_a_share_is_reached_by_that_share_of_the_hand_offs() -> None:
    table = drawn(0.95, 0.9)
    handed_on = np.random.default_rng(1).uniform(0.1, 0.9, 20_000)
    for share in (0.1, 0.5, 0.9):
        reached = np.mean([table.gain(p) >= table.threshold(share) for p in handed_on])
        assert reached == pytest.approx(share, abs=0.03)
    assert all(table.threshold(1.0) <= table.gain(p) < table.threshold(0.0) for p in (0.0, 0.5, 1.0))


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_hand_offs_never_need_more_gain(one: float, other: float) -> None:
    table = drawn(0.8, 0.9, rows=200)
    few, many = sorted((one, other))
    assert table.threshold(few) >= table.threshold(many)
    assert -1 <= table.gain(one) <= 1


def test_without_hand_offs_all_rows_speak_for_the_server() -> None:
    everything = np.array([0.2, 0.9, 0.4, 0.6])
    table = GainTable.of(everything, everything, np.array([0, 1, 0, 1]), np.zeros(4, bool))
    assert table.gain(0.5) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"probability": (0.0, 0.5)}, "rise from 0 to 1"),
        ({"expected": (0.0,)}, "2 probabilities and 1 gains"),
        ({"levels": (0.0, 0.1)}, "must not rise"),
        ({"expected": (0.0, math.nan)}, "finite"),
    ],
)
def test_a_table_that_is_none_is_refused(changed: dict[str, object], problem: str) -> None:
    fields: dict[str, object] = {"probability": (0.0, 1.0), "expected": (0.0, 0.0), "levels": (0.1, 0.0)}
    with pytest.raises(ValidationError, match=problem):
        GainTable.model_validate(fields | changed)


def record() -> Stage2Record:
    rng = np.random.default_rng(2)
    scores, labels = rng.random(80), (np.arange(80) % 2).astype(np.int8)
    quality = judge_answers(scores, labels, [str(n) for n in range(80)], repetitions=0)
    return Stage2Record(
        server=SERVER,
        bundle="0123456789abcdef",
        stream="originals",
        data_sha256="d" * 64,
        evaluated_at="2026-11-30T00:00:00+00:00",
        floor=FLOOR,
        calibrator=fit_score(scores, labels),
        raw=quality,
        answers=quality,
        stage1=quality,
        latency=Latency(calls=160, at_a_time=4, mean_ms=20.0, p50_ms=18.0, p99_ms=50.0),
        gain=GainTable.of(scores, scores, labels, np.ones(80, bool)),
    )


def test_a_record_is_read_as_it_was_written_and_speaks_of_no_other_server(tmp_path: Path) -> None:
    written = record()
    written.write(tmp_path / "stage2.json")
    read = Stage2Record.read(tmp_path / "stage2.json")
    assert read == written
    assert read.speaks_of(SERVER)
    assert read.speaks_of(replace(SERVER, name="its-twin"))
    for other in ("kind", "model", "version", "fingerprint"):
        assert not read.speaks_of(replace(SERVER, **{other: "other"}))


def test_a_damaged_record_says_what_is_wrong(tmp_path: Path) -> None:
    content = json.loads(record().to_json())
    content["gain"]["levels"] = [0.0, 1.0]
    (tmp_path / "stage2.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"gain.*must not rise"):
        Stage2Record.read(tmp_path / "stage2.json")


def test_a_record_may_have_an_isotonic_calibrator(tmp_path: Path) -> None:
    steps = fit_isotonic(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    written = record().model_copy(update={"calibrator": steps})
    written.write(tmp_path / "stage2.json")
    read = Stage2Record.read(tmp_path / "stage2.json")
    assert read == written
    assert read.calibrator == steps
