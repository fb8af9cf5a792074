"""How many images must be labelled: against the table of sample sizes, and against simulated certifications."""

from __future__ import annotations

import numpy as np
import pytest

from stage1.certificate.statistics.binomial import p_value, power
from stage1.certificate.statistics.multiplicity import spent
from stage1.certificate.statistics.sample_size import Question, chance, coverage_need, fewest, need, subgroup_need

SINGLE = Question(single_use=True)


@pytest.mark.parametrize(
    ("question", "positives"),
    [
        (SINGLE, 114),
        (Question(single_use=True, delta=0.05), 149),
        (Question(single_use=True, delta=0.01), 228),
        (Question(single_use=True, alpha=0.01), 230),
        (Question(single_use=True, alpha=0.05), 45),
    ],
)
def test_the_fewest_exited_positives(question: Question, positives: int) -> None:
    assert fewest(question) == positives


def test_rows_that_were_used_before_take_more() -> None:
    uses = [fewest(Question(earlier_uses=earlier)) for earlier in range(5)]
    assert uses[0] > fewest(SINGLE)
    assert uses == sorted(uses)
    assert Question(earlier_uses=2).level == spent(0.10, 2)


@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("rate", [0.002, 0.005, 0.01])
def test_the_power_is_there_and_stays(rate: float, wanted: float) -> None:
    question = Question(single_use=True, expected_rate=rate)
    found = need(question, wanted)
    assert found is not None
    assert min(chance(question, found.exited + more) for more in range(400)) >= wanted
    assert found.losses == max(k for k in range(100) if p_value(k, found.exited, 0.02) <= 0.10)


def test_so_many_certify_so_often() -> None:
    found = need(SINGLE, 0.8)
    assert found is not None
    misses = np.random.default_rng(1).binomial(found.exited, SINGLE.expected_rate, 5000)
    assert np.mean(misses <= found.losses) == pytest.approx(power(found.exited, 0.005, 0.02, 0.10), abs=0.02)


def test_images_follow_from_the_share_that_exits_and_the_prevalence() -> None:
    found = need(Question(single_use=True, exit_share=0.5, prevalence=0.25), 0.8)
    assert found is not None
    assert found.positives == 2 * found.exited
    assert found.images == 8 * found.exited


@pytest.mark.parametrize("rate", [0.02, 0.05])
def test_no_number_of_images_certifies_a_model_that_is_worse_than_the_bound(rate: float) -> None:
    assert need(Question(expected_rate=rate), 0.5) is None


def test_each_subgroup_needs_its_own() -> None:
    two, four = (subgroup_need(Question(single_use=True, subgroups=count), 0.8) for count in (2, 4))
    assert two is not None
    assert four is not None
    assert two.exited < four.exited
    alone = need(Question(single_use=True, alpha=0.04, delta=0.05), 0.8)
    assert alone is not None
    assert two.exited == alone.exited
    assert subgroup_need(SINGLE, 0.8) is None


def test_a_coverage_takes_so_many_units() -> None:
    found = coverage_need(SINGLE, 0.8, 0.85, 0.8)
    assert found is not None
    exits = np.random.default_rng(2).binomial(found.exited, 0.85, 5000)
    # Four rules are tried, each with a bound on its coverage and one on its risk.
    proved = [p_value(found.exited - int(k), found.exited, 0.2) <= 0.1 / 8 for k in exits]
    assert np.mean(proved) >= 0.8 - 0.02
    assert coverage_need(SINGLE, 0.9, 0.85, 0.5) is None
