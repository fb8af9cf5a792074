"""How much must be labelled before anything can be certified, in units: groups, or images that depend on no other."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stage1.certificate.budget import MOST_LOOKS, MOST_USES, Budget, Spending
from stage1.certificate.search.candidates import COVERAGE_MARGINS
from stage1.certificate.settings import MOST_SLACK
from stage1.certificate.statistics.binomial import losses_allowed, p_value, power, trials_needed
from stage1.errors import SettingsError

POWERS = (0.5, 0.8, 0.9)
# With more, the binomial tail is not known to three digits.
MOST_TRIALS = 10**7
SMALLEST = 1e-6


@dataclass(frozen=True)
class Question:
    """What somebody wants to certify, and what they expect.

    Shares are of units, and lie between one millionth and 1.

    Attributes:
        alpha: highest risk that may be certified.
        delta: one minus the confidence.
        expected_rate: the true risk they expect at the thresholds they hope for.
        spending: how delta is divided among certifications on the same rows.
        looks: how many share it where it is divided equally.
        earlier_uses: certifications that the rows have already been used for.
        subgroups: subgroups that each need a bound of their own, 0 for none.
        subgroup_slack: bound of a subgroup, as a multiple of alpha.
        exit_share: share of the positives that is expected to exit.
        prevalence: share of all units that show roadwork.
        calib_share: share of newly labelled units that reaches val_calib.

    Raises:
        SettingsError: a number is not in its range, or not a number; names each.
    """

    alpha: float = 0.02
    delta: float = 0.10
    expected_rate: float = 0.005
    spending: Spending = "looks"
    looks: int = 6
    earlier_uses: int = 0
    subgroups: int = 0
    subgroup_slack: float = 2.0
    exit_share: float = 0.8
    prevalence: float = 0.3
    calib_share: float = 1.0

    def __post_init__(self) -> None:
        shares = ("exit_share", "prevalence", "calib_share")
        _check(
            self,
            alpha=(SMALLEST <= self.alpha < 1, f"at least {SMALLEST:g} and below 1"),
            delta=(0 < self.delta < 1, "above 0 and below 1"),
            expected_rate=(0 <= self.expected_rate <= 1, "from 0 to 1"),
            looks=(1 <= self.looks <= MOST_LOOKS, f"from 1 to {MOST_LOOKS}"),
            earlier_uses=(0 <= self.earlier_uses <= MOST_USES, f"from 0 to {MOST_USES}"),
            subgroups=(self.subgroups >= 0, "0 or more"),
            subgroup_slack=(1 <= self.subgroup_slack <= MOST_SLACK, f"from 1 to {MOST_SLACK:g}"),
            **{name: (SMALLEST <= getattr(self, name) <= 1, f"from {SMALLEST:g} to 1") for name in shares},
        )
        if self.subgroups and self.subgroup_slack * self.alpha >= 1:
            raise SettingsError(
                f"subgroup_slack * alpha is {self.subgroup_slack * self.alpha:g}, which certifies nothing in a "
                "subgroup: lower one of them"
            )

    @property
    def level(self) -> float:
        """Level that the test is made at."""
        return self.budget.level

    @property
    def budget(self) -> Budget:
        """What the next certification may spend."""
        return Budget(self.spending, self.delta, self.looks, self.earlier_uses)


def _check(given: object, **ranges: tuple[bool, str]) -> None:
    """Refuse numbers that are not in their ranges; nan is in none."""
    wrong = [
        f"{name} is {getattr(given, name)}, it must be {range_}" for name, (fits, range_) in ranges.items() if not fits
    ]
    if wrong:
        raise SettingsError("; ".join(wrong))


@dataclass(frozen=True)
class Need:
    """Exited positives it takes for a power.

    Attributes:
        power: probability that the certificate succeeds.
        exited: exited positive units it takes; all units where a coverage is certified.
        losses: misses that are then still allowed.
        positives: positive units of val_calib so that so many exit.
        images: units of both classes in val_calib.
        labelled: units of both classes to label, of which a share reaches val_calib.
    """

    power: float
    exited: int
    losses: int
    positives: int
    images: int
    labelled: int


def fewest(question: Question) -> int:
    """Exited positives without which nothing can be certified, whatever the model."""
    return trials_needed(0, question.alpha, question.level)


def need(question: Question, wanted: float) -> Need | None:
    """What it takes to succeed with a wanted power; None if no number up to `MOST_TRIALS` is enough.

    Power is a saw: it falls while rows are added and jumps where one more loss is allowed. What is asked for is where a
    tooth begins on which it never falls below `wanted`. Later teeth are higher, but for a thousandth or so where the
    expected rate is close to alpha, because rows are whole.

    Args:
        question: what is to be certified.
        wanted: probability of success, between 0 and 1.

    Raises:
        SettingsError: `wanted` is not such a probability.
    """
    if not 0 < wanted < 1:
        raise SettingsError(f"the probability of success is {wanted}, it must be above 0 and below 1")
    if question.expected_rate >= question.alpha:
        return None

    def begins(losses: int) -> int:
        return trials_needed(losses, question.alpha, question.level)

    def enough(losses: int) -> bool:
        return p_value(losses, begins(losses + 1) - 1, question.expected_rate) >= wanted

    too_few, found = -1, 0
    while not enough(found):
        too_few, found = found, 2 * found + 1
        if begins(found) > 2 * MOST_TRIALS:
            return None
    while found - too_few > 1:
        middle = (too_few + found) // 2
        too_few, found = (too_few, middle) if enough(middle) else (middle, found)
    trials = begins(found)
    return _need(question, wanted, trials) if trials <= MOST_TRIALS else None


def subgroup_need(question: Question, wanted: float) -> Need | None:
    """What each subgroup takes for its own bound; None if there are none, or no number up to `MOST_TRIALS` is enough.

    Args:
        question: what is to be certified.
        wanted: probability of success in one subgroup.
    """
    if not question.subgroups:
        return None
    alone = Question(
        alpha=question.subgroup_slack * question.alpha,
        delta=question.level,
        expected_rate=question.expected_rate,
        spending="single_use",
        exit_share=question.exit_share,
        prevalence=question.prevalence,
        calib_share=question.calib_share,
    )
    return need(alone, wanted)


def chance(question: Question, exited: int) -> float:
    """Power with so many exited positives.

    Raises:
        SettingsError: there are fewer than none.
    """
    if exited < 0:
        raise SettingsError(f"{exited} roadwork units cannot exit: give 0 or more")
    return power(exited, question.expected_rate, question.alpha, question.level)


def _need(question: Question, wanted: float, exited: int) -> Need:
    positives = math.ceil(exited / question.exit_share)
    allowed = losses_allowed(exited, question.alpha, question.level)
    images = math.ceil(positives / question.prevalence)
    return Need(wanted, exited, allowed, positives, images, math.ceil(images / question.calib_share))


def coverage_level(question: Question) -> float:
    """Level of each bound in mode `coverage`: the rules that are tried share it."""
    return question.level / len(COVERAGE_MARGINS)


def coverage_need(question: Question, coverage: float, expected: float, wanted: float) -> Need | None:
    """Units of both classes it takes to certify an exit coverage; None if no number up to `MOST_TRIALS` is enough.

    Not to exit is the loss, and one minus the coverage its bound.

    Args:
        question: what is to be certified; gives the level.
        coverage: exit coverage to be certified.
        expected: the true one they expect.
        wanted: probability of success.

    Raises:
        SettingsError: a coverage is not a share.
    """
    if not 0 < coverage < 1:
        raise SettingsError(f"the exit coverage to certify is {coverage}, it must be above 0 and below 1")
    if not 0 <= expected <= 1:
        raise SettingsError(f"the expected exit coverage is {expected}, it must be from 0 to 1")
    covered = Question(
        alpha=1 - coverage,
        delta=coverage_level(question),
        expected_rate=1 - expected,
        spending="single_use",
        exit_share=1.0,
        prevalence=1.0,
        calib_share=question.calib_share,
    )
    return need(covered, wanted)
