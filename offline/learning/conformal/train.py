"""Conformal risk training of the heads: the exit threshold that calibration would choose is inside the loss.

References:
    Yeh, Christianson, Wierman, Yue (2025), Conformal risk training, arXiv 2510.08748.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from offline.errors import TrainingError
from offline.learning.challenge_views import MOST_SEEDS, Challenges
from offline.learning.checkpoint_score import SelectiveScore, selective_score
from offline.learning.checkpoints import Checkpoints, Randomness, Trained
from offline.learning.conformal.risk_loss import RiskWeights, risk_loss
from offline.learning.predict import EVAL_BATCH, ImageSet, features, to_numpy
from offline.learning.settings import ConformalTrainingSettings
from stage1.certificate.settings import CalibrationSettings
from stage1.model.net import Stage1Net

EVALUATE_EVERY = 25


@dataclass
class HeadTraining:
    """How far the training is.

    Attributes:
        step: steps that are done.
        before: fields of the `SelectiveScore` of the heads as they came.
        score: those of the best heads.
        best: their tensors.
    """

    step: int = 0
    before: tuple[float, float, float] | None = None
    score: tuple[float, float, float] | None = None
    best: dict[str, Tensor] | None = None


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
) -> tuple[SelectiveScore, SelectiveScore]:
    """Fine-tune the heads in place; the supervised heads stay if none is better on val_select.

    Args:
        net: merged, from the supervised stage.
        train: images that train.
        val_select: images that choose, as they are sent.
        settings: loss and schedule.
        calibration: risk level at which heads are judged.
        seed: seed of the batches and of the views.
        progress: called with steps done, steps in all, and a note.
        challenges: makes views of the images that train, as they are sent; None where they are sent as they are.
        checkpoints: directory from which a killed training goes on; None for none.

    Returns:
        Scores on val_select before and after.

    Raises:
        TrainingError: the loss is not finite.
        TrainingInterrupted: the process was told to end; a checkpoint is written.
    """
    inputs, held = _views(net, train, challenges, settings.views, seed, progress), features(net, val_select.images)
    labels = torch.from_numpy(train.data.labels).long().to(inputs.device)
    codes = np.unique(train.data.groups, return_inverse=True)[1]
    groups = torch.from_numpy(codes.reshape(-1)).to(inputs.device)
    weights = RiskWeights(
        risk=settings.risk,
        alpha=settings.alpha,
        temperature=settings.temperature,
        cvar=settings.group_cvar,
        cvar_level=settings.group_cvar_level,
    )
    trained = Trained(class_head=net.class_head, select_head=net.select_head)
    optimiser = torch.optim.Adam([*net.class_head.parameters(), *net.select_head.parameters()], settings.learning_rate)
    random = Randomness.seeded(seed)
    decides = () if challenges is None else challenges.decides
    keeper = Checkpoints(
        checkpoints,
        [settings.model_dump(mode="json"), calibration.model_dump(mode="json"), seed, train.data.ids, decides],
        {"heads": trained, "optimiser": optimiser, "random": random},
    )

    def judge() -> tuple[float, float, float]:
        with torch.no_grad():
            outputs = to_numpy(net.outputs(held))
        return astuple(selective_score(outputs, val_select.data, calibration))

    at = HeadTraining(**(keeper.restore() or {}))
    if at.before is None or at.score is None:
        at.before = at.score = judge()
        at.best = trained.state_dict()
    size = min(settings.batch_size, len(labels))
    with keeper.watch(vars(at)) as watch:
        while at.step < settings.steps:
            index = torch.from_numpy(random.order.permutation(len(labels))[:size]).to(inputs.device)
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
                score = judge()
                if score > at.score:
                    at.score, at.best = score, trained.state_dict()
            progress(at.step, settings.steps, f"exit coverage {at.before[0]:.2f} -> {at.score[0]:.2f}")
            watch.step_done()
    assert at.best is not None
    trained.load_state_dict(at.best)
    return SelectiveScore(*at.before), SelectiveScore(*at.score)


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
