"""The report: one self-contained page that says what was certified, or why nothing was."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import pytest

from offline.evaluation.evaluate import EvaluationSettings, Report, evaluate
from offline.report.charts import Chart, Marker, ticks
from offline.report.gate_section import NOT_JUDGED, with_verdict
from offline.report.page import render
from offline.report.where_it_looked import Look
from stage1.baselines.literature import reference_rules
from stage1.baselines.softmax import ThresholdPolicy, swept_thresholds
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.risks import Risk
from stage1.certificate.search.candidates import select
from stage1.certificate.settings import CalibrationSettings
from stage1.policy import ScrcPolicy
from stage1.probability.calibrator import ProbabilityCalibrator

Judge = Callable[[bool], tuple[ScrcParams, Report, LabelledOutputs]]
Rows = Callable[..., LabelledOutputs]


@pytest.fixture(scope="module")
def judged(binormal: Rows, certificate: Callable[..., ScrcParams]) -> Judge:
    def judge(feasible: bool) -> tuple[ScrcParams, Report, LabelledOutputs]:
        params, test = certificate(feasible=feasible), binormal(600, seed=9, prefix="test/", separation=4.0)
        chosen = binormal(600, seed=1)
        candidates = select(chosen, CalibrationSettings(gate_size=3, grid_size=30))
        rules = reference_rules(chosen, binormal(600, seed=2), candidates, alpha=0.05, delta=0.1, coverage=0.8)
        thresholds = swept_thresholds(chosen, alpha=0.05, false_alarm_rate=0.02)
        settings = EvaluationSettings(repetitions=50)
        return params, evaluate(test, params, ProbabilityCalibrator(), rules, thresholds, settings), test

    return judge


class Page(HTMLParser):
    """Collects text, and checks that what is opened is closed."""

    VOID = frozenset({"meta", "br", "img"})

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


@pytest.mark.parametrize("feasible", [True, False])
def test_the_page_stands_alone_and_gives_the_certificate_in_words(judged: Judge, feasible: bool) -> None:
    params, report, _ = judged(feasible)
    page = render(report, params, title="A <night> & its report", data="Data: somewhere.")
    assert len(page) < 1_000_000
    assert "http" not in page
    assert "<script" not in page
    text = Page(page).text
    assert "A <night> & its report" in text
    assert params.status in text
    assert (params.statement if feasible else params.reason) in " ".join(text.split())


def test_an_infeasible_report_says_that_everything_is_deferred(judged: Judge) -> None:
    params, report, _ = judged(False)
    text = Page(render(report, params, title="t", data="d", notes=["6 rows are in no set, as <a.jpg>"])).text
    assert "6 rows are in no set, as <a.jpg>" in text
    assert "every image is deferred" in text
    assert "certified" not in text.split("Policies side by side")[1].split("A rate stands")[0]
    assert report.policies[0].exit_coverage.events == 0
    assert report.policies[0].exit_accuracy is None


def test_the_verdict_of_the_gate_comes_into_the_place_that_is_left_for_it(judged: Judge) -> None:
    params, report, _ = judged(True)
    page = render(report, params, title="Report", data="Data.")
    assert page.count(NOT_JUDGED) == 1
    told = with_verdict(page, "KEEP", bundle="b" * 16, champion="c" * 16, reasons=["worse by < 0.1"], notes=["a note"])
    text = Page(told).text
    assert f"Gate: KEEP\nBundle {'b' * 16}: it stays a challenger. When it was judged, {'c' * 16} was current." in text
    assert "worse by < 0.1" in text
    assert "a note" in text
    assert told.replace(told[told.index("<h2>Gate") : told.index("<h2>On the test rows")], NOT_JUDGED + "\n") == page
    first = with_verdict(page, "PROMOTE", bundle="b", champion=None, reasons=(), notes=())
    assert "When it was judged, no bundle was current." in first
    assert "Reasons:" not in first
    again = with_verdict(page, "PROMOTE", bundle="b", champion="b", reasons=(), notes=())
    assert "When it was judged, it was current." in again
    with pytest.raises(ValueError, match="no place for the verdict"):
        with_verdict(told, "KEEP", bundle="b", champion=None, reasons=(), notes=())


def test_the_other_policies_stand_beside_the_certified_one(judged: Judge) -> None:
    params, report, test = judged(True)
    for policy, told in ((ScrcPolicy(params), report.policies[0]), (ThresholdPolicy(), report.policies[5])):
        exits = policy.decide(test.outputs).exit_label
        positive = test.labels == 1
        # One row a group here, so the groups' rate is the rows'.
        assert told.exit_coverage.events == (exits >= 0).sum()
        miss = told.risks[Risk.MISS_EXIT]
        assert (miss.events, miss.trials) == ((positive & (exits == 0)).sum(), (positive & (exits >= 0)).sum())
    table = Page(render(report, params, title="t", data="d")).text.split("Policies side by side")[1]
    shown = re.findall(r"(\d)\. ([^0-9]*)", table)
    assert [number for number, _ in shown[:7]] == list("1234567")
    assert "SCRC, certified" in table
    assert "infeasible: with 600 rows the correction alone" in table


def test_a_mistake_is_shown_by_its_thumbnail(judged: Judge) -> None:
    params, report, _ = judged(True)
    assert report.mistakes
    pictures = {mistake.row: f"JPEG of {mistake.row}".encode() for mistake in report.mistakes[1:]}
    page = render(report, params, title="t", data="d", thumbnails=pictures)
    shown = [base64.b64decode(found).decode() for found in re.findall(r'src="data:image/jpeg;base64,([^"]*)"', page)]
    assert shown == [f"JPEG of {mistake.row}" for mistake in report.mistakes[1:]]
    text = Page(page).text
    assert all(mistake.row in text for mistake in report.mistakes)


def test_below_it_is_where_the_network_looked(judged: Judge) -> None:
    params, report, _ = judged(True)
    row = report.mistakes[0].row
    thumbnails = {mistake.row: f"JPEG of {mistake.row}".encode() for mistake in report.mistakes}
    page = render(report, params, title="t", data="d", thumbnails=thumbnails, looks={row: Look(b"a map", 3, 196)})
    shown = [base64.b64decode(found).decode() for found in re.findall(r'base64,([^"]+)"', page)]
    assert shown[:2] == [f"JPEG of {row}", "a map"]
    assert "half of the attention on 3 of 196 places" in Page(page).text
    assert "where the network looked" in Page(page).text
    without = render(report, params, title="t", data="d", thumbnails=thumbnails)
    assert "where the network looked" not in Page(without).text


def test_subgroups_appear_if_the_data_name_any(judged: Judge) -> None:
    params, report, test = judged(True)
    assert "Subgroups" not in Page(render(report, params, title="t", data="d")).text
    named = LabelledOutputs(
        test.outputs, test.labels, test.row_ids, test.groups, {"daytime": ["day", "<night>"] * (len(test) // 2)}
    )
    told = evaluate(named, params, ProbabilityCalibrator(), settings=EvaluationSettings(repetitions=0))
    text = Page(render(told, params, title="t", data="d")).text
    assert "daytime: <night>" in text
    assert "(worst)" in text


class TestChart:
    @pytest.mark.parametrize("top", [1e-6, 0.013, 0.02, 0.1, 0.37, 0.5, 1.0])
    def test_ticks_are_a_few_round_numbers_inside(self, top: float) -> None:
        values = ticks(top)
        assert 2 <= len(values) <= 6
        assert values[0] > 0
        assert values[-1] <= top * (1 + 1e-9)
        steps = np.diff([0.0, *values])
        assert steps == pytest.approx(steps[0])

    def test_what_lies_above_is_drawn_at_the_edge(self) -> None:
        chart = Chart("c", x="x", y="y", top=0.1)
        chart.line([(0.0, 0.0), (1.0, 5.0)])
        (path,) = re.findall(r'class="curve" d="M([^"]*)"', chart.svg())
        heights = [float(point.split()[1]) for point in path.split("L")]
        assert min(heights) >= 0

    def test_no_marker_hides_another(self) -> None:
        chart = Chart("c", x="x", y="y", top=0.1)
        chart.markers([Marker(0.5, 0.05, str(i)) for i in range(4)])
        places = re.findall(r'cx="([\d.]+)" cy="([\d.-]+)"', chart.svg())
        assert len(set(places)) == 4

    def test_names_are_escaped(self) -> None:
        chart = Chart("a < b", x="x & y", y="<y>", top=0.1)
        chart.level(0.05, "<target>")
        Page(chart.svg())
        assert "<target>" not in chart.svg()
