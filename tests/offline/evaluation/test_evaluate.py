"""Evaluation on the test rows: numbers that another library, or counting by hand, agrees with."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, matthews_corrcoef, roc_auc_score

from offline.evaluation.evaluate import EvaluationSettings, Report, evaluate, metrics_csv
from offline.evaluation.policy_comparison import mean_reward
from stage1.baselines.literature import reference_rules
from stage1.baselines.softmax import ThresholdPolicy, swept_thresholds
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.risks import Risk
from stage1.certificate.search.candidates import select
from stage1.certificate.settings import CalibrationSettings
from stage1.decisions import DEFERRED
from stage1.policy import ScrcPolicy
from stage1.probability.calibrator import ProbabilityCalibrator
from tests.support.calibrators import calibrator_of_slopes

Maker = Callable[..., Any]
CALIBRATOR = calibrator_of_slopes(0.8, 1.1, 0.2)
QUICK = EvaluationSettings(repetitions=100, seed=1)


@pytest.fixture(scope="module")
def test_rows(binormal: Maker) -> LabelledOutputs:
    """Test rows of 300 places, each by day or by night, in one of two kinds of weather."""
    rows: LabelledOutputs = binormal(900, seed=11, prefix="test/", frames=3)
    times = ["night" if i % 9 < 3 else "day" for i in range(900)]
    weather = ["rain" if i % 6 < 3 else "" for i in range(900)]
    return replace(rows, metadata={"daytime": times, "weather": weather, "city": [str(i) for i in range(900)]})


@pytest.fixture(scope="module")
def report(test_rows: LabelledOutputs, certificate: Maker, binormal: Maker) -> Report:
    settings = CalibrationSettings(alpha=0.05, gate_size=5, grid_size=40)
    chosen = binormal(900, seed=1)
    rules = reference_rules(
        chosen, binormal(900, seed=2), select(chosen, settings), alpha=0.05, delta=0.1, coverage=0.8
    )
    thresholds = swept_thresholds(chosen, alpha=0.05, false_alarm_rate=0.02)
    return evaluate(test_rows, certificate(), CALIBRATOR, rules, thresholds, QUICK)


def test_stage1_alone_is_scored_as_sklearn_scores_it(test_rows: LabelledOutputs, report: Report) -> None:
    probability, labels = CALIBRATOR.probability(test_rows.outputs), test_rows.labels
    predictions = probability > 0.5
    assert report.accuracy == pytest.approx(accuracy_score(labels, predictions))
    assert report.alone["mcc"].value == pytest.approx(matthews_corrcoef(labels, predictions))
    right = predictions == labels
    share, auroc = right.mean(), roc_auc_score(right, test_rows.outputs.select_score)
    assert report.alone["augrc"].value == pytest.approx((1 - auroc) * share * (1 - share) + (1 - share) ** 2 / 2)
    assert report.alone["excess_augrc"].value == pytest.approx((1 - auroc) * share * (1 - share))
    assert report.alone["auroc_of_failures"].value == pytest.approx(auroc)
    (quality,) = report.calibration.values()
    assert quality.negative_log_likelihood == pytest.approx(log_loss(labels, probability))
    assert quality.brier == pytest.approx(brier_score_loss(labels, probability))
    assert (report.rows, report.groups, report.positives) == (900, 300, int(labels.sum()))


@pytest.mark.parametrize("name", ["accuracy", "mcc", "augrc", "excess_augrc"])
def test_intervals_enclose_the_number_and_are_those_of_groups(
    test_rows: LabelledOutputs, report: Report, certificate: Maker, name: str
) -> None:
    """Frames of one place here share their label, and nothing else: a few rows a group widen the interval of rows."""
    number = report.alone[name]
    assert number.value is not None
    assert number.lower is not None
    assert number.upper is not None
    assert number.lower < number.value < number.upper
    again = evaluate(test_rows, certificate(), CALIBRATOR, settings=QUICK).alone[name]
    assert again == number


def test_without_repetitions_there_are_no_intervals(test_rows: LabelledOutputs, certificate: Maker) -> None:
    plain = evaluate(test_rows, certificate(), CALIBRATOR, settings=EvaluationSettings(repetitions=0))
    assert plain.alone["accuracy"].lower is None
    assert plain.gained == {}
    assert all(point.selective_risk.lower is None for point in plain.curve)


def test_rates_count_one_row_a_group(test_rows: LabelledOutputs, report: Report, certificate: Maker) -> None:
    exits = ScrcPolicy(certificate()).decide(test_rows.outputs).exit_label
    positive_exits = (test_rows.labels == 1) & (exits != DEFERRED)
    groups = {group for group, inside in zip(test_rows.groups, positive_exits, strict=True) if inside}
    scrc = report.policies[0]
    assert scrc.risks[Risk.MISS_EXIT].trials == len(groups)
    assert scrc.exit_coverage.trials == 300
    assert sum(scrc.levels.values()) == 900
    assert scrc.levels["CONFIDENT_0"] == np.sum(exits == 0)
    assert scrc.average_set_size == pytest.approx(2 - np.mean(exits != DEFERRED))


def test_only_one_policy_can_be_certified(report: Report) -> None:
    names = [policy.policy for policy in report.policies]
    assert names == [
        "scrc",
        "scrc_i",
        "scrc_t",
        "scrc_t_label",
        "crc",
        "threshold_baseline",
        "threshold_swept",
    ]
    assert [policy.policy for policy in report.policies if policy.certified] == ["scrc"]
    infeasible = report.policies[1]
    assert "takes" in infeasible.infeasible
    assert infeasible.exit_coverage.events == 0


@pytest.mark.parametrize("feasible", [True, False])
def test_nothing_but_a_certificate_certifies(test_rows: LabelledOutputs, certificate: Maker, feasible: bool) -> None:
    params: ScrcParams = certificate(feasible=feasible)
    for policy in evaluate(test_rows, params, CALIBRATOR, settings=QUICK).policies:
        assert policy.certified == (feasible and policy.policy == "scrc")


def test_exit_accuracy_is_of_what_exits(test_rows: LabelledOutputs, report: Report, certificate: Maker) -> None:
    exits = ScrcPolicy(certificate()).decide(test_rows.outputs).exit_label
    answered = exits != DEFERRED
    assert report.policies[0].exit_accuracy == pytest.approx(np.mean(exits[answered] == test_rows.labels[answered]))


def test_what_is_gained_is_the_difference_of_the_two_policies_on_the_same_rows(
    test_rows: LabelledOutputs, report: Report, certificate: Maker
) -> None:
    ours, theirs = (policy.decide(test_rows.outputs) for policy in (ScrcPolicy(certificate()), ThresholdPolicy()))
    gained = report.gained["exit_coverage"]
    assert gained.value == pytest.approx(ours.exits.mean() - theirs.exits.mean())
    assert gained.value is not None
    assert gained.lower is not None
    assert gained.upper is not None
    assert gained.lower <= gained.value <= gained.upper


def test_subgroups_are_the_values_of_columns_with_a_few(test_rows: LabelledOutputs, report: Report) -> None:
    found = {(subgroup.column, subgroup.value): subgroup for subgroup in report.subgroups}
    assert set(found) == {("daytime", "day"), ("daytime", "night"), ("weather", "rain"), ("weather", "unknown")}
    night = np.array(test_rows.metadata["daytime"]) == "night"
    predictions = CALIBRATOR.probability(test_rows.outputs) > 0.5
    assert found["daytime", "night"].rows == night.sum()
    assert found["daytime", "night"].positives == test_rows.labels[night].sum()
    assert found["daytime", "night"].accuracy == pytest.approx(np.mean(predictions[night] == test_rows.labels[night]))
    both = [found["daytime", value].exit_coverage.trials for value in ("day", "night")]
    assert sum(both) == 300
    worst = report.worst_subgroup
    assert worst is not None
    assert worst.miss_rate.upper == max(subgroup.miss_rate.upper for subgroup in report.subgroups)


def test_the_most_confident_mistakes_come_first(test_rows: LabelledOutputs, report: Report) -> None:
    probability = dict(zip(test_rows.row_ids, CALIBRATOR.probability(test_rows.outputs), strict=True))
    labels = dict(zip(test_rows.row_ids, test_rows.labels, strict=True))
    wrong = [abs(p - 0.5) for row, p in probability.items() if (p > 0.5) != labels[row]]
    told = [abs(mistake.probability - 0.5) for mistake in report.mistakes]
    assert told == pytest.approx(sorted(wrong, reverse=True)[: len(told)])
    assert len(told) == min(12, len(wrong))
    for mistake in report.mistakes:
        assert mistake.probability == pytest.approx(probability[mistake.row])
        assert mistake.label == labels[mistake.row]


def test_the_curve_ends_at_everything_answered(test_rows: LabelledOutputs, report: Report) -> None:
    coverages = [point.coverage for point in report.curve]
    assert coverages == sorted(set(coverages))
    last = report.curve[-1]
    assert last.coverage == 1.0
    assert last.selective_risk.value == pytest.approx(1 - report.accuracy)
    assert last.generalized_risk.value == pytest.approx(1 - report.accuracy)
    missed = CALIBRATOR.probability(test_rows.outputs)[test_rows.positive] <= 0.5
    assert last.miss_rate == pytest.approx(missed.mean())


def test_the_curve_does_not_depend_on_the_order_of_tied_rows(outputs_of: Maker, certificate: Maker) -> None:
    labels = np.repeat([0, 1], 50).astype(np.int8)
    rows = LabelledOutputs(outputs_of(np.full(100, -1.0)), labels, [str(i) for i in range(100)], ["g"] * 100)
    turned = LabelledOutputs(rows.outputs, labels[::-1].copy(), rows.row_ids, rows.groups)
    curves = [evaluate(data, certificate(), ProbabilityCalibrator(), settings=QUICK).curve for data in (rows, turned)]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 1


def test_scores_beyond_all_bounds_keep_the_log_loss_finite(outputs_of: Maker, certificate: Maker) -> None:
    labels = np.array([0, 1, 0, 1], np.int8)
    rows = LabelledOutputs(outputs_of(np.array([1e6, -1e6, 1.0, 1.0])), labels, list("abcd"), list("abcd"))
    found = evaluate(rows, certificate(), ProbabilityCalibrator(), settings=QUICK)
    assert all(np.isfinite(quality.negative_log_likelihood) for quality in found.calibration.values())


@pytest.mark.parametrize("label", [0, 1])
def test_a_single_class_is_survived(outputs_of: Maker, certificate: Maker, label: int) -> None:
    ids = [str(i) for i in range(30)]
    rows = LabelledOutputs(outputs_of(np.linspace(-3, 3, 30)), np.full(30, label, np.int8), ids, ids)
    found = evaluate(rows, certificate(), ProbabilityCalibrator(), settings=QUICK)
    assert found.positives == 30 * label
    assert found.alone["mcc"].value == 0.0


def test_the_reward_does_not_depend_on_how_a_file_lists_its_classes() -> None:
    """All of one class first would leave the windows with one class, and a reward of an eighth."""
    labels = np.repeat([0, 1], 500).astype(np.int8)
    assert mean_reward(labels, labels.astype(float), seed=0) > 0.9


def test_the_report_survives_the_disk(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path / "report.json")
    assert Report.read(tmp_path / "report.json") == report


def test_metrics_csv_is_one_metric_a_line_and_reads_back(report: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(metrics_csv(report))))
    found = {(row["policy"], row["metric"]): row for row in rows}
    assert len(found) == len(rows)
    assert float(found["stage1_alone", "accuracy"]["value"]) == pytest.approx(report.accuracy, abs=1e-6)
    miss = report.policies[0].risks[Risk.MISS_EXIT]
    assert int(found["scrc", "risk_D2"]["events"]) == miss.events
    assert float(found["scrc", "risk_D2"]["upper"]) == pytest.approx(miss.upper, abs=1e-6)
    assert {"risk_D1", "risk_D2'", "risk_D2", "risk_D3", "risk_D4", "risk_D5"} <= {metric for _, metric in found}
    assert found["scrc_i", "exit_accuracy"]["value"] == ""
    assert float(found[f"calibrator_{report.answers}", "brier"]["value"]) > 0
