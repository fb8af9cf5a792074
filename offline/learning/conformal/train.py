"""Conformal risk training of the heads: the exit threshold that calibration would choose is inside the loss.

References:
    Yeh, Christianson, Wierman, Yue (2025), Conformal risk training, arXiv 2510.08748.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from offline.errors import TrainingError
from offline.learning.challenge_views import MOST_SEEDS, Challenges
from offline.learning.checkpoints import Checkpoints, Randomness, Trained
from offline.learning.conformal.held_out_match import matched_shares
from offline.learning.conformal.keep_rule import HeadGain, halves, head_gain, rates_around
from offline.learning.conformal.risk_loss import RiskWeights, risk_loss
from offline.learning.predict import EVAL_BATCH, ImageSet, features
from offline.learning.settings import ConformalTrainingSettings
from stage1.certificate.settings import CalibrationSettings
from stage1.metrics.exits_at_risk import ExitShares
from stage1.model.net import Stage1Net

EVALUATE_EVERY = 25


@dataclass
class HeadTraining:
    """How far the training is.

    Attributes:
        step: steps that are done.
        before: mean share that exits at equal risk by the heads as they came, on the rows that choose.
        score: that of the best trained heads; minus infinity before there are any.
        best: their tensors.
    """

    step: int = 0
    before: float | None = None
    score: float = -float("inf")
    best: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class ConformalOutcome:
    """What became of the training.

    Attributes:
        gain: of the trained heads over those that they started from, on rows of val_select that chose neither.
        before: mean share that exits at miss rates around alpha by the heads as they came, on those rows.
        after: that of the trained heads.
    """

    gain: HeadGain
    before: float
    after: float


def train_conformal_risk(
    net: Stage1Net,
    train: ImageSet,
    val_select: ImageSet,
    settings: ConformalTrainingSettings,
    calibration: CalibrationSettings,
    *,
    seed: int,
    progress: Callable[[int, int, str], None],
    challenges: Challenges | None = None,
    checkpoints: Path | None = None,
) -> ConformalOutcome:
    """Fine-tune the heads in place; the heads as they came stay unless the others are shown to let more exit.

    Heads are judged by what exits at equal risk, which only the order of the scores decides: the loss moves the scores
    off the cut of 0.5, and that is neither gain nor loss. Where the rows that judge lack a class, nothing can be shown
    and nothing is trained. See `offline.learning.conformal.keep_rule`.

    Args:
        net: merged, from the supervised stage.
        train: images that train.
        val_select: images of which one half chooses a step and the other judges it, as they are sent.
        settings: loss and schedule.
        calibration: the gate, the miss rate that is to be certified, and the share of false alarms that sets t1.
        seed: seed of the batches, of the views and of the halves.
        progress: called with steps done, steps in all, and a note.
        challenges: makes views of the images that train, as they are sent; None where they are sent as they are.
        checkpoints: directory from which a killed training goes on; None for none.

    Raises:
        TrainingError: the loss is not finite.
        TrainingInterrupted: the process was told to end; a checkpoint is written.
    """
    _, judges = halves_of(val_select, seed)
    if len(np.unique(val_select.data.labels[judges])) < 2:
        # Nothing could be shown, and what is not shown is not kept.
        return ConformalOutcome(HeadGain(np.nan, np.nan), np.nan, np.nan)
    inputs, held = _views(net, train, challenges, settings.views, seed, progress), features(net, val_select.images)
    choose, judge = (_Held.of(held, val_select, rows, calibration) for rows in halves_of(val_select, seed))
    labels = torch.from_numpy(train.data.labels).long().to(inputs.device)
    codes = np.unique(train.data.groups, return_inverse=True)[1]
    groups = torch.from_numpy(codes.reshape(-1)).to(inputs.device)
    shares = None
    if settings.match_held_out:
        shares = matched_shares(
            _scores(net, inputs[0]), train.data.labels, _scores(net, choose.features), choose.labels
        )
    weights = RiskWeights(
        risk=settings.risk,
        alpha=settings.alpha,
        temperature=settings.temperature,
        gate=calibration.gate,
        false_alarm_share=calibration.false_alarm_rate,
        cvar=settings.group_cvar,
        cvar_level=settings.group_cvar_level,
    )
    trained = Trained(class_head=net.class_head, select_head=net.select_head)
    optimiser = torch.optim.Adam([*net.class_head.parameters(), *net.select_head.parameters()], settings.learning_rate)
    random = Randomness.seeded(seed)
    keeper = Checkpoints(
        checkpoints,
        _decides(settings, calibration, seed, train, val_select, challenges),
        {"heads": trained, "optimiser": optimiser, "random": random},
    )
    came, start, rates = trained.state_dict(), judge.shares(net), rates_around(calibration.alpha)
    at = HeadTraining(**(keeper.restore() or {}))
    if at.before is None:
        at.before = choose.shares(net).mean(rates)
    size = min(settings.batch_size, len(labels))
    with keeper.watch(vars(at)) as watch:
        while at.step < settings.steps:
            index = torch.from_numpy(_drawn(random.order, len(labels), size, shares)).to(inputs.device)
            view = torch.randint(len(inputs), (size,), generator=random.views).to(inputs.device)
            outputs = net.outputs(inputs[view, index])
            loss = settings.cross_entropy_weight * F.cross_entropy(outputs.logits, labels[index])
            risk = risk_loss(outputs.logits, outputs.select_score, labels[index], weights, groups[index])
            loss = loss if risk is None else loss + settings.risk_weight * risk
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss of conformal risk training is not finite in step {at.step + 1} of {settings.steps}, at "
                    f"a learning rate of {settings.learning_rate:.3g}: lower train_conformal_risk.learning_rate"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            at.step += 1
            if at.step % EVALUATE_EVERY == 0 or at.step == settings.steps:
                score = choose.shares(net).mean(rates)
                if at.best is None or score > at.score:
                    at.score, at.best = score, trained.state_dict()
            progress(at.step, settings.steps, f"exits at equal risk {at.before:.2f} -> {max(at.score, 0.0):.2f}")
            watch.step_done()
    assert at.best is not None
    trained.load_state_dict(at.best)
    end = judge.shares(net)
    gain = head_gain(start, end, judge.groups, alpha=calibration.alpha, seed=seed)
    if not gain.kept:
        trained.load_state_dict(came)
    return ConformalOutcome(gain, start.mean(rates), end.mean(rates))


def halves_of(val_select: ImageSet, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of val_select that choose, and rows that judge."""
    return halves(val_select.data.labels, val_select.data.groups, seed)


