"""How many images must be labelled before anything can be certified."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stage1.certificate.budget import Budget, Spending
from stage1.certificate.search.candidates import COVERAGE_MARGINS
from stage1.certificate.statistics.binomial import losses_allowed, p_value, power, trials_needed

POWERS = (0.5, 0.8, 0.9)
MOST_LOSSES = 2000


@dataclass(frozen=True)
class Question:
    """What somebody wants to certify, and what they expect.

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
        prevalence: share of images with roadwork.
        calib_share: share of newly labelled images that reaches val_calib.
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

    @property
    def level(self) -> float:
        """Level that the test is made at."""
        return self.budget.level

    @property
    def budget(self) -> Budget:
        """What the next certification may spend."""
        return Budget(self.spending, self.delta, self.looks, self.earlier_uses)


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
    """What it takes to succeed with a wanted power, from there on; None if no number of rows is enough.

    Power is a saw: it falls while rows are added and jumps where one more loss is allowed. What is asked for is the
    number from which on it never falls below `wanted` again before the next jump.

    Args:
        question: what is to be certified.
        wanted: probability of success.
    """
    if question.expected_rate >= question.alpha:
        return None
    for losses in range(MOST_LOSSES):
        there, then = (trials_needed(k, question.alpha, question.level) for k in (losses, losses + 1))
        if p_value(losses, then - 1, question.expected_rate) >= wanted:
            return _need(question, wanted, there)
    return None


def subgroup_need(question: Question, wanted: float) -> Need | None:
    """What each subgroup takes for its own bound; None if there are no subgroups, or no number is enough.

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
    """Power with so many exited positives."""
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
    """Units of both classes it takes to certify an exit coverage; None if no number is enough.

    Not to exit is the loss, and one minus the coverage its bound.

    Args:
        question: what is to be certified; gives the level.
        coverage: exit coverage to be certified.
        expected: the true one they expect.
        wanted: probability of success.
    """
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
