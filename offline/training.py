"""Supervised training of Stage-1 with a parameter-efficient adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from offline.augmentation import augmenter, frame_aspects
from offline.checkpoints import Checkpoints, Randomness, Stateful, Trained, Watch
from offline.config import Precision, TrainSettings
from offline.dataset import Dataset
from offline.errors import TrainingError
from offline.modeling import parameter_groups
from offline.optimisers import Average, Update, Updater, autocast, build_optimiser, build_scaler, build_schedule
from stage1.calibration_settings import CalibrationSettings
from stage1.candidates import select
from stage1.model import Stage1Net
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels
from stage1.rows import LabelledOutputs

EVAL_BATCH = 64
# So many batches in a row without a finite gradient are no search for a loss scale any more.
MOST_LEFT_OUT = 20


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


@dataclass
class Progress:
    """How far a training is; everything that its loop needs to go on.

    Attributes:
        epoch: epochs that are done.
        step: steps of the next epoch that are done.
        order: rows of that epoch in their order, `(N,)`; None before it is drawn.
        losses: of its steps.
        left_out: batches in a row that were left out because a number was not finite.
        records: one an epoch that is done.
        score: coverage and negative loss of the best checkpoint.
        best: its tensors.
        note: what to show.
    """

    epoch: int = 0
    step: int = 0
    order: Tensor | None = None
    losses: list[float] = field(default_factory=list)
    left_out: int = 0
    records: list[dict[str, float]] = field(default_factory=list)
    score: tuple[float, float] | None = None
    best: dict[str, Tensor] | None = None
    note: str = ""


def device_of(net: nn.Module) -> torch.device:
    """Where the network is."""
    return next(net.parameters()).device


@torch.no_grad()
def predict(
    net: Stage1Net, images: Pixels, precision: Precision = "fp32", check: Callable[[], None] = lambda: None
) -> Stage1Outputs:
    """Outputs of the torch model in evaluation mode, for N images.

    Args:
        net: anywhere.
        images: uint8 `(N, 3, H, W)`.
        precision: of the forward pass.
        check: called before each batch; may raise.
    """
    net.eval()
    device = device_of(net)
    parts = []
    for start in range(0, len(images), EVAL_BATCH):
        check()
        with autocast(device, precision):
            parts.append(net(torch.from_numpy(images[start : start + EVAL_BATCH]).to(device)))
    logits, scores = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    return Stage1Outputs(logits.float().cpu().numpy(), scores.float().cpu().numpy())


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


def epoch_order(labels: NDArray[np.int8], rng: np.random.Generator, *, balanced: bool) -> NDArray[np.intp]:
    """The rows of one epoch in their order, `(N,)`.

    Args:
        labels: `(N,)`.
        rng: draws the order.
        balanced: give every class the same number of rows. A larger class is drawn from without replacement; a smaller
            one is gone through again and again, each time in a new order.
    """
    if not balanced:
        return rng.permutation(len(labels))
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    wanted = np.diff(np.linspace(0, len(labels), len(classes) + 1).astype(int))
    drawn = [
        np.concatenate([rng.permutation(rows) for _ in range(-(-count // len(rows)))])[:count]
        for rows, count in zip(classes, wanted, strict=True)
    ]
    return rng.permutation(np.concatenate(drawn))


def batches(order: NDArray[np.intp], size: int) -> list[NDArray[np.intp]]:
    """An epoch's rows in batches; a last short batch is dropped unless it is the only one."""
    return [order[index * size : (index + 1) * size] for index in range(max(1, len(order) // size))]


def check_both_classes(data: Dataset) -> None:
    """Refuse to train on one class.

    Raises:
        TrainingError: it would be.
    """
    positives = int(data.labels.sum())
    if not 0 < positives < len(data):
        raise TrainingError(
            f"{positives} of the {len(data)} rows that train show roadwork: both classes are needed, so add rows of "
            "the other one or choose other splits"
        )


def supervised_loss(logits: Tensor, select_score: Tensor, labels: Tensor, settings: TrainSettings) -> Tensor:
    """Cross-entropy of the class head and the loss of the selection head, a scalar."""
    loss = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
    return loss + settings.selection_weight * selection_loss(select_score, logits, labels)


def train_supervised(
    net: Stage1Net,
    train: ImageSet,
    val_select: ImageSet,
    settings: TrainSettings,
    calibration: CalibrationSettings,
    *,
    seed: int,
    progress: Callable[[int, int, str], None],
    checkpoints: Path | None = None,
) -> tuple[SelectiveScore, list[dict[str, float]]]:
    """Train in place and leave the best checkpoint of val_select in `net`.

    Args:
        net: with adapters, on the device that is to train.
        train: images that train.
        val_select: images that choose the checkpoint.
        settings: optimiser and schedule.
        calibration: risk level at which checkpoints are judged.
        seed: seed of order and augmentation.
        progress: called after every step with steps done, steps in all, and a note.
        checkpoints: directory from which a killed training goes on; None for none.

    Returns:
        The score of the best checkpoint, and one record an epoch.

    Raises:
        TrainingError: a class has no row to train on, a loss or a gradient is not finite, or the checkpoint is of
            another training.
        TrainingInterrupted: the process was told to end; a checkpoint is written.
    """
    check_both_classes(train.data)
    return _Supervised(net, train, val_select, settings, calibration, seed, progress, checkpoints).run()


class _Supervised:
    """The loop of `train_supervised`, with its arguments."""

    def __init__(
        self,
        net: Stage1Net,
        train: ImageSet,
        val_select: ImageSet,
        settings: TrainSettings,
        calibration: CalibrationSettings,
        seed: int,
        progress: Callable[[int, int, str], None],
        checkpoints: Path | None,
    ) -> None:
        self._net, self._train, self._val_select = net, train, val_select
        self._settings, self._calibration, self._tell = settings, calibration, progress
        self._device = device_of(net)
        self._labels = torch.from_numpy(train.data.labels).long().to(self._device)
        self._augment = augmenter(settings.augmentation)
        uses_aspects = settings.augmentation != "light"
        self._aspects = torch.from_numpy(frame_aspects(train.data)) if uses_aspects else torch.ones(len(self._labels))
        self._steps = max(1, len(self._labels) // settings.batch_size)
        self._trained = Trained(net=net)
        self._random = Randomness.seeded(seed)
        self._average = Average(net, settings.ema_decay) if settings.ema_decay else None
        self._optimiser = build_optimiser(parameter_groups(net, settings.weight_decay), settings)
        schedule = build_schedule(self._optimiser, settings.epochs * self._steps, settings.warm_up)
        scaler = build_scaler(self._device, settings.precision)
        self._updater = Updater(
            net,
            self._optimiser,
            self._loss,
            clip=settings.gradient_clip,
            scaler=scaler,
            schedule=schedule,
            average=self._average,
        )
        states: dict[str, Stateful | None] = {
            "net": self._trained,
            "optimiser": self._optimiser,
            "schedule": schedule,
            "average": self._average,
            "scaler": scaler,
            "random": self._random,
        }
        data = [[*zip(rows.data.ids, rows.data.labels.tolist(), strict=True)] for rows in (train, val_select)]
        self._directory = checkpoints
        self._checkpoints = Checkpoints(
            checkpoints,
            [settings.model_dump(mode="json"), calibration.model_dump(mode="json"), seed, data],
            {name: state for name, state in states.items() if state is not None},
            settings.checkpoint_steps,
        )

    def run(self) -> tuple[SelectiveScore, list[dict[str, float]]]:
        settings = self._settings
        with _recomputing(self._net, settings.gradient_checkpointing):
            at = Progress(**(self._checkpoints.restore() or {}))
            with self._checkpoints.watch(vars(at)) as watch:
                while at.epoch < settings.epochs:
                    self._train_epoch(at, watch)
                    self._judge(at, watch)
                    watch.save()
        assert at.score is not None
        assert at.best is not None
        self._trained.load_state_dict(at.best)
        return SelectiveScore(*at.score), at.records

    def _train_epoch(self, at: Progress, watch: Watch) -> None:
        """Do the steps of the epoch that are left."""
        if at.order is None:
            order = epoch_order(self._train.data.labels, self._random.order, balanced=self._settings.class_balanced)
            at.order = torch.from_numpy(order)
        self._net.train()
        total = self._settings.epochs * self._steps
        for index in batches(at.order.numpy(), self._settings.batch_size)[at.step :]:
            # Before the step, which moves the schedule on.
            rate = self._optimiser.param_groups[0]["lr"]
            self._note(at, self._step(index), rate)
            at.step += 1
            self._tell(at.epoch * self._steps + at.step, total, at.note)
            watch.step_done()

    def _step(self, index: NDArray[np.intp]) -> Update:
        rows = torch.from_numpy(index)
        images = torch.from_numpy(self._train.images[index]).to(self._device)
        images = self._augment(images, self._aspects[rows], self._random.views)
        labels = self._labels[rows.to(self._device)]
        parts = min(self._settings.accumulation, len(index))
        split = list(zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True))
        return self._updater.update(split, [len(part) / len(index) for _, part in split])

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        with autocast(self._device, self._settings.precision):
            logits, scores = self._net(images)
        return supervised_loss(logits.float(), scores.float(), labels, self._settings)

    def _note(self, at: Progress, update: Update, rate: float) -> None:
        """Count the step, or stop."""
        if update.stepped:
            at.losses.append(update.loss)
            at.left_out = 0
            return
        at.left_out += 1
        if self._settings.precision == "fp16" and at.left_out <= MOST_LEFT_OUT:
            return
        what = "gradient" if np.isfinite(update.loss) else f"loss ({update.loss})"
        kept = "" if self._directory is None else f"; the last good checkpoint is kept in {self._directory}"
        raise TrainingError(
            f"the {what} is not finite in epoch {at.epoch + 1}, step {at.step + 1} of {self._steps}, at a learning "
            f"rate of {rate:.3g}: lower train_supervised.learning_rate{kept}"
        )

    def _judge(self, at: Progress, watch: Watch) -> None:
        """Judge the epoch on val_select, keep what is best, and go on to the next epoch."""
        if self._average is None:
            score, tensors = self._score(watch), None
        else:
            with self._average.in_place():
                score, tensors = self._score(watch), self._trained.state_dict()
        at.epoch += 1
        record = {
            "epoch": at.epoch,
            "train_loss": float(np.mean(at.losses)) if at.losses else float("nan"),
            "val_select_loss": -score.negative_loss,
            "val_select_coverage": score.coverage,
        }
        at.records.append(record)
        if at.score is None or score > SelectiveScore(*at.score):
            at.score = score.coverage, score.negative_loss
            at.best = tensors or self._trained.state_dict()
        at.step, at.order, at.losses = 0, None, []
        at.note = f"epoch {at.epoch}: loss {-score.negative_loss:.3f}, exit coverage {score.coverage:.2f}"
        self._tell(at.epoch * self._steps, self._settings.epochs * self._steps, at.note)

    def _score(self, watch: Watch) -> SelectiveScore:
        outputs = predict(self._net, self._val_select.images, self._settings.precision, watch.check)
        return selective_score(outputs, self._val_select.data, self._calibration)


@contextmanager
def _recomputing(net: Stage1Net, wanted: bool) -> Iterator[None]:
    """Within it the backbone computes its activations twice instead of keeping them."""
    if not wanted:
        yield
        return
    try:
        # Not the reentrant kind: with frozen weights below, no gradient would come through it.
        net.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    except (AttributeError, ValueError) as error:
        raise TrainingError(
            f"{type(net.backbone).__name__} has no gradient checkpointing: set train_supervised.gradient_checkpointing "
            "to false"
        ) from error
    try:
        yield
    finally:
        net.backbone.gradient_checkpointing_disable()  # type: ignore[operator]