def choosing_of(val_select: ImageSet, seed: int) -> ImageSet:
    """The images of val_select that choose, also the checkpoint of the training before this one."""
    places, _ = halves_of(val_select, seed)
    return val_select.pick(places)


def _decides(
    settings: ConformalTrainingSettings,
    calibration: CalibrationSettings,
    seed: int,
    train: ImageSet,
    val_select: ImageSet,
    challenges: Challenges | None,
) -> list[Any]:
    """What a checkpoint belongs to."""
    views = () if challenges is None else challenges.decides
    rows = train.data.ids, val_select.data.ids
    return [settings.model_dump(mode="json"), calibration.model_dump(mode="json"), seed, *rows, views]


@dataclass(frozen=True)
class _Held:
    """One half of val_select.

    Attributes:
        features: `(N, width)`.
        labels: 0 or 1, `(N,)`.
        groups: of each row, `(N,)`.
        false_alarm_rate: share of the negatives that may exit as 1.
    """

    features: Tensor
    labels: NDArray[np.int8]
    groups: tuple[str, ...]
    false_alarm_rate: float

    @classmethod
    def of(cls, held: Tensor, val_select: ImageSet, rows: NDArray[np.intp], calibration: CalibrationSettings) -> _Held:
        index = torch.from_numpy(rows).to(held.device)
        groups = val_select.data.groups
        named = tuple(groups[row] for row in rows.tolist())
        return cls(held[index], val_select.data.labels[rows], named, calibration.false_alarm_rate)

    def shares(self, net: Stage1Net) -> ExitShares:
        """What the heads of a network say of these rows."""
        return ExitShares.of(_scores(net, self.features), self.labels, self.false_alarm_rate)


@torch.no_grad()
def _scores(net: Stage1Net, found: Tensor) -> NDArray[np.float32]:
    """Roadwork scores of features, `(N,)`."""
    logits = net.outputs(found).logits
    scores: NDArray[np.float32] = (logits[:, 1] - logits[:, 0]).float().cpu().numpy()
    return scores


def _drawn(rng: np.random.Generator, rows: int, size: int, shares: NDArray[np.float64] | None) -> NDArray[np.int64]:
    """Rows of a batch: all alike without repetition, or each as often as its share says."""
    return rng.permutation(rows)[:size] if shares is None else rng.choice(rows, size, p=shares)


def _views(
    net: Stage1Net,
    train: ImageSet,
    challenges: Challenges | None,
    count: int,
    seed: int,
    progress: Callable[[int, int, str], None],
) -> Tensor:
    """Features of views of the images that train, `(K, N, width)`; of images that are sent as they are K is 1."""
    if challenges is None:
        return features(net, train.images)[None]
    rows, found = range(len(train.data)), []
    for view, seeds in enumerate(np.random.default_rng(seed).integers(MOST_SEEDS, size=(count, len(rows))).tolist()):
        parts = []
        for start in range(0, len(rows), EVAL_BATCH):
            some = slice(start, start + EVAL_BATCH)
            parts.append(features(net, challenges(rows[some], seeds[some])))
        found.append(torch.cat(parts))
        progress(view + 1, count, "views of the images that train")
    return torch.stack(found)
