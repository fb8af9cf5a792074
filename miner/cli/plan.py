"""`cascade plan` in words and numbers."""

from __future__ import annotations

from collections.abc import Callable

from stage1.certificate.statistics.binomial import trials_needed, upper_bound
from stage1.certificate.statistics.percent import at_most, confidence
from stage1.certificate.statistics.sample_size import (
    MOST_TRIALS,
    POWERS,
    Need,
    Question,
    chance,
    coverage_level,
    coverage_need,
    fewest,
    need,
    subgroup_need,
)
from stage1.errors import SettingsError

MISSES_SHOWN = (0, 1, 2, 3, 5, 10)
NOT_ENOUGH = f"no number of groups up to {MOST_TRIALS:,} is enough"
UNITS = "All counts are groups, not images: pictures of one place or drive are one group."


def told(question: Question, *, have: int | None = None, coverage: tuple[float, float] | None = None) -> str:
    """The whole answer.

    Args:
        question: what is to be certified, and what is expected.
        have: exited positives that are there already.
        coverage: exit coverage to certify and the one expected, in mode `coverage`.

    Raises:
        stage1.errors.SettingsError: a number is not in its range, or `have` is given with `coverage`.
    """
    if coverage is not None and have is not None:
        raise SettingsError(
            "--have counts roadwork that exits, and mode coverage counts all groups: leave it out there"
        )
    if coverage is not None:
        return "\n".join(_coverage(question, *coverage))
    sure = f"{confidence(question.delta)} confidence"
    lines = [
        f"To certify that at most {at_most(question.alpha)} of the roadwork that exits is missed, with {sure}:",
        f"  {_level(question)}",
        "",
        "  misses allowed        " + "".join(f"{k:>7}" for k in MISSES_SHOWN),
        "  roadwork that exits   "
        + "".join(f"{trials_needed(k, question.alpha, question.level):>7}" for k in MISSES_SHOWN),
        "",
        f"With fewer than {fewest(question)} nothing can be certified, whatever the model.",
        "",
        f"If the true miss rate on exits is {question.expected_rate:.2%}:",
        *_table(
            question,
            lambda wanted: need(question, wanted),
            f"{NOT_ENOUGH}: the model misses about as much as may be certified, or more",
        ),
    ]
    if question.subgroups:
        bound = at_most(question.subgroup_slack * question.alpha)
        lines += [
            "",
            f"And in each of {question.subgroups} subgroups, for its own bound of {bound}:",
            *_table(question, lambda wanted: subgroup_need(question, wanted), NOT_ENOUGH),
        ]
    if have is not None:
        sure = f"{chance(question, have):.2f}"
        lines += ["", f"With {have} groups of roadwork that exit it succeeds with probability {sure}."]
    return "\n".join([*lines, "", UNITS])


def _level(question: Question) -> str:
    if question.spending == "single_use":
        return "This certificate spends all of delta: it may be the only one on these rows."
    if question.spending == "nights":
        nights = "the first night" if not question.earlier_uses else f"night {question.earlier_uses + 1}"
        return (
            f"{nights} on these rows is tested at {question.level:.4f}, so that all nights together stay within "
            f"{question.delta:g}."
        )
    if not question.budget.affordable:
        return (
            f"These rows have been looked at {question.earlier_uses} times, and {question.looks} looks share delta: "
            "what follows is for a fresh fold, of rows that no look has used."
        )
    return (
        f"look {question.earlier_uses + 1} of {question.looks} at these rows is tested at {question.level:.4f}, so "
        f"that all of them together stay within {question.delta:g}."
    )


def _table(question: Question, find: Callable[[float], Need | None], otherwise: str) -> list[str]:
    found = [find(wanted) for wanted in POWERS]
    if any(item is None for item in found):
        return [f"  {otherwise}."]
    lines = [
        "  to succeed with probability   roadwork that exits   roadwork in val_calib   all in val_calib   to label"
    ]
    lines += [
        f"  {item.power:>27.2f} {item.exited:>21} {item.positives:>23} {item.images:>18} {item.labelled:>10}"
        for item in found
        if item
    ]
    return [
        *lines,
        f"  if {question.exit_share:.0%} of the roadwork exits, {question.prevalence:.0%} of all groups show any,",
        f"  and {question.calib_share:.0%} of what is labelled reaches val_calib.",
    ]


def _coverage(question: Question, coverage: float, expected: float) -> list[str]:
    sure = f"{confidence(question.delta)} confidence"
    lines = [
        f"To certify that at least {coverage:.1%} of the images exit, and the miss rate it costs, with {sure}:",
        f"  {_level(question)}",
        "",
        f"If {expected:.1%} really can exit, and {question.expected_rate:.2%} of the roadwork among them is missed:",
    ]
    found = [coverage_need(question, coverage, expected, wanted) for wanted in POWERS]
    if any(item is None for item in found):
        return [*lines, f"  {NOT_ENOUGH}: what is expected is about the target, or below it."]
    lines += ["  to succeed with probability   all in val_calib   to label   miss rate certified, about"]
    for item in found:
        assert item is not None
        exited = round(item.exited * question.prevalence * question.exit_share)
        bound = upper_bound(round(question.expected_rate * exited), exited, coverage_level(question))
        lines.append(f"  {item.power:>27.2f} {item.exited:>18} {item.labelled:>10} {bound:>27.2%}")
    return [*lines, "", UNITS]
