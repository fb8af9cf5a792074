"""What an exit rule decides whatever the last bits of its inputs are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1.exit_rule import ExitRule, HeadAgreement
from stage1.outputs import Stage1Outputs

RULE = ExitRule(tau=0.0, t0=-1.0, t1=2.0)


def outputs(score: list[float], select: list[float], head: list[float] | None = None) -> Stage1Outputs:
    def logits(values: list[float]) -> np.ndarray:
        return np.stack([np.zeros(len(values)), np.asarray(values)], axis=1).astype(np.float32)

    heads = {} if head is None else {"works": logits(head)}
    return Stage1Outputs(logits(score), np.asarray(select, np.float32), heads)


def moved(values: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    return (values + rng.uniform(-0.0999, 0.0999, values.shape)).astype(np.float32)


class TestSettled:
    @pytest.mark.parametrize(
        ("score", "select", "settled"),
        [
            (-1.5, 1.0, True),
            (-1.001, 1.0, False),
            (-0.999, 1.0, False),
            (1.999, 1.0, False),
            (0.5, 1.0, True),
            (0.5, 0.0005, True),
            (-1.5, 0.0005, False),
            (-1.5, -0.1, True),
            (-1.001, -0.1, True),
        ],
    )
    def test_is_what_lies_farther_from_every_threshold_that_matters_than_the_tolerance(
        self, score: float, select: float, settled: bool
    ) -> None:
        assert RULE.settled(outputs([score], [select]), 1e-3).tolist() == [settled]

    def test_a_head_that_must_agree_counts_too(self) -> None:
        rule = RULE.model_copy(update={"agreement": (HeadAgreement(head="works", cut=0.5),)})
        found = rule.settled(outputs([-3, -3, 3, 0.5], [1, 1, 1, 1], [0.4995, 0.4, 0.5005, 0.5]), 1e-3)
        assert found.tolist() == [False, True, False, True]

    def test_settled_images_are_decided_alike_by_everything_within_the_tolerance(self) -> None:
        rng = np.random.default_rng(0)
        here = outputs(*(rng.normal(0, 3, 4000).tolist() for _ in range(3)))
        rule = RULE.model_copy(update={"agreement": (HeadAgreement(head="works", cut=0.5),)})
        settled = rule.settled(here, 0.1)
        assert 0.5 < settled.mean() < 0.99
        for _ in range(50):
            there = Stage1Outputs(
                moved(here.logits, rng), moved(here.select_score, rng), {"works": moved(here.heads["works"], rng)}
            )
            assert (rule.exit_labels(there) == rule.exit_labels(here))[settled].all()


class TestMargin:
    """A gate on the margin moves with the roadwork score."""

    def test_passes_whatever_the_selection_head_says(self, outputs_of: Callable[..., Stage1Outputs]) -> None:
        outputs = outputs_of(np.array([-3.0, 0.0, 3.0]), np.full(3, -9.0))
        rule = ExitRule(tau=0.0, t0=-1.0, t1=1.0, gate_score="margin")
        assert rule.gate(outputs).all()
        assert rule.exit_labels(outputs).tolist() == [0, -1, 1]

    @pytest.mark.parametrize(
        ("tau", "t0", "t1"), [(0.0, -1.0, 1.0), (0.5, 0.9, 0.9), (0.05, 0.4, 2.0), (2.0, 0.0, 0.0)]
    )
    def test_settled_is_what_no_move_changes(
        self, outputs_of: Callable[..., Stage1Outputs], tau: float, t0: float, t1: float
    ) -> None:
        rule, tolerance = ExitRule(tau=tau, t0=t0, t1=t1, gate_score="margin"), 0.1
        score = np.linspace(-3, 3, 601).astype(np.float32)
        moved = np.stack([rule.exit_labels(outputs_of(score + d)) for d in np.linspace(-0.2, 0.2, 401)])
        alike = (moved == moved[0]).all(axis=0)
        settled = rule.settled(outputs_of(score), tolerance)
        assert not (settled & ~alike).any()
        # What lies on the very edge of the tolerance may be told either way.
        assert np.sum(settled != alike) <= 8

    def test_a_rule_of_the_selection_score_is_written_as_it_was(self) -> None:
        """Seals of certificates that were written before rules named their gate hold."""
        rule = ExitRule(tau=0.5, t0=-1.0, t1=1.0)
        assert set(rule.model_dump()) == {"tau", "t0", "t1", "agreement"}
        assert ExitRule.model_validate_json(rule.model_dump_json()) == rule
        margin = ExitRule(tau=0.0, t0=-1.0, t1=1.0, gate_score="margin")
        assert margin.model_dump()["gate_score"] == "margin"
        assert ExitRule.model_validate_json(margin.model_dump_json()) == margin
