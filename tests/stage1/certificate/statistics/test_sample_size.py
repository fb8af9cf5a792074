"""How many images must be labelled: against the table of sample sizes, and against simulated certifications."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri

from stage1.certificate.budget import spent_on
from stage1.certificate.statistics.binomial import p_value, power, trials_needed
from stage1.certificate.statistics.sample_size import Question, chance, coverage_need, fewest, need, subgroup_need
from stage1.errors import SettingsError

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


@pytest.mark.parametrize("wanted", [0.5, 0.9])
@pytest.mark.parametrize(("alpha", "rate"), [(0.02, 0.0), (0.02, 0.01), (0.02, 0.018), (0.05, 0.045), (0.2, 0.15)])
def test_it_is_the_first_tooth_of_the_saw_on_which_the_power_stays(alpha: float, rate: float, wanted: float) -> None:
    question = Question(alpha=alpha, expected_rate=rate)

    def enough(losses: int) -> bool:
        last = trials_needed(losses + 1, alpha, question.level) - 1
        return p_value(losses, last, rate) >= wanted

    first = next(losses for losses in range(2000) if enough(losses))
    found = need(question, wanted)
    assert found is not None
    assert (found.losses, found.exited) == (first, trials_needed(first, alpha, question.level))


def test_a_model_close_to_the_bound_takes_more_than_two_thousand_losses() -> None:
    question = Question(expected_rate=0.0195)
    found = need(question, 0.9)
    assert found is not None
    assert found.losses > 2000
    assert chance(question, found.exited) >= 0.9
    # By the normal approximation, to a hundredth.
    z = float(ndtri(1 - question.level)), float(ndtri(0.9))
    about = ((z[0] * np.sqrt(0.02 * 0.98) + z[1] * np.sqrt(0.0195 * 0.9805)) / 0.0005) ** 2
    assert found.exited == pytest.approx(about, rel=0.01)


def test_more_than_ten_million_are_as_good_as_none() -> None:
    assert need(Question(expected_rate=0.01999), 0.5) is None
    assert need(Question(alpha=1e-6, expected_rate=9.9e-7), 0.5) is None


def asked(**changes: Any) -> Question:
    return Question(**changes)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -0.1, 2.5])
@pytest.mark.parametrize(
    "name", ["alpha", "delta", "expected_rate", "subgroup_slack", "exit_share", "prevalence", "calib_share"]
)
def test_a_number_that_is_no_such_share_is_refused_by_its_name(name: str, wrong: float) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is {wrong}, it must be "):
        asked(**{name: wrong})


@pytest.mark.parametrize("name", ["alpha", "delta", "exit_share", "prevalence", "calib_share", "looks"])
def test_nothing_is_a_share_of_nothing(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is 0, it must be "):
        asked(**{name: 0})


@pytest.mark.parametrize("name", ["earlier_uses", "subgroups", "looks"])
def test_a_count_below_none_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is -1, it must be "):
        asked(**{name: -1})


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SettingsError, match=r"^alpha is 1, .*; delta is 2, .*; prevalence is 0, "):
        Question(alpha=1, delta=2, prevalence=0)


def test_a_bound_of_a_subgroup_that_certifies_nothing_is_refused() -> None:
    with pytest.raises(SettingsError, match="certifies nothing in a subgroup"):
        Question(alpha=0.5, subgroups=2)
    assert Question(alpha=0.5).subgroups == 0


@pytest.mark.parametrize("wrong", [0.0, 1.0, -2.0, float("nan")])
def test_what_is_asked_of_a_question_is_checked_too(wrong: float) -> None:
    with pytest.raises(SettingsError, match="probability of success is"):
        need(SINGLE, wrong)
    with pytest.raises(SettingsError, match="the exit coverage to certify is"):
        coverage_need(SINGLE, wrong, 0.85, 0.8)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_what_is_expected_is_a_share(wrong: float) -> None:
    with pytest.raises(SettingsError, match="the expected exit coverage is"):
        coverage_need(SINGLE, 0.8, wrong, 0.8)


def test_fewer_than_none_cannot_exit() -> None:
    with pytest.raises(SettingsError, match="give 0 or more"):
        chance(SINGLE, -1)


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
