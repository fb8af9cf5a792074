"""How checkpoints are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from offline.data.dataset import Dataset, Row
from offline.learning.checkpoint_score import (
    MISS_RATES,
    SelectiveScore,
    exit_share,
    information,
    selective_score,
)
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.search.candidates import select
from stage1.certificate.settings import CalibrationSettings
from stage1.outputs import Stage1Outputs

STRICT = CalibrationSettings(alpha=0.02)
# Coarser than the default: each draw of the simulation searches ten times.
COARSE = CalibrationSettings(alpha=0.02, grid_size=200, gate_size=8)
# Levels by which checkpoints were once compared where the strict one showed no difference, as multiples of it.
RELAXED = (2, 4, 8)
DRAWS = 40
Binormal = Callable[..., LabelledOutputs]


def outputs_of(scores: NDArray[np.floating], select_score: NDArray[np.floating] | None = None) -> Stage1Outputs:
    chosen = np.abs(scores) if select_score is None else select_score
    return Stage1Outputs(
        np.stack([np.zeros_like(scores), scores], 1).astype(np.float32), np.asarray(chosen, np.float32)
    )


def dataset(labels: NDArray[np.integer], root: Path) -> Dataset:
    return Dataset(root, tuple(Row(image=str(i), label=int(label), group=str(i)) for i, label in enumerate(labels)))


def score(made: LabelledOutputs, root: Path, settings: CalibrationSettings = STRICT) -> SelectiveScore:
    return selective_score(made.outputs, dataset(made.labels, root), settings)


def test_the_value_decides_then_the_coverage_then_the_loss() -> None:
    assert SelectiveScore(0.2, 0.0, -9.0) > SelectiveScore(0.1, 0.9, 0.0)
    assert SelectiveScore(0.1, 0.2, -9.0) > SelectiveScore(0.1, 0.1, 0.0)
    assert SelectiveScore(0.1, 0.2, -1.0) > SelectiveScore(0.1, 0.2, -2.0)


def test_where_no_rule_looks_safe_the_better_ranking_still_wins(binormal: Binormal, tmp_path: Path) -> None:
    poor, fair = (score(binormal(300, seed=1, separation=separation), tmp_path) for separation in (0.3, 2.5))
    assert poor.coverage == fair.coverage == 0.0
    assert fair > poor


def test_the_exit_share_is_the_mean_true_negative_rate_at_the_first_ten_miss_rates() -> None:
    positive, negative = np.arange(0.0, 101.0), np.array([-1.0, 0.5, 3.5, 9.5, 99.0])
    scores, labels = np.concatenate([positive, negative]), np.array([1] * 101 + [0] * 5)
    # The r-quantile of 0, 1, ..., 100 is 100 r.
    expected = np.mean([np.mean(negative < 100 * rate) for rate in MISS_RATES])
    assert exit_share(scores, labels) == pytest.approx(expected)
    assert expected == pytest.approx((10 + 10 + 7 + 1) / 50)


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 4.0), (0.2, 0.0), (3.0, -2.0)])
def test_moving_or_stretching_the_scores_changes_little(binormal: Binormal, factor: float, shift: float) -> None:
    """As conformal risk training does, which raw log-loss would punish."""
    made = binormal(600, seed=2, separation=2.0)
    moved = outputs_of(factor * made.outputs.roadwork_score + shift)
    assert exit_share(moved.roadwork_score, made.labels) == exit_share(made.outputs.roadwork_score, made.labels)
    assert information(moved, made.labels) == pytest.approx(information(made.outputs, made.labels), abs=0.01)


def test_scores_that_know_nothing_have_no_information_and_perfect_ones_have_all() -> None:
    labels = np.array([0, 1] * 200, np.int8)
    noise = np.random.default_rng(0).normal(size=400)
    assert information(outputs_of(np.zeros(400)), labels) == pytest.approx(0, abs=1e-6)
    assert 0 <= information(outputs_of(noise), labels) < 0.02
    assert information(outputs_of(20.0 * labels - 10.0), labels) == pytest.approx(1, abs=1e-3)
    assert exit_share(20.0 * labels - 10.0, labels) == 1


@pytest.mark.parametrize("positives", [1 / 3, 0.9])
def test_it_picks_the_better_of_two_models_more_often_than_strict_coverage(positives: float, tmp_path: Path) -> None:
    """Two models whose errors correlate 0.9 on 400 groups; the second ranks a little better."""
    rng, right = np.random.default_rng(1), {"new": 0, "old": 0}
    for _ in range(DRAWS):
        labels = (rng.random(400) < positives).astype(np.int8)
        shared, scores = rng.normal(size=400), []
        for separation in (2.8, 3.1):
            seen = separation * (labels - 0.5) + np.sqrt(0.9) * shared + np.sqrt(0.1) * rng.normal(size=400)
            log_odds = separation * seen + np.log(positives / (1 - positives))
            outputs = outputs_of(log_odds, np.abs(seen) + rng.normal(0, 0.3, 400))
            scores.append((selective_score(outputs, dataset(labels, tmp_path), COARSE), old_score(outputs, labels)))
        (worse, old_worse), (better, old_better) = scores
        right["new"] += better > worse
        right["old"] += old_better > old_worse
    assert right["new"] >= 0.95 * DRAWS
    assert right["new"] > right["old"]


def old_score(outputs: Stage1Outputs, labels: NDArray[np.integer]) -> tuple[float, float]:
    """Strict coverage, then the mean coverage at laxer levels."""
    ids = [str(row) for row in range(len(labels))]
    labelled = LabelledOutputs(outputs, labels.astype(np.int8), ids, ids)
    strict, *relaxed = (
        select(labelled, COARSE.model_copy(update={"alpha": 0.02 * factor})).expected_coverage
        for factor in (1, *RELAXED)
    )
    return strict, float(np.mean(relaxed))
