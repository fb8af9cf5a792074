"""What a simulation says: the reward of short streams, by hand, of any stream, by the oracle, and where it was lost."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from miner.simulation.endings import Ending
from miner.simulation.exchange import Exchange
from miner.simulation.result import Asked, SimulationResult, result_of
from miner.simulation.summary import NARROWEST, render_result
from tests.support.reward_oracle import rewards_of, score_of

NAN = math.nan
IN_TURN = [0, 1] * 60
ASKED = Asked("http://127.0.0.1:8091", "challenges-2026-05", 0, 3)


def exchange(number: int, label: int, answer: float | None) -> Exchange:
    """None is a request that nobody answered in time."""
    late = answer is None
    return Exchange(
        name=str(number),
        image=f"{number}.jpg",
        label=label,
        group=str(number),
        replied=not late,
        status=408 if late else 200,
        message="Request timeout after 9.0 seconds" if late else "Success",
        prediction=-1.0 if answer is None else answer,
        ms=9000.0 if late else 10.0 + number,
    )


def told(labels: list[int], answers: list[float | None]) -> SimulationResult:
    exchanges = [exchange(n, label, answer) for n, (label, answer) in enumerate(zip(labels, answers, strict=True))]
    return result_of(ASKED, exchanges, [None] * len(exchanges))


# Labels, answers, mean reward, reward of the last request, requests without a probability. R = (MCC/2 + accuracy/2)^3.
BY_HAND: dict[str, tuple[list[int], list[float | None], float, float, int]] = {
    # 1/8 for the first, where there is one class; then 1, 1, 1.
    "all right": ([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], 3.125 / 4, 1, 0),
    # MCC is floored at 0, accuracy is 0.
    "all wrong": ([0, 1, 0, 1], [0.9, 0.1, 0.8, 0.2], 0, 0, 0),
    # MCC 0, accuracy 1: (1/2)^3 each.
    "one class": ([1, 1, 1], [0.9, 0.9, 0.9], 1 / 8, 1 / 8, 0),
    # A half is 0: right, then wrong, (1/4)^3.
    "halves": ([0, 1], [0.5, 0.5], (1 / 8 + 1 / 64) / 2, 1 / 64, 0),
    # 1/8, nothing, then both classes are right.
    "one -1": ([0, 1, 1, 0], [0.1, -1.0, 0.9, 0.1], 2.125 / 4, 1, 1),
    # The same for one that is late; the third has one class, 1/8.
    "one late": ([0, 1, 0, 1], [0.1, None, 0.1, 0.9], (1 / 8 + 0 + 1 / 8 + 1) / 4, 1, 1),
    # Nothing while NaN is one of the last ten; the eleventh has accuracy 1 and MCC 0.
    "NaN": (IN_TURN[:11], [NAN, *map(float, IN_TURN[1:11])], 1 / 8 / 11, 1 / 8, 1),
    # Nothing came at all.
    "silence": ([0, 1], [None, None], 0, 0, 2),
    # The first wrong: MCC = 20 / sqrt(600), accuracy 9/10 at the tenth.
    "exactly ten": (IN_TURN[:10], [1.0, *map(float, IN_TURN[1:10])], math.nan, 0.632177, 0),
    # MCC = 49 / sqrt(51 * 49), accuracy 1.
    "exactly a hundred": (IN_TURN[:100], [1.0, *map(float, IN_TURN[1:100])], math.nan, 0.970587, 0),
    # The wrong one has left the hundred.
    "a hundred and one": (IN_TURN[:101], [1.0, *map(float, IN_TURN[1:101])], math.nan, 1, 0),
    # 1/8, then one class and half right, then MCC 1/2 and accuracy 2/3, then MCC 0 and half right.
    "in turn": (
        [0, 0, 1, 1],
        [0.1, 0.9, 0.9, 0.1],
        (1 / 8 + 1 / 64 + (7 / 12) ** 3 + 1 / 64) / 4,
        1 / 64,
        0,
    ),
    # 1.25 earns 0 and counts as 1, so that the third finds two classes.
    "penalty": ([0, 1, 1], [0.1, 1.25, 0.9], (1 / 8 + 0 + 1) / 3, 1, 1),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_a_short_stream_is_paid_as_worked_out_by_hand(case: str) -> None:
    labels, answers, mean, last, failed = BY_HAND[case]
    result = told(labels, answers)
    if not math.isnan(mean):
        assert result.paid.mean == pytest.approx(mean, abs=1e-12)
    assert result.paid.last == pytest.approx(last, abs=1e-6)
    assert result.failed == failed


ANSWERS = st.one_of(st.none(), st.sampled_from([-1.0, 0.0, 0.5, 0.6, 1.0, -0.25, 1.25, 1.75, NAN]))


@given(st.lists(st.tuples(st.integers(0, 1), ANSWERS), min_size=1, max_size=130))
def test_any_stream_is_paid_as_a_validator_pays_and_each_loss_is_worth_what_it_would_have_paid(
    rows: list[tuple[int, float | None]],
) -> None:
    labels, given_answers = [label for label, _ in rows], [answer for _, answer in rows]
    answers = [-1.0 if answer is None else answer for answer in given_answers]
    result = told(labels, given_answers)
    rewards = rewards_of(labels, answers)
    assert [row.reward for row in result.requests] == pytest.approx(rewards, abs=1e-12)
    assert result.paid.mean == pytest.approx(sum(rewards) / len(rewards), abs=1e-12)
    assert result.paid.last == pytest.approx(rewards[-1], abs=1e-12)
    assert result.paid.score == pytest.approx(score_of(labels, answers), abs=1e-12)
    for share in result.shares:
        ours = [row.ending is share.ending for row in result.requests]
        wrong = [one and not row.right for one, row in zip(ours, result.requests, strict=True)]
        assert (share.requests, share.lost) == (sum(ours), sum(wrong))
        mended = [float(label) if bad else answer for label, answer, bad in zip(labels, answers, wrong, strict=True)]
        assert share.if_right.mean == pytest.approx(sum(rewards_of(labels, mended)) / len(rows), abs=1e-12)
    assert sum(share.requests for share in result.shares) == len(rows)
    assert result.most.mean == pytest.approx(sum(rewards_of(labels, list(map(float, labels)))) / len(rows))


@given(st.lists(st.tuples(st.integers(0, 1), ANSWERS), min_size=1, max_size=40))
def test_any_result_is_a_file_and_fits_a_narrow_terminal(rows: list[tuple[int, float | None]]) -> None:
    result = told([label for label, _ in rows], [answer for _, answer in rows])
    assert SimulationResult.model_validate_json(result.to_json()) == result
    screen = io.StringIO()
    Console(file=screen, width=NARROWEST).print(render_result(result))
    assert max(map(len, screen.getvalue().splitlines())) <= NARROWEST
    assert "…" not in screen.getvalue()
    assert f"{result.paid.mean:.3f} on average" in screen.getvalue()


def test_the_timeline_covers_every_request_once() -> None:
    labels = IN_TURN[:37]
    answers: list[float | None] = [None if n == 36 else float(label) for n, label in enumerate(labels)]
    result = told(labels, answers)
    spans = [(window.first, window.last) for window in result.timeline]
    assert spans[0][0] == 1
    assert spans[-1][1] == 37
    assert all(after[0] == before[1] + 1 for before, after in pairwise(spans))
    assert sum(window.failed for window in result.timeline) == 1
    assert result.timeline[-1].accuracy == 1
    weighted = sum(window.reward * (window.last - window.first + 1) for window in result.timeline)
    assert weighted / 37 == pytest.approx(result.paid.mean)


def test_latency_is_that_of_the_answers(tmp_path: Path) -> None:
    result = told([0, 1, 0], [0.1, None, 0.2])
    assert (result.latency.p50, result.latency.longest) == (11.0, 12.0)
    assert result.requests[1].ending is Ending.LATE
    result.write(tmp_path / "result.json")
    assert SimulationResult.read(tmp_path / "result.json") == result


def test_a_file_whose_name_is_no_text_does_not_cost_the_result(tmp_path: Path) -> None:
    odd = replace(exchange(0, 1, 0.9), image="/srv/\udcff/0.jpg")
    result_of(ASKED, [odd], [None]).write(tmp_path / "result.json")
    assert SimulationResult.read(tmp_path / "result.json").requests[0].image == "/srv/\ufffd/0.jpg"
