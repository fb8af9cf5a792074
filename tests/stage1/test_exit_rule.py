"""What an exit rule decides whatever the last bits of its inputs are."""

from __future__ import annotations

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
