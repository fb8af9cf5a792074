"""Bands of a new bundle: what is out of them, and how often a good bundle is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from engines.live.swap.bands import Answered, Counts, looks, more_than, out_of_band
from stage1.certificate.risks import Rate

EXITS = Rate.count(480, 600, 0.05)


def reason(counts: Counts, exits: Rate | None = EXITS, before: Counts | None = None) -> str | None:
    return out_of_band(counts, exits, before, false_alarm=0.001, looks_in_all=6)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (Counts(10, deferred=10), "0 of 10 requests exited, too few"),
        (Counts(200, deferred=90), "110 of 200 requests exited, too few"),
        (Counts(200, deferred=0), "200 of 200 requests exited, too many"),
        (Counts(10, failed=10), "failed on 10 of 10"),
        (Counts(200, failed=8, deferred=40), "failed on 8 of 200"),
        (Counts(200, deferred=40), None),
        (Counts(10, deferred=5), None),
        (Counts(200, failed=2, deferred=40), None),
        (Counts(), None),
    ],
)
def test_what_is_out_of_the_band_of_the_certificate(counts: Counts, said: str | None) -> None:
    found = reason(counts)
    assert (found is None) == (said is None)
    assert said is None or (found is not None and said in found)


def test_where_nothing_is_certified_only_failures_speak() -> None:
    assert reason(Counts(200, deferred=200), None) is None
    assert reason(Counts(200, failed=200), None) is not None


def test_what_the_bundle_before_did_too_speaks_against_the_stream() -> None:
    shifted = Counts(200, deferred=100)
    assert reason(shifted) is not None
    assert reason(shifted, before=Counts(400, deferred=200)) is None
    assert reason(shifted, before=Counts(400, deferred=80)) is not None
    # Ten requests before tell nothing, and excuse nothing.
    assert reason(shifted, before=Counts(10, deferred=5)) is not None
    sick = Counts(200, failed=20, deferred=40)
    assert reason(sick, before=Counts(400, failed=40, deferred=80)) is None


@pytest.mark.parametrize("share", [0.6, 0.8, 0.95])
def test_a_bundle_that_is_as_its_certificate_says_is_rarely_rolled_back(share: float) -> None:
    """At a stated rate of 0.05, over both draws: that of the calibration rows, and that of the requests."""
    rng, wrong, draws, at = np.random.default_rng(0), 0, 1500, looks(200)
    for _ in range(draws):
        exits = Rate.count(int(rng.binomial(600, share)), 600, 0.05)
        exited = rng.random(200) < share
        found = (
            out_of_band(
                Counts(number, deferred=int(number - exited[:number].sum())),
                exits,
                None,
                false_alarm=0.05,
                looks_in_all=len(at),
            )
            for number in at
        )
        wrong += any(one is not None for one in found)
    standard_error = (0.05 * 0.95 / draws) ** 0.5
    assert wrong / draws <= 0.05 + 3 * standard_error


@pytest.mark.parametrize(("events", "of", "earlier", "earlier_of"), [(3, 20, 1, 50), (10, 10, 5, 50), (0, 5, 0, 50)])
def test_fishers_test_is_scipys(events: int, of: int, earlier: int, earlier_of: int) -> None:
    table = np.array([[events, of - events], [earlier, earlier_of - earlier]])
    assert more_than(events, of, earlier, earlier_of) == pytest.approx(fisher_exact(table, "greater").pvalue)


def test_counts_are_those_of_the_requests() -> None:
    answered = [Answered(False, True, True), Answered(True, False, False), Answered(False, False, False)]
    assert Counts.of(answered) == Counts(requests=3, failed=1, deferred=1, fell_back=1)
    assert looks(10) == (10,)
