"""The threshold inside the loss: its value is the conformal one, its gradient that of finite differences."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from offline.learning.conformal.risk_loss import (
    RiskWeights,
    conditional_value_at_risk,
    exit_one_threshold,
    implicit_threshold,
    order_statistic_threshold,
    risk_loss,
)
from stage1.baselines.literature import conformal_budget
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.search.candidates import select
from stage1.certificate.settings import CalibrationSettings
from stage1.outputs import Stage1Outputs

T1 = torch.tensor(1.5, dtype=torch.float64)


def positives(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scores and soft gates of roadwork in double precision, most of it far above the thresholds."""
    generator = torch.Generator().manual_seed(seed)
    score = 2.5 + 1.5 * torch.randn(count, generator=generator, dtype=torch.float64)
    gate = torch.sigmoid(4 * torch.rand(count, generator=generator, dtype=torch.float64) - 0.3)
    return score, gate


def differences(function: object, point: Tensor, step: float = 1e-6) -> Tensor:
    """Central finite differences of a scalar function of a vector."""
    assert callable(function)
    found = torch.zeros_like(point)
    for index in range(len(point)):
        shift = torch.zeros_like(point)
        shift[index] = step
        found[index] = (function(point + shift) - function(point - shift)) / (2 * step)
    return found


class TestOrderStatistic:
    @given(st.integers(60, 400), st.sampled_from([0.05, 0.1, 0.2]), st.integers(0, 5))
    def test_lies_where_conformal_risk_control_puts_it(self, count: int, alpha: float, seed: int) -> None:
        score, _ = positives(count, seed)
        everyone = torch.ones(count, dtype=torch.float64)
        budget = conformal_budget(count, alpha)
        found = order_statistic_threshold(score, everyone, alpha)
        if budget < 1:
            assert found is None
            return
        assert found is not None
        ordered = np.sort(score.numpy())
        window = max(1, math.ceil(0.0125 * count))
        assert ordered[max(0, budget - window)] <= float(found) <= ordered[min(count - 1, budget + window)]

    def test_what_the_gate_holds_back_is_never_missed_and_still_counts(self) -> None:
        score = torch.arange(200, dtype=torch.float64)
        gate = torch.where(score < 50, 0.1, 0.9).to(torch.float64)
        found = order_statistic_threshold(score, gate, 0.1)
        # Nineteen may be missed; the lowest fifty cannot be.
        assert found is not None
        assert float(found) == pytest.approx(50 + conformal_budget(200, 0.1), abs=1)

    @pytest.mark.parametrize("seed", range(3))
    def test_gradient_is_that_of_finite_differences(self, seed: int) -> None:
        score, gate = positives(150, seed)
        score.requires_grad_()
        found = order_statistic_threshold(score, gate, 0.1)
        assert found is not None
        (gradient,) = torch.autograd.grad(found, score)
        expected = differences(lambda s: order_statistic_threshold(s, gate, 0.1), score.detach())
        assert torch.allclose(gradient, expected, atol=1e-7)
        assert float(gradient.sum()) == pytest.approx(1.0)

    def test_too_few_positives_have_none(self) -> None:
        score, gate = positives(30, 0)
        assert order_statistic_threshold(score, gate, 0.05) is None


