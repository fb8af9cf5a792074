"""Evaluation on the test rows: numbers that another library, or counting by hand, agrees with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, matthews_corrcoef, roc_auc_score

from offline.evaluating import Report, evaluate
from stage1.calibration import LabelledOutputs
from stage1.certificate import ScrcParams
from stage1.decisions import DEFERRED
from stage1.policy import ScrcPolicy
from stage1.probability import ProbabilityCalibrator
from stage1.risks import Risk

Maker = Callable[..., Any]
CALIBRATOR = ProbabilityCalibrator(a=0.8, b=1.1, c=0.2)


@pytest.fixture(scope="module")
def test_rows(binormal: Maker) -> LabelledOutputs:
    rows: LabelledOutputs = binormal(900, seed=11, prefix="test/", frames=3)
    return rows


@pytest.fixture(scope="module")
def report(test_rows: LabelledOutputs, certificate: Maker) -> Report:
    return evaluate(test_rows, certificate(), CALIBRATOR)


def test_stage1_alone_is_scored_as_sklearn_scores_it(test_rows: LabelledOutputs, report: Report) -> None:
    probability, labels = CALIBRATOR.probability(test_rows.outputs), test_rows.labels
    predictions = probability > 0.5
    assert report.accuracy == pytest.approx(accuracy_score(labels, predictions))
    assert report.mcc == pytest.approx(matthews_corrcoef(labels, predictions))
    assert report.log_loss == pytest.approx(log_loss(labels, probability))
    right = predictions == labels
    share, auroc = right.mean(), roc_auc_score(right, test_rows.outputs.select_score)
    assert report.augrc == pytest.approx((1 - auroc) * share * (1 - share) + (1 - share) ** 2 / 2)
    assert (report.rows, report.groups, report.positives) == (900, 300, int(labels.sum()))


def test_rates_count_one_row_a_group(test_rows: LabelledOutputs, report: Report, certificate: Maker) -> None:
    exits = ScrcPolicy(certificate()).decide(test_rows.outputs).exit_label
    positive_exits = (test_rows.labels == 1) & (exits != DEFERRED)
    groups = {group for group, inside in zip(test_rows.groups, positive_exits, strict=True) if inside}
    scrc = report.policies[0]
    assert scrc.risks[Risk.MISS_EXIT].trials == len(groups)
    assert scrc.exit_coverage.trials == 300


@pytest.mark.parametrize("feasible", [True, False])
def test_the_target_is_met_only_by_a_bound_on_these_rows(
    test_rows: LabelledOutputs, certificate: Maker, feasible: bool
) -> None:
    params: ScrcParams = certificate(feasible=feasible)
    for policy in evaluate(test_rows, params, CALIBRATOR).policies:
        assert policy.within_target == (policy.risks[Risk.MISS_EXIT].upper <= params.alpha)


def test_exit_accuracy_is_of_what_exits(test_rows: LabelledOutputs, report: Report, certificate: Maker) -> None:
    exits = ScrcPolicy(certificate()).decide(test_rows.outputs).exit_label
    answered = exits != DEFERRED
    assert report.policies[0].exit_accuracy == pytest.approx(np.mean(exits[answered] == test_rows.labels[answered]))


def test_the_curve_ends_at_everything_answered(report: Report) -> None:
    coverages = [point.coverage for point in report.curve]
    assert coverages == sorted(set(coverages))
    assert coverages[-1] == 1.0
    assert report.curve[-1].selective_risk == pytest.approx(1 - report.accuracy)


def test_the_curve_does_not_depend_on_the_order_of_tied_rows(outputs_of: Maker, certificate: Maker) -> None:
    labels = np.repeat([0, 1], 50).astype(np.int8)
    rows = LabelledOutputs(outputs_of(np.full(100, -1.0)), labels, [str(i) for i in range(100)], ["g"] * 100)
    turned = LabelledOutputs(rows.outputs, labels[::-1].copy(), rows.row_ids, rows.groups)
    curves = [evaluate(data, certificate(), ProbabilityCalibrator()).curve for data in (rows, turned)]
    assert curves[0] == curves[1]


def test_scores_beyond_all_bounds_keep_the_log_loss_finite(outputs_of: Maker, certificate: Maker) -> None:
    labels = np.array([0, 1, 0, 1], np.int8)
    rows = LabelledOutputs(outputs_of(np.array([1e6, -1e6, 1.0, 1.0])), labels, list("abcd"), list("abcd"))
    assert np.isfinite(evaluate(rows, certificate(), ProbabilityCalibrator()).log_loss)
