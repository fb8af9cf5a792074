"""Supervised training of Stage-1 with a parameter-efficient adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from offline.config import TrainSettings
from offline.dataset import Dataset
from offline.errors import TrainingError
from offline.modeling import parameter_groups
from stage1.calibration_settings import CalibrationSettings
from stage1.candidates import select
from stage1.model import Stage1Net
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels
from stage1.rows import LabelledOutputs

EVAL_BATCH = 64
BRIGHTNESS = 0.2


@dataclass(frozen=True, order=True)
class SelectiveScore:
    """How good a checkpoint is on val_select, best last when sorted: the exit coverage it promises, then its log-loss.

    Attributes:
        coverage: exit coverage at the hard rule that val_select would choose.
        negative_loss: minus the mean cross-entropy.
    """

    coverage: float
    negative_loss: float


@dataclass(frozen=True)
class ImageSet:
    """Preprocessed images with their rows.

    Attributes:
        images: uint8 `(N, 3, H, W)`.
        data: the rows, in the same order.
    """

    images: Pixels
    data: Dataset


def seeded_generator(seed: int) -> torch.Generator:
    """A torch generator on the CPU."""
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def predict(net: Stage1Net, images: Pixels) -> Stage1Outputs:
    """Outputs of the torch model in evaluation mode, for N images."""
    net.eval()
    parts = [net(torch.from_numpy(images[i : i + EVAL_BATCH])) for i in range(0, len(images), EVAL_BATCH)]
    logits, scores = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    return Stage1Outputs(logits.float().numpy(), scores.float().numpy())


def selective_score(outputs: Stage1Outputs, data: Dataset, settings: CalibrationSettings) -> SelectiveScore:
    """Judge a checkpoint by what the cascade is for: how much may exit at the risk that is to be certified."""
    labelled = LabelledOutputs(outputs, data.labels, data.ids, data.groups)
    loss = F.cross_entropy(torch.from_numpy(outputs.logits), torch.from_numpy(data.labels).long())
    return SelectiveScore(select(labelled, settings).expected_coverage, -float(loss))


def selection_loss(select_score: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the selection score against "the class head is right"; no gradient to the class head.

    Args:
        select_score: `(N,)`.
        logits: `(N, 2)`.
        labels: `(N,)`, 0 or 1.
    """
    right = (logits.detach().argmax(1) == labels).float()
    return F.binary_cross_entropy_with_logits(select_score, right)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random horizontal flip and brightness of a uint8 batch `(N, 3, H, W)`.

    Validators never flip vertically, so training does not either.
    """
    flip = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)
    gain = 1 + BRIGHTNESS * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)
    return (images * gain).clamp(0, 255).to(torch.uint8)


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Index arrays of one epoch, shuffled; a last short batch is dropped unless it is the only one."""
    order = rng.permutation(count)
    whole = max(1, count // size)
    for index in range(whole):
        yield order[index * size : (index + 1) * size]


def train_supervised(
    net: Stage1Net,
    train: ImageSet,
    val_select: ImageSet,
    settings: TrainSettings,
    calibration: CalibrationSettings,
    *,
    seed: int,
    progress: Callable[[int, int, str], None],
) -> tuple[SelectiveScore, list[dict[str, float]]]:
    """Train in place and leave the best checkpoint of val_select in `net`.

    Args:
        net: with adapters.
        train: images that train.
        val_select: images that choose the checkpoint.
        settings: optimiser and schedule.
        calibration: risk level at which checkpoints are judged.
        seed: seed of order and augmentation.
        progress: called after every step with steps done, steps in all, and a note.

    Returns:
        The score of the best checkpoint, and one record an epoch.

    Raises:
        TrainingError: the loss is not finite.
    """
    labels = torch.from_numpy(train.data.labels).long()
    rng, generator = np.random.default_rng(seed), seeded_generator(seed)
    optimiser = torch.optim.AdamW(parameter_groups(net, settings.weight_decay), lr=settings.learning_rate)
    total = settings.epochs * max(1, len(labels) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=total, pct_start=0.15)
    best: tuple[SelectiveScore, dict[str, Tensor]] | None = None
    records: list[dict[str, float]] = []
    done, note = 0, ""
    for epoch in range(settings.epochs):
        net.train()
        losses = []
        for index in batches(len(labels), settings.batch_size, rng):
            images = augment(torch.from_numpy(train.images[index]), generator)
            losses.append(_step(net, images, labels[index], settings, optimiser))
            schedule.step()
            done += 1
            progress(done, total, note)
        score = selective_score(predict(net, val_select.images), val_select.data, calibration)
        records.append(
            {
                "epoch": epoch + 1,
                "train_loss": float(np.mean(losses)),
                "val_select_loss": -score.negative_loss,
                "val_select_coverage": score.coverage,
            }
        )
        note = f"epoch {epoch + 1}: loss {-score.negative_loss:.3f}, exit coverage {score.coverage:.2f}"
        progress(done, total, note)
        if best is None or score > best[0]:
            best = score, {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
    assert best is not None
    net.load_state_dict(best[1])
    return best[0], records


def _step(
    net: Stage1Net, images: Tensor, labels: Tensor, settings: TrainSettings, optimiser: torch.optim.Optimizer
) -> float:
    logits, scores = net(images)
    loss = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
    loss = loss + settings.selection_weight * selection_loss(scores, logits, labels)
    value = float(loss.detach())
    if not np.isfinite(value):
        raise TrainingError(f"the loss is {value}: lower train_supervised.learning_rate")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([p for p in net.parameters() if p.requires_grad], settings.gradient_clip)
    optimiser.step()
    return value
