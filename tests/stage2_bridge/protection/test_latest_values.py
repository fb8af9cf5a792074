"""The latest of a stream of numbers: shares of them, against a count of each."""

from __future__ import annotations

from random import Random

import pytest

from stage2_bridge.protection.latest_values import LatestValues


def test_of_few_nothing_is_said() -> None:
    latest = LatestValues(8, 4)
    for _ in range(3):
        latest.add(1.0)
    assert (latest.quantile(0.5), latest.reached_by(0.5)) == (None, None)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.95, 1.0])
def test_shares_are_those_of_the_latest_alone(share: float) -> None:
    stream = [float(Random(7 * number).randrange(9)) for number in range(100)]
    latest = LatestValues(32, 4)
    for value in stream:
        latest.add(value)
    kept = sorted(stream[-32:])
    assert latest.quantile(share) == next(one for one in kept if sum(other <= one for other in kept) >= share * 32)
    reached = [one for one in kept if sum(other >= one for other in kept) >= share * 32]
    assert latest.reached_by(share) == max(reached)
