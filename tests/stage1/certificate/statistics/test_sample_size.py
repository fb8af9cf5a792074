"""How many images must be labelled: against the table of sample sizes, and against simulated certifications."""

from __future__ import annotations

import numpy as np
import pytest

from stage1.certificate.budget import spent_on
from stage1.certificate.statistics.binomial import p_value, power
from stage1.certificate.statistics.sample_size import Question, chance, coverage_need, fewest, need, subgroup_need

SINGLE = Question(spending="single_use")


@pytest.mark.parametrize(
    ("question", "positives"),
    [
        (SINGLE, 114),
        (Question(spending="single_use", delta=0.05), 149),
        (Question(spending="single_use", delta=0.01), 228),
        (Question(spending="single_use", alpha=0.01), 230),
        (Question(spending="single_use", alpha=0.05), 45),
    ],
)
def test_the_fewest_exited_positives(question: Question, positives: int) -> None:
    assert fewest(question) == positives


def test_rows_that_were_used_before_take_more_by_nights_and_as_many_by_looks() -> None:
    nights = [fewest(Question(spending="nights", earlier_uses=earlier)) for earlier in range(5)]
    assert nights[0] > fewest(SINGLE)
    assert nights == sorted(nights)
    assert Question(spending="nights", earlier_uses=2).level == spent_on(0.10, 2)
    assert {fewest(Question(earlier_uses=earlier)) for earlier in range(5)} == {203}


def test_a_share_of_what_is_labelled_reaches_val_calib() -> None:
    whole, fifth = (need(Question(calib_share=share), 0.8) for share in (1.0, 0.2))
    assert whole is not None
    assert fifth is not None
    assert whole.labelled == whole.images == fifth.images
    assert fifth.labelled == 5 * fifth.images


@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("rate", [0.002, 0.005, 0.01])
def test_the_power_is_there_and_stays(rate: float, wanted: float) -> None:
    question = Question(spending="single_use", expected_rate=rate)
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
    found = need(Question(spending="single_use", exit_share=0.5, prevalence=0.25), 0.8)
    assert found is not None
    assert found.positives == 2 * found.exited
    assert found.images == 8 * found.exited


@pytest.mark.parametrize("rate", [0.02, 0.05])
def test_no_number_of_images_certifies_a_model_that_is_worse_than_the_bound(rate: float) -> None:
    assert need(Question(expected_rate=rate), 0.5) is None


def test_each_subgroup_needs_its_own_whatever_their_number() -> None:
    two, four = (subgroup_need(Question(spending="single_use", subgroups=count), 0.8) for count in (2, 4))
    assert two is not None
    assert two == four
    alone = need(Question(spending="single_use", alpha=0.04), 0.8)
    assert alone is not None
    assert two.exited == alone.exited
    assert subgroup_need(SINGLE, 0.8) is None


def test_a_coverage_takes_so_many_units() -> None:
    found = coverage_need(SINGLE, 0.8, 0.85, 0.8)
    assert found is not None
    exits = np.random.default_rng(2).binomial(found.exited, 0.85, 5000)
    # Four rules are tried.
    proved = [p_value(found.exited - int(k), found.exited, 0.2) <= 0.1 / 4 for k in exits]
    assert np.mean(proved) >= 0.8 - 0.02
    assert coverage_need(SINGLE, 0.9, 0.85, 0.5) is None
