"""What a certificate promises, and which of two promises is the weaker one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stage1.certificate.params import ScrcParams
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.statistics.percent import at_most
from stage1.certificate.terms import Terms

Certificate = Callable[..., ScrcParams]
COVER: dict[str, Any] = {"mode": "coverage", "coverage": 0.6}


def test_the_bound_that_mode_coverage_finds_is_promised(certificate: Certificate) -> None:
    params = certificate(**COVER)
    terms = Terms.of(params)
    assert terms.alpha == params.alpha == params.evidence[0].bound
    assert terms.beside == (("exit coverage", "", 0.6),)
    assert f"at most {at_most(params.alpha)} are exited as non-roadwork" in params.statement


def test_where_nothing_is_certified_mode_coverage_promises_no_bound(certificate: Certificate) -> None:
    params = certificate(**COVER, feasible=False)
    assert params.status == "INFEASIBLE"
    assert Terms.of(params).alpha is None


def test_a_higher_bound_is_weaker_and_a_lower_one_is_not(certificate: Certificate) -> None:
    """Fewer looks test at a higher level, which proves a lower bound from the same counts."""
    low, high = (Terms.of(certificate(**COVER, looks=looks)) for looks in (2, 60))
    assert low.alpha is not None
    assert high.alpha is not None
    assert low.alpha < high.alpha
    assert low != high
    assert low.asked_for == high.asked_for
    (why,) = high.weaker_than(low)
    assert why.startswith("the bound is ")
    assert low.weaker_than(high) == []


def test_the_last_digits_of_a_bound_that_was_found_make_no_other_promise(certificate: Certificate) -> None:
    terms = Terms.of(certificate(**COVER))
    assert terms.alpha is not None
    assert replace(terms, alpha=terms.alpha * (1 + 1e-12)).weaker_than(terms) == []


def test_bounds_that_look_the_same_in_print_are_told_apart(certificate: Certificate) -> None:
    terms = replace(Terms.of(certificate(**COVER)), alpha=0.02411)
    (why,) = replace(terms, alpha=0.02412).weaker_than(terms)
    assert why == "the bound is 2.4120000000% instead of 2.4110000000%"


def test_what_is_asked_for_may_find_the_bound_that_there_is(certificate: Certificate) -> None:
    held = Terms.of(certificate(**COVER))
    asked = Terms.asked(CalibrationSettings.model_validate(COVER), held)
    assert asked == held
    less = Terms.asked(CalibrationSettings.model_validate(COVER | {"coverage": 0.5}), held)
    assert less.weaker_than(held) == ["exit coverage is bounded by 0.5 instead of 0.6"]


def test_a_risk_is_asked_for_with_its_bound(certificate: Certificate) -> None:
    terms = Terms.of(certificate())
    assert (terms.alpha, terms.asked_for) == (0.05, terms)


@pytest.mark.parametrize(("alpha", "also"), [(1e-6, ()), (0.9, ("the bound is 90.0% instead of",))])
def test_a_claim_of_risk_is_another_one_than_a_claim_of_coverage(
    certificate: Certificate, alpha: float, also: tuple[str, ...]
) -> None:
    held = Terms.of(certificate(**COVER))
    why = Terms.asked(CalibrationSettings(alpha=alpha, subgroup_slack=1.0), held).weaker_than(held)
    assert why[-2:] == ["mode is risk instead of coverage", "exit coverage is not bounded"]
    assert len(why) == len(also) + 2
    assert all(reason.startswith(start) for reason, start in zip(why, also, strict=False))