class TestImplicitThreshold:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("alpha", [0.05, 0.1])
    def test_meets_the_conformal_budget_of_the_ratio(self, seed: int, alpha: float) -> None:
        """(misses + 1) / (misses + hits + 1) = alpha in soft counts."""
        score, gate = positives(400, seed)
        found = implicit_threshold(score, gate, alpha, t1=T1, temperature=0.25)
        assert found is not None
        misses = float((gate * torch.sigmoid((found - score) / 0.25)).sum())
        hits = float((gate * torch.sigmoid((score - T1) / 0.25)).sum())
        assert (misses + 1) / (misses + hits + 1) == pytest.approx(alpha, rel=1e-6)

    def test_a_small_batch_meets_the_plain_ratio(self) -> None:
        score, gate = positives(40, 1)
        found = implicit_threshold(score, gate, 0.02, t1=T1, temperature=0.25)
        assert found is not None
        misses = float((gate * torch.sigmoid((found - score) / 0.25)).sum())
        hits = float((gate * torch.sigmoid((score - T1) / 0.25)).sum())
        assert misses / (misses + hits) == pytest.approx(0.02, rel=1e-6)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("alpha", [0.02, 0.1])
    def test_gradients_are_those_of_finite_differences(self, seed: int, alpha: float) -> None:
        """In the scores and in the gates; the bisection itself carries none."""
        score, gate = positives(120, seed)
        score.requires_grad_()
        gate.requires_grad_()
        found = implicit_threshold(score, gate, alpha, t1=T1, temperature=0.25)
        assert found is not None
        by_score, by_gate = torch.autograd.grad(found, [score, gate])
        held_score, held_gate = score.detach(), gate.detach()
        for gradient, expected in (
            (
                by_score,
                differences(lambda s: implicit_threshold(s, held_gate, alpha, t1=T1, temperature=0.25), held_score),
            ),
            (
                by_gate,
                differences(lambda g: implicit_threshold(held_score, g, alpha, t1=T1, temperature=0.25), held_gate),
            ),
        ):
            assert torch.allclose(gradient, expected, atol=1e-6, rtol=1e-4)
            assert float(gradient.abs().max()) > 1e-4

    def test_without_exits_there_is_none(self) -> None:
        score, gate = positives(100, 0)
        assert implicit_threshold(score, 0 * gate, 0.05, t1=T1, temperature=0.25) is None


class TestExitOneThreshold:
    @pytest.mark.parametrize("separation", [0.5, 2.0, 6.0])
    @pytest.mark.parametrize("share", [0.0, 0.02, 0.05, 0.2])
    def test_is_the_one_that_calibration_chooses(self, separation: float, share: float) -> None:
        """But for one negative, where no gap is too narrow for a threshold."""
        rng = np.random.default_rng(7)
        labels = (rng.random(400) < 0.4).astype(np.int8)
        score = rng.normal(labels * separation).astype(np.float32)
        found = float(exit_one_threshold(torch.from_numpy(score), torch.from_numpy(labels) == 1, share))
        outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], axis=1), np.zeros(400, np.float32))
        ids = [str(i) for i in range(400)]
        settings = CalibrationSettings(false_alarm_rate=share, unit="row")
        (chain,) = select(LabelledOutputs(outputs, labels, ids, ids), settings, tolerance=1e-9).chains
        between = (score > min(found, chain.t1)) & (score < max(found, chain.t1))
        assert np.sum(between & (labels == 0)) <= 1


class TestConditionalValueAtRisk:
    @given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9)), min_size=1, max_size=60), st.floats(0, 0.95))
    def test_is_the_mean_of_the_worst_groups(self, rows: list[tuple[float, int]], level: float) -> None:
        """By the variational form: the smallest t + E[max(0, loss - t)] / (1 - level) over t."""
        losses = torch.tensor([loss for loss, _ in rows], dtype=torch.float64)
        groups = torch.tensor([group for _, group in rows])
        means = [float(losses[groups == group].mean()) for group in groups.unique()]
        expected = min(t + np.mean(np.maximum(0, np.array(means) - t)) / (1 - level) for t in means)
        assert float(conditional_value_at_risk(losses, groups, level)) == pytest.approx(expected, abs=1e-9)

    def test_level_zero_is_the_mean_over_groups(self) -> None:
        losses, groups = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0, 1, 1, 1])
        assert float(conditional_value_at_risk(losses, groups, 0.0)) == 0.5


