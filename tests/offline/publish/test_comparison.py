"""Two bundles on the same rows: how often a worse one passes, and an equal one does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.rivals import rivals
from offline.publish.comparison import Comparison, compare
from offline.publish.settings import GateSettings
from stage1.certificate.params import ScrcParams

GATE = GateSettings(repetitions=200)
DRAWS = 200


@pytest.fixture(scope="module")
def promoted(certificate: Callable[..., ScrcParams]) -> Callable[..., float]:
    """How often a challenger with these true rates passes beside a champion of 0.9 and 0.7."""

    def frequency(groups: int, *, accuracy: float = 0.9, coverage: float = 0.7) -> float:
        rng, passes = np.random.default_rng(groups), 0
        for draw in range(DRAWS):
            new, old = rivals(certificate(), rng, groups, accuracy=(accuracy, 0.9), coverage=(coverage, 0.7))
            passes += not compare(new, old, "champion", GATE, like=True, seed=draw).reasons
        return passes / DRAWS

    return frequency


@pytest.mark.parametrize("groups", [100, 300])
@pytest.mark.parametrize("worse", [{"accuracy": 0.9 - GATE.accuracy_margin}, {"coverage": 0.7 - GATE.coverage_margin}])
def test_one_that_is_worse_by_the_margin_passes_in_one_of_ten_nights_at_most(
    promoted: Callable[..., float], groups: int, worse: dict[str, float]
) -> None:
    allowed = 1 - GATE.confidence
    assert promoted(groups, **worse) <= allowed + 3 * math.sqrt(allowed * (1 - allowed) / DRAWS)


def test_an_equal_one_passes_where_there_are_groups_enough(promoted: Callable[..., float]) -> None:
    # In one night of ten each of two equal rates looks lower, and then the champion stays without harm.
    assert promoted(1000) > 0.75
    assert promoted(100) < promoted(1000)


def test_a_loss_within_the_margin_that_is_seen_does_not_pass_night_after_night(
    promoted: Callable[..., float],
) -> None:
    """Three points of coverage a night are within the margin of five; many groups show them."""
    assert promoted(2000, coverage=0.67) < 0.2


def test_a_loss_within_the_margin_passes_beside_a_gain(promoted: Callable[..., float]) -> None:
    assert promoted(1000, accuracy=0.89, coverage=0.78) > 0.9


def test_a_better_one_passes_with_fewer(promoted: Callable[..., float]) -> None:
    assert promoted(300, accuracy=0.93, coverage=0.75) > 0.9


def found(certificate: Callable[..., ScrcParams], *, like: bool = True, night: float = 0.9) -> Comparison:
    """Models of equal rates, but for the accuracy of the challenger where it is night."""
    rng = np.random.default_rng(0)
    new, old = rivals(certificate(), rng, 600, accuracy=(0.97, 0.97))
    dark = np.arange(len(new.rows)) // 3 % 10 == 0
    rows = replace(new.rows, metadata={"daytime": np.where(dark, "night", "day").tolist()})
    wrong = dark & (rng.random(len(rows)) > night)
    return compare(
        replace(new, rows=rows, right=new.right & ~wrong), replace(old, rows=rows), "champion", GATE, like=like
    )


def test_exits_are_compared_only_where_both_promise_the_same(certificate: Callable[..., ScrcParams]) -> None:
    names = [{loss.of for loss in found(certificate, like=like).losses} for like in (True, False)]
    assert names[0] - names[1] == {"exit coverage"}


def test_a_subgroup_that_is_clearly_worse_keeps_the_champion(certificate: Callable[..., ScrcParams]) -> None:
    assert found(certificate, night=1.0).reasons == ()
    reasons = found(certificate, night=0.75).reasons
    (reason,) = [reason for reason in reasons if reason.startswith("accuracy where daytime is night differs by -0.")]
    assert "a loss of more than 0.1" in reason
