"""`cascade plan` in words and numbers."""

from __future__ import annotations

from collections.abc import Callable

from stage1.certificate.statistics.binomial import trials_needed, upper_bound
from stage1.certificate.statistics.percent import at_most, confidence
from stage1.certificate.statistics.sample_size import (
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

MISSES_SHOWN = (0, 1, 2, 3, 5, 10)


def told(question: Question, *, have: int | None = None, coverage: tuple[float, float] | None = None) -> str:
    """The whole answer.

    Args:
        question: what is to be certified, and what is expected.
        have: exited positives that are there already.
        coverage: exit coverage to certify and the one expected, in mode `coverage`.
    """
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
            question, lambda wanted: need(question, wanted), "no number of images is enough: the model misses more"
        ),
    ]
    if question.subgroups:
        bound = at_most(question.subgroup_slack * question.alpha)
        lines += [
            "",
            f"And in each of {question.subgroups} subgroups, for its own bound of {bound}:",
            *_table(question, lambda wanted: subgroup_need(question, wanted), "no number of images is enough"),
        ]
    if have is not None:
        lines += ["", f"With {have} that exit it succeeds with probability {chance(question, have):.2f}."]
    lines += ["", "Count groups, not frames: pictures of one place or drive are one unit."]
    return "\n".join(lines)


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
    lines = ["  to succeed with probability   roadwork that exits   roadwork in val_calib   images in it   to label"]
    lines += [
        f"  {item.power:>27.2f} {item.exited:>21} {item.positives:>23} {item.images:>14} {item.labelled:>10}"
        for item in found
        if item
    ]
    return [
        *lines,
        f"  if {question.exit_share:.0%} of the roadwork exits, {question.prevalence:.0%} of the images show any,",
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
        return [*lines, "  no number of images is enough: the target is not below what is expected."]
    lines += ["  to succeed with probability   images in val_calib   to label   miss rate certified, about"]
    for item in found:
        assert item is not None
        exited = round(item.exited * question.prevalence * question.exit_share)
        bound = upper_bound(round(question.expected_rate * exited), exited, coverage_level(question))
        lines.append(f"  {item.power:>27.2f} {item.exited:>21} {item.labelled:>10} {bound:>27.2%}")
    return [*lines, "", "Count groups, not frames: pictures of one place or drive are one unit."]
