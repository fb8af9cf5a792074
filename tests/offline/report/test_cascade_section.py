"""The section on both stages together."""

from __future__ import annotations

import numpy as np
import pytest

from offline.evaluation.cascade_curve import WholeCascade
from offline.report.cascade_section import HOW_TO, cascade_lines, cascade_page, cascade_section, warnings_of
from tests.offline.evaluation.test_cascade_curve import joined, oracle, scores, stage1
from tests.offline.report.test_page import Page

ROWS = stage1()


def of_server(accuracy: float, seed: int = 1) -> WholeCascade:
    right = np.random.default_rng(seed).random(len(ROWS.labels)) < accuracy
    return joined(ROWS, np.where(right, oracle(ROWS), 1 - oracle(ROWS)))


@pytest.fixture(scope="module")
def good() -> WholeCascade:
    return of_server(0.97)


def test_the_words_name_the_point_that_earns_most_and_what_exits_cost(good: WholeCascade) -> None:
    text = " ".join(cascade_lines(good))
    assert "to hand everything on earns most" in text
    assert f"{good.point('all_to_stage2').reward.value:.3f}" in text
    assert "more than the certified policy" in text
    assert f"one more per cent of exits costs {-(good.slope.value or 0):.4f} of reward" in text
    assert f"On the {good.deferred.rows if good.deferred else 0} images" in text
    assert not warnings_of(good)
    assert "fitted on 100 rows of val_select, which are few" in text


def test_a_stage_2_that_is_no_better_is_warned_of() -> None:
    worse = of_server(0.4)
    [warning] = warnings_of(worse)
    assert "no better than Stage-1" in warning
    assert warning in cascade_lines(worse)
    assert 'class="bad"' in cascade_section([worse])
    alike = of_server(0.66, seed=6)
    assert alike.deferred is not None
    assert (alike.deferred.gained.value or 0) > 0
    assert "do not show" in warnings_of(alike)[0]


def test_a_stage_2_that_says_the_same_of_everything_is_warned_of() -> None:
    [warning] = warnings_of(joined(ROWS, np.full(len(ROWS.labels), 0.3)))
    assert "answers all 400 rows alike" in warning


def test_without_a_server_the_section_says_how_to_ask_one() -> None:
    section = cascade_section([])
    assert "<code>cascade stage2 evaluate --data DIR</code>" in section
    assert Page(section).text.endswith(HOW_TO.replace("`", ""))


def test_the_page_stands_alone_and_has_every_point(good: WholeCascade) -> None:
    named = good.model_copy(update={"server": "<yolo>", "unasked": 7, "refused": 3, "select_rows": 0})
    page = cascade_page([named], title="A & B", data="Data: somewhere.", infeasible=True)
    assert "http" not in page
    text = Page(page).text
    assert "The whole cascade, with <yolo>" in text
    for name in ("certified policy", "0.88 / 0.12 softmax", "everything handed on", "nothing handed on"):
        assert f". {name}" in text
    assert "Nothing is certified" in text
    assert "7 of 407 test rows have no score" in text
    assert "could not answer 3 of 400 rows" in text
    assert "too few scores of each class" in text
    assert "cost of 1000 images" in text


def test_without_a_price_no_cost_is_shown() -> None:
    free = joined(ROWS, oracle(ROWS), scores(oracle(ROWS), price=float("nan")))
    assert "cost of 1000" not in cascade_section([free])
