"""The gate: when a challenger may replace the champion."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from offline.config import GateSettings
from offline.evaluating import Report, evaluate
from offline.publishing import compare
from stage1.calibration import LabelledOutputs
from stage1.certificate import ScrcParams
from stage1.probability import ProbabilityCalibrator

GATE = GateSettings(coverage_margin=0.05, accuracy_margin=0.03)


@pytest.fixture(scope="module")
def judged(
    binormal: Callable[..., LabelledOutputs], certificate: Callable[..., ScrcParams]
) -> Callable[..., tuple[ScrcParams, Report]]:
    """A policy with its report on the same test rows."""

    def judge(*, feasible: bool = True, coverage: float | None = None, accuracy: float | None = None) -> tuple:
        params = certificate(feasible=feasible)
        report = evaluate(binormal(600, seed=5, prefix="test/"), params, ProbabilityCalibrator())
        if coverage is not None:
            scrc, baseline = report.policies
            rate = scrc.exit_coverage.model_copy(update={"events": round(coverage * scrc.exit_coverage.trials)})
            report = report.model_copy(update={"policies": (scrc.model_copy(update={"exit_coverage": rate}), baseline)})
        if accuracy is not None:
            report = report.model_copy(update={"accuracy": accuracy})
        return params, report

    return judge


def test_an_equal_challenger_passes(judged: Callable[..., tuple[ScrcParams, Report]]) -> None:
    assert compare(judged(), judged(), GATE) == []


def test_an_infeasible_challenger_never_replaces_a_certified_champion(
    judged: Callable[..., tuple[ScrcParams, Report]],
) -> None:
    reasons = compare(judged(feasible=False, coverage=1.0, accuracy=1.0), judged(), GATE)
    assert any("INFEASIBLE" in reason for reason in reasons)


def test_a_certified_challenger_replaces_an_infeasible_champion(
    judged: Callable[..., tuple[ScrcParams, Report]],
) -> None:
    assert compare(judged(), judged(feasible=False), GATE) == []


@pytest.mark.parametrize(("coverage", "passes"), [(0.56, True), (0.54, False), (0.9, True)])
def test_exit_coverage_may_fall_by_the_margin_and_no_more(
    judged: Callable[..., tuple[ScrcParams, Report]], coverage: float, passes: bool
) -> None:
    reasons = compare(judged(coverage=coverage), judged(coverage=0.6), GATE)
    assert (not reasons) == passes
    assert passes or "exit coverage falls" in reasons[0]


@pytest.mark.parametrize(("accuracy", "passes"), [(0.88, True), (0.86, False)])
def test_accuracy_may_fall_by_the_margin_and_no_more(
    judged: Callable[..., tuple[ScrcParams, Report]], accuracy: float, passes: bool
) -> None:
    assert (not compare(judged(accuracy=accuracy), judged(accuracy=0.9), GATE)) == passes
