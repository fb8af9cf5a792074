"""Conformal risk training of the heads: the exit threshold that calibration would choose is inside the loss.

Each batch is cut in two. On one half the threshold t0 is the order statistic of the positives' scores that conformal
risk control would choose; on the other half the loss asks how many negatives would then be deferred. The gradient flows
through that order statistic into the scores it is made of.

References:
    Yeh, Christianson, Wierman, Yue (2025), Conformal risk training, arXiv 2510.08748.
    Angelopoulos, Bates, Fisch, Lei, Schuster (2022), Conformal risk control, arXiv 2208.02814, Theorem 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from offline.config import ConformalTrainingSettings
from offline.errors import TrainingError
from offline.training import EVAL_BATCH, ImageSet, SelectiveScore, selective_score
from stage1.calibration_settings import CalibrationSettings
from stage1.model import Stage1Net
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

FALSE_ALARM_WEIGHT = 5.0
POSITIVE_WEIGHT = 0.5
FALSE_ALARM_SHARE = 0.02
GATE_SHARE = 0.05
EVALUATE_EVERY = 25


def soft_threshold(positive_scores: Tensor, alpha: float) -> Tensor | None:
    """The threshold conformal risk control would choose for the miss rate, with gradient.

    The budget is k = floor(alpha (n + 1)) - 1 misses; the threshold is the mean of a few order statistics around the
    (k + 1)-th smallest score, so that more than one score receives gradient.

    Args:
        positive_scores: roadwork scores of positives, `(n,)`.
        alpha: miss rate, in (0, 1).

    Returns:
        A scalar, or None if n is too small for a budget of at least one.
    """
    count = len(positive_scores)
    budget = math.floor(alpha * (count + 1)) - 1
    if budget < 1:
        return None
    window = max(1, math.ceil(0.0125 * count))
    ordered = positive_scores.sort().values
    return ordered[max(0, budget - window) : budget + window + 1].mean()


def risk_loss(
    logits: Tensor, select_score: Tensor, labels: Tensor, settings: ConformalTrainingSettings
) -> Tensor | None:
    """Deferred negatives, false exits as 1 and undecided positives at the batch's own threshold.

    Args:
        logits: `(N, 2)`.
        select_score: `(N,)`.
        labels: `(N,)`, 0 or 1.
        settings: risk level and softness.

    Returns:
        A scalar, or None if the batch has too few positives.
    """
    score, half = logits[:, 1] - logits[:, 0], len(labels) // 2
    tau = select_score.detach().quantile(GATE_SHARE)
    gate = torch.sigmoid((select_score - tau) / (settings.temperature * select_score.detach().std() + 1e-6))
    calibrating = torch.arange(len(labels)) < half
    passing = calibrating & (labels == 1) & (gate.detach() >= 0.5)
    t0 = soft_threshold(score[passing], settings.alpha)
    negatives = calibrating & (labels == 0)
    if t0 is None or not negatives.any():
        return None
    t1 = score[negatives].detach().quantile(1 - FALSE_ALARM_SHARE)
    held = ~calibrating
    exit_zero = gate * torch.sigmoid((t0 - score) / settings.temperature)
    exit_one = gate * torch.sigmoid((score - t1) / settings.temperature)
    negative, positive = held & (labels == 0), held & (labels == 1)
    if not negative.any() or not positive.any():
        return None
    return (
        (1 - exit_zero[negative]).mean()
        + FALSE_ALARM_WEIGHT * exit_one[negative].mean()
        + POSITIVE_WEIGHT * (1 - exit_one[positive]).mean()
    )


@torch.no_grad()
def features(net: Stage1Net, images: Pixels) -> Tensor:
    """Backbone features `(N, 2 D)` in evaluation mode."""
    net.eval()
    return torch.cat(
        [net.features(torch.from_numpy(images[i : i + EVAL_BATCH])) for i in range(0, len(images), EVAL_BATCH)]
    )


def train_conformal_risk(
    net: Stage1Net,
    train: ImageSet,
    val_select: ImageSet,
    settings: ConformalTrainingSettings,
    calibration: CalibrationSettings,
    *,
    seed: int,
    progress: Callable[[int, int, str], None],
) -> tuple[SelectiveScore, SelectiveScore]:
    """Fine-tune the heads in place; the supervised heads stay if none is better on val_select.

    Args:
        net: merged, from the supervised stage.
        train: images that train.
        val_select: images that choose.
        settings: loss and schedule.
        calibration: risk level at which heads are judged.
        seed: seed of the batches.
        progress: called with steps done, steps in all, and a note.

    Returns:
        Scores on val_select before and after.

    Raises:
        TrainingError: the loss is not finite.
    """
    inputs, held = features(net, train.images), features(net, val_select.images)
    labels = torch.from_numpy(train.data.labels).long()
    heads = [*net.class_head.parameters(), *net.select_head.parameters()]
    optimiser = torch.optim.Adam(heads, lr=settings.learning_rate)
    rng = np.random.default_rng(seed)

    def judge() -> SelectiveScore:
        with torch.no_grad():
            logits, scores = net.heads(held)
        return selective_score(Stage1Outputs(logits.numpy(), scores.numpy()), val_select.data, calibration)

    before = best = judge()
    kept = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    size = min(settings.batch_size, len(labels))
    for step in range(1, settings.steps + 1):
        index = torch.from_numpy(rng.permutation(len(labels))[:size])
        logits, scores = net.heads(inputs[index])
        loss = settings.cross_entropy_weight * F.cross_entropy(logits, labels[index])
        risk = risk_loss(logits, scores, labels[index], settings)
        loss = loss if risk is None else loss + risk
        if not torch.isfinite(loss):
            raise TrainingError("conformal risk training diverged: lower train_conformal_risk.learning_rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % EVALUATE_EVERY == 0 or step == settings.steps:
            score = judge()
            if score > best:
                best, kept = score, {name: tensor.clone() for name, tensor in net.state_dict().items()}
        progress(step, settings.steps, f"exit coverage {before.coverage:.2f} -> {best.coverage:.2f}")
    net.load_state_dict(kept)
    return before, best