class TestRiskLoss:
    @pytest.mark.parametrize("risk", ["D1", "D2"])
    def test_gradient_is_that_of_finite_differences(self, risk: Literal["D1", "D2"]) -> None:
        generator = torch.Generator().manual_seed(3)
        labels = (torch.rand(200, generator=generator) < 0.6).long()
        logits = torch.randn(200, 2, generator=generator, dtype=torch.float64)
        logits[:, 1] += 3 * labels - 1
        select_score = torch.randn(200, generator=generator, dtype=torch.float64)
        groups = torch.arange(200) // 5
        weights = RiskWeights(risk=risk, alpha=0.1, gate="select_score", cvar=0.5)

        def loss(flat: Tensor) -> Tensor:
            found = risk_loss(flat.reshape(200, 2), select_score, labels, weights, groups)
            assert found is not None
            return found

        point = logits.reshape(-1).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(point), point)
        # t1 is a constant of the loss, so the rows that it lies between are left out.
        score = (logits[:, 1] - logits[:, 0])[:100]
        t1 = exit_one_threshold(score, labels[:100] == 1, weights.false_alarm_share)
        away = torch.ones(200, 2, dtype=torch.bool)
        away[(score - t1).abs().topk(4, largest=False).indices] = False
        away[score.masked_fill(labels[:100] == 1, -math.inf).topk(3).indices] = False
        expected = differences(lambda flat: loss(flat).detach(), point.detach())
        assert torch.allclose(gradient[away.reshape(-1)], expected[away.reshape(-1)], atol=1e-6, rtol=1e-3)

    def test_it_reaches_both_heads_through_the_threshold(self) -> None:
        generator = torch.Generator().manual_seed(0)
        labels = (torch.rand(400, generator=generator) < 0.4).long()
        score = torch.randn(400, generator=generator) + 3.0 * (labels - 0.5)
        logits = torch.stack([-score / 2, score / 2], dim=1).requires_grad_()
        select_score = torch.randn(400, generator=generator).requires_grad_()
        loss = risk_loss(logits, select_score, labels, RiskWeights(risk="D1", alpha=0.1, gate="select_score"))
        assert loss is not None
        loss.backward()
        assert logits.grad is not None
        assert select_score.grad is not None
        # Rows of the first half have no loss of their own: what reaches them came through t0, and only to positives.
        reached = logits.grad[:200].abs().sum(1) > 0
        assert reached.any()
        assert (labels[:200][reached] == 1).all()
        # Lifting the positives at the threshold lifts t0, and more negatives exit.
        assert (logits.grad[:200][reached][:, 1] < 0).all()
        assert select_score.grad[200:].abs().sum() > 0

    @pytest.mark.parametrize("positives", [0, 3, 200])
    def test_a_batch_that_cannot_set_a_threshold_has_none(self, positives: int) -> None:
        labels = (torch.arange(200) < positives).long()
        logits = torch.randn((200, 2), generator=torch.Generator().manual_seed(0))
        assert risk_loss(logits, logits[:, 0], labels, RiskWeights(risk="D1", alpha=0.1)) is None

    @pytest.mark.parametrize("label", [0, 1])
    def test_a_batch_of_one_class_has_none(self, label: int) -> None:
        logits, scores = torch.randn(100, 2), torch.randn(100)
        assert risk_loss(logits, scores, torch.full((100,), label), RiskWeights()) is None

    def test_less_is_deferred_at_the_same_risk_on_a_hard_cluster_of_roadwork(self) -> None:
        """A linear model; eight in a hundred of the roadwork lie where only one feature tells them apart."""
        plain = np.array([exits_after(None, seed) for seed in range(3)])
        for risk in ("D1", "D2"):
            gains = np.array([exits_after(risk, seed) for seed in range(3)]) - plain
            assert gains.min() > 0
            assert gains.mean() > 0.01


def hard_cluster(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features `(N, 3)` and labels."""
    labels = (torch.rand(count, generator=generator) < 0.4).long()
    hard = (torch.rand(count, generator=generator) < 0.08) & (labels == 1)
    features = torch.randn(count, 3, generator=generator)
    features[:, 0] += 3.0 * (labels == 1) * ~hard
    features[:, 1] += 1.5 * (labels == 1) * ~hard
    features[:, 2] += 4.0 * hard
    return features, labels


def exits_after(risk: Literal["D1", "D2"] | None, seed: int) -> float:
    """Share of the negatives that exit with 0 at a miss rate of 2%, on fresh rows, after training with this loss."""
    generator = torch.Generator().manual_seed(seed)
    features, labels = hard_cluster(20_000, generator)
    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(300):
        index = torch.randint(len(labels), (2000,), generator=generator)
        logits = model(features[index])
        loss = torch.nn.functional.cross_entropy(logits, labels[index])
        if risk is not None and step >= 100:
            weights = RiskWeights(risk=risk, alpha=0.02, undecided=0.0, false_alarm=0.0)
            found = risk_loss(logits, torch.zeros(2000), labels[index], weights)
            assert found is not None
            loss = 0.1 * loss + found
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    fresh, truth = hard_cluster(100_000, generator)
    with torch.no_grad():
        logits = model(fresh)
    score = logits[:, 1] - logits[:, 0]
    threshold = score[truth == 1].quantile(0.02)
    return float((score[truth == 0] < threshold).float().mean())
