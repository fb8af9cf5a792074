"""The report: one self-contained page that says what was certified, or why nothing was."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from offline.evaluating import Report, evaluate, metrics_csv
from offline.reporting import render
from stage1.calibration import LabelledOutputs
from stage1.certificate import ScrcParams
from stage1.policy import ScrcPolicy, ThresholdPolicy
from stage1.probability import ProbabilityCalibrator
from stage1.risks import Risk


@pytest.fixture(scope="module")
def judged(
    binormal: Callable[..., LabelledOutputs], certificate: Callable[..., ScrcParams]
) -> Callable[[bool], tuple[ScrcParams, Report, LabelledOutputs]]:
    def judge(feasible: bool) -> tuple[ScrcParams, Report, LabelledOutputs]:
        params, test = certificate(feasible=feasible), binormal(600, seed=9, prefix="test/", separation=4.0)
        return params, evaluate(test, params, ProbabilityCalibrator()), test

    return judge


class Page(HTMLParser):
    """Collects text, and checks that what is opened is closed."""

    VOID = frozenset({"meta", "line", "polyline"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


Judge = Callable[[bool], tuple[ScrcParams, Report, LabelledOutputs]]


@pytest.mark.parametrize("feasible", [True, False])
def test_the_page_stands_alone_and_gives_the_certificate_in_words(judged: Judge, feasible: bool) -> None:
    params, report, _ = judged(feasible)
    page = render(report, params, title="A <night> & its report", data="Data: somewhere.")
    assert len(page) < 1_000_000
    assert "http" not in page
    text = Page(page).text
    assert "A <night> & its report" in text
    assert params.status in text
    assert (params.statement if feasible else params.reason) in " ".join(text.split())


def test_an_infeasible_report_says_that_everything_is_deferred(judged: Judge) -> None:
    params, report, _ = judged(False)
    assert "every image is deferred" in Page(render(report, params, title="t", data="d")).text
    assert report.policies[0].exit_coverage.events == 0
    assert report.policies[0].exit_accuracy is None


def test_the_baseline_stands_beside_the_certified_policy_and_is_never_certified(judged: Judge) -> None:
    params, report, test = judged(True)
    scrc, baseline = report.policies
    assert (scrc.certified, baseline.certified) == (True, False)
    for policy, told in ((ScrcPolicy(params), scrc), (ThresholdPolicy(), baseline)):
        exits = policy.decide(test.outputs).exit_label
        positive = test.labels == 1
        # One row a group here, so the groups' rate is the rows'.
        assert told.exit_coverage.events == (exits >= 0).sum()
        miss = told.risks[Risk.MISS_EXIT]
        assert (miss.events, miss.trials) == ((positive & (exits == 0)).sum(), (positive & (exits >= 0)).sum())


def test_metrics_csv_is_one_metric_a_line_and_reads_back(judged: Judge) -> None:
    _, report, _ = judged(True)
    rows = list(csv.DictReader(io.StringIO(metrics_csv(report))))
    found = {(row["policy"], row["metric"]): row for row in rows}
    assert float(found["stage1_alone", "accuracy"]["value"]) == pytest.approx(report.accuracy, abs=1e-6)
    miss = report.policies[0].risks[Risk.MISS_EXIT]
    assert int(found["scrc", "risk_D2"]["events"]) == miss.events
    assert float(found["scrc", "risk_D2"]["upper"]) == pytest.approx(miss.upper, abs=1e-6)
    assert {"risk_D1", "risk_D2", "risk_D3", "risk_D4", "risk_D5"} <= {metric for _, metric in found}
