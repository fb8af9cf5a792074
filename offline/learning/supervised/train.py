"""Supervised training of Stage-1 with a parameter-efficient adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import astuple, dataclass, field, replace
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offline.data.named_targets import check_named, named_targets
from offline.errors import TrainingError
from offline.learning.challenge_views import Challenges
from offline.learning.checkpoint_score import SelectiveScore, selective_score
from offline.learning.checkpoints import Checkpoints, Randomness, Stateful, Trained, Watch, interruptible
from offline.learning.distillation.soft_labels import SoftLabels
from offline.learning.optimiser import (
    Average,
    average_decay,
    build_optimiser,
    build_schedule,
    layer_factors,
    parameter_groups,
)
from offline.learning.precision import autocast, build_scaler, lowered, recomputing
from offline.learning.predict import ImageSet, answers, device_of
from offline.learning.ranks import team
from offline.learning.ranks.shard import Shard, check_shares
from offline.learning.row_order import (
    balance_of,
    batches,
    check_both_classes,
    epoch_order,
    judged_epochs,
    log_shares,
)
from offline.learning.settings import TrainSettings
from offline.learning.supervised.inputs import Sources, choose_inputs
from offline.learning.supervised.losses import supervised_loss
from offline.learning.supervised.outcome import TrainingOutcome, TrainingState
from offline.learning.supervised.sharpness import FriendlySam
from offline.learning.supervised.start import SECOND_RATE, START_SHARE, at_chance, chance_loss, class_loss
from offline.learning.supervised.taught_loss import TaughtLoss
from offline.learning.throughput.ahead import drawn_ahead
from offline.learning.update import Update, Updater, halves
from stage1.certificate.settings import CalibrationSettings
from stage1.model.net import Stage1Net, head
from stage1.model.settings import NamedHead

# Below the directory of the checkpoints: those of a training that began again.
SECOND = "second"
# So many batches in a row without a finite gradient are no search for a loss scale any more.
MOST_LEFT_OUT = 20


@dataclass(frozen=True)
class Trainee:
    """What is trained, and on what.

    Attributes:
        net: with adapters, on the device that is to train.
        train: images that train.
        val_select: images that choose the checkpoint.
        heads: columns and classes of the named heads that the network has.
        challenges: makes views of the pictures that train, as validators send them; None where no setting wants them.
        taught: what a teacher says of the rows that train; None without one.
    """

    net: Stage1Net
    train: ImageSet
    val_select: ImageSet
    heads: Mapping[str, NamedHead] = field(default_factory=dict)
    challenges: Challenges | None = None
    taught: SoftLabels | None = None


def train_supervised(
    trainee: Trainee,
    settings: TrainSettings,
    calibration: CalibrationSettings,
    *,
    seed: int,
    progress: Callable[[int, int, str], None],
    checkpoints: Path | None = None,
    cache: Path | None = None,
) -> TrainingOutcome:
    """Train in place and leave the best checkpoint of val_select in the network.

    A training whose loss is still that of chance after a third of its steps begins again, once, with the weights that
    it began with and a third of the rate; see `offline.learning.supervised.start`.

    Args:
        trainee: network and images.
        settings: optimiser and schedule.
        calibration: risk level at which checkpoints are judged.
        seed: seed of order and augmentation.
        progress: called after every step with steps done, steps in all, and a note.
        checkpoints: directory from which a killed training goes on; None for none.
        cache: directory of what frozen blocks make of images; None for none.

    Raises:
        TrainingError: a class has no row to train on, a loss or a gradient is not finite, the checkpoint is of another
            training, or the settings insist on a cache that cannot be had.
        DatasetError: a row has a value that a named head does not know.
        TrainingInterrupted: the process was told to end; a checkpoint is written.
    """
    data, taught = trainee.train.data, trainee.taught
    # What a person has labelled: the label of the other rows is a place holder.
    check_both_classes(data if taught is None else data.pick([*compress(data.ids, taught.labelled)]))
    common = calibration, seed
    first = _Supervised(trainee, settings, *common, progress, checkpoints, cache, second=True).run()
    if isinstance(first, TrainingOutcome):
        return first
    lower = settings.model_copy(update={"learning_rate": SECOND_RATE * settings.learning_rate})
    below = None if checkpoints is None else checkpoints / SECOND

    def tell(done: int, total: int, note: str) -> None:
        progress(first + done, first + total, note)

    second = _Supervised(trainee, lower, *common, tell, below, cache, second=False).run()
    assert isinstance(second, TrainingOutcome)
    return replace(second, first_rate=settings.learning_rate)


class _Supervised:
    """The loop of `train_supervised`, with its arguments."""

    def __init__(
        self,
        trainee: Trainee,
        settings: TrainSettings,
        calibration: CalibrationSettings,
        seed: int,
        progress: Callable[[int, int, str], None],
        checkpoints: Path | None,
        cache: Path | None,
        *,
        second: bool,
    ) -> None:
        check_shares(settings)
        self._may_give_up = second
        self._net, self._train, self._val_select = trainee.net, trainee.train, trainee.val_select
        self._challenges = trainee.challenges
        self._settings, self._calibration, self._tell, self._seed = settings, calibration, progress, seed
        self._device = device_of(self._net)
        data = self._train.data
        self._labels = torch.from_numpy(data.labels).long().to(self._device)
        check_named(data, trainee.heads)
        targets = named_targets(data, trainee.heads)
        taught = trainee.taught
        self._targets = {name: torch.from_numpy(found).to(self._device) for name, found in targets.items()}
        known = data.labels if taught is None else data.labels[taught.labelled]
        self._balance = balance_of(known, settings.balance)
        # Of roadwork, as the loss weighs it.
        self._share = 0.5 if self._balance != "none" else float(np.mean(known))
        self._chance = chance_loss(self._share)
        shares = log_shares(known) if self._balance == "logits" else None
        self._offset = None if shares is None else torch.tensor(shares, device=self._device)
        self._taught = None if taught is None else TaughtLoss(taught, settings, self._device, self._offset)
        self._steps, self._epochs = settings.steps_an_epoch(len(data)), settings.passes(len(data))
        self._judged = judged_epochs(self._epochs, settings.judgements)
        # Of the epochs that are judged, the first by which a training must have started, if it is not the last.
        self._start_by = min(epoch for epoch in self._judged if epoch >= START_SHARE * self._epochs)
        torch.manual_seed(seed)
        weighted = settings.auxiliary_weight > 0
        self._auxiliary = head(self._net.width, self._net.width // 2, 2).to(self._device) if weighted else None
        self._cache = cache
        self._random = Randomness.seeded(seed)
        everything = nn.ModuleList([self._net, *([self._auxiliary] if self._auxiliary is not None else [])])
        self._trained, self._all = Trained(net=self._net), Trained(nets=everything)
        decay = average_decay(settings.ema_decay, self._epochs * self._steps)
        self._average = Average(self._net, decay) if decay else None
        factors = layer_factors(self._net, settings.layer_decay) if settings.layer_decay < 1 else None
        groups = parameter_groups(everything, settings.weight_decay, settings.learning_rate, factors)
        self._optimiser = build_optimiser(groups, settings)
        schedule = build_schedule(self._optimiser, self._epochs * self._steps, settings.warm_up)
        scaler = build_scaler(self._device, settings.precision)
        sam = FriendlySam(self._net, settings.fsam) if settings.optimiser == "fsam" else None
        self._climbing = [] if sam is None else sam.climb.weights
        self._updater = Updater(
            self._net,
            self._optimiser,
            self._loss,
            clip=settings.gradient_clip,
            scaler=scaler,
            schedule=schedule,
            average=self._average,
            # What is held to a coverage is held to it by the whole batch.
            halve=None if settings.selection == "selectivenet" else halves,
            climb=None if sam is None else sam.climb,
        )
        self._states: dict[str, Stateful | None] = {
            "net": self._all,
            "optimiser": self._optimiser,
            "climb": sam,
            "schedule": schedule,
            "average": self._average,
            "scaler": scaler,
            "random": self._random,
            "updater": self._updater,
        }
        self._directory = checkpoints

    def run(self) -> TrainingOutcome | int:
        """Train; returns the steps that were done in vain if it was given up, with the weights as they were."""
        settings = self._settings
        # Not within the watch below: what it would write before the restored state is back would be the beginning.
        # The others find what the first process has put into the cache.
        with interruptible(self._directory is not None) as check, team.leader_first():
            self._sources = self._choose_inputs(check)
        # What filled the cache has drawn, and what found it full has not.
        torch.manual_seed(self._seed)
        keeper = Checkpoints(
            self._directory,
            self._decides(),
            {name: state for name, state in self._states.items() if state is not None},
            settings.checkpoint_steps,
        )
        backbone = self._net.backbone
        with (
            recomputing(backbone, settings.gradient_checkpointing),
            lowered(backbone, self._device, settings.precision, precise=self._climbing),
        ):
            first = self._trained.state_dict() if self._may_give_up else None
            at = TrainingState(**(keeper.restore() or {"first": first}))
            with keeper.watch(vars(at)) as watch:
                while at.epoch < self._epochs and not at.given_up:
                    self._train_epoch(at, watch)
                    self._judge(at, watch)
                    watch.save()
        if at.given_up:
            assert at.first is not None
            self._trained.load_state_dict(at.first)
            return at.epoch * self._steps
        assert at.score is not None
        assert at.best is not None
        self._trained.load_state_dict(at.best)
        return TrainingOutcome(
            score=SelectiveScore(*at.score),
            records=at.records,
            cached=self._sources.cached,
            inputs=self._sources.reason,
            accumulation=self._parts,
            balance=self._balance,
            steps=self._epochs * self._steps,
            learning_rate=settings.learning_rate,
            chance=self._chance,
        )

    def _choose_inputs(self, check: Callable[[], None]) -> Sources:
        return choose_inputs(
            self._net,
            self._train.images,
            self._val_select.images,
            self._settings,
            challenges=self._challenges,
            seed=self._seed,
            device=self._device,
            directory=self._cache,
            progress=self._tell,
            check=check,
        )

    def _decides(self) -> list[object]:
        """What decides the outcome."""
        sets = (self._train.data, self._val_select.data)
        rows = [[*zip(data.ids, data.labels.tolist(), strict=True)] for data in sets]
        targets = {name: found.tolist() for name, found in self._targets.items()}
        settings = self._settings.model_dump(mode="json")
        taught = [] if self._taught is None else [self._taught.soft.decides]
        about = [settings, self._calibration.model_dump(mode="json"), self._seed, rows, targets, self._sources.cached]
        return [*about, *taught]

    def _train_epoch(self, at: TrainingState, watch: Watch) -> None:
        """Do the steps of the epoch that are left."""
        if at.order is None:
            even = self._balance == "batches"
            order = epoch_order(self._train.data.labels, self._random.order, balanced=even)
            at.order = torch.from_numpy(order)
        self._net.train()
        total = self._epochs * self._steps
        left = batches(at.order.numpy(), self._settings.batch_size)[at.step :]
        inputs = Shard(self._sources.train) if team.size() > 1 else self._sources.train
        with closing(drawn_ahead(inputs, left, self._random.views)) as drawn:
            for index, batch in drawn:
                team.reseed(self._seed, at.epoch * self._steps + at.step)
                # Before the step, which moves the schedule on.
                rate = self._optimiser.param_groups[0]["lr"]
                self._note(at, self._step(index, batch), rate)
                at.step += 1
                self._tell(at.epoch * self._steps + at.step, total, at.note)
                watch.step_done()

    @property
    def _parts(self) -> int:
        """In which a step's images go through the network; more than the settings say where memory was not enough."""
        return self._settings.accumulation << self._updater.halvings

    def _step(self, index: NDArray[np.intp], batch: Tensor) -> Update:
        rows = torch.from_numpy(team.own(index)).to(self._device)
        parts = min(self._parts, len(rows))
        split = list(zip(batch.tensor_split(parts), rows.tensor_split(parts), strict=True))
        return self._updater.update(split, [len(part) / len(index) for _, part in split])

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        drawn, rows = batch
        with autocast(self._device, self._settings.precision):
            features = self._sources.train.features(self._net, drawn)
            outputs = self._net.outputs(features).float()
            auxiliary = None if self._auxiliary is None else self._auxiliary(features).float()
        targets = {name: found[rows] for name, found in self._targets.items()}
        if self._taught is None:
            return supervised_loss(outputs, auxiliary, self._labels[rows], targets, self._settings, self._offset)
        return self._taught(outputs, auxiliary, self._labels[rows], targets, rows)

    def _note(self, at: TrainingState, update: Update, rate: float) -> None:
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

    def _judge(self, at: TrainingState, watch: Watch) -> None:
        """Judge the epoch on val_select if it is its turn, keep what is best, and go on to the next epoch."""
        if at.epoch + 1 in self._judged:
            if self._average is None:
                self._compare(at, *self._score(watch.check), None)
            else:
                with self._average.in_place():
                    self._compare(at, *self._score(watch.check), self._trained.state_dict())
        at.epoch += 1
        at.step, at.order, at.losses = 0, None, []
        if at.epoch == self._start_by and self._may_give_up:
            losses = [record["val_select_loss"] for record in at.records]
            if at_chance(losses, self._chance) and self._average is not None:
                # A slow average is still near where training began when the weights have long left it. Not to be
                # interrupted: what would be written here is of an epoch that is half judged.
                losses.append(self._score(lambda: None)[1])
            at.given_up = at.epoch < self._epochs and at_chance(losses, self._chance)
            if at.given_up:
                at.note = f"epoch {at.epoch}: the loss is still that of chance, so training begins again"
            else:
                at.first = None
        self._tell(at.epoch * self._steps, self._epochs * self._steps, at.note)

    def _compare(
        self, at: TrainingState, score: SelectiveScore, loss: float, tensors: dict[str, Tensor] | None
    ) -> None:
        record = {
            "epoch": at.epoch + 1,
            "train_loss": float(np.mean(at.losses)) if at.losses else float("nan"),
            "val_select_loss": loss,
            "val_select_value": score.value,
            "val_select_coverage": score.coverage,
        }
        at.records.append(record)
        if at.score is None or score > SelectiveScore(*at.score):
            at.score = astuple(score)
            at.best = tensors or self._trained.state_dict()
        at.note = f"epoch {at.epoch + 1}: loss {loss:.3f}, score {score.value:.2f}"

    def _score(self, check: Callable[[], None]) -> tuple[SelectiveScore, float]:
        """Of the network as it is, and its loss with the classes weighing as in training; by the first process."""
        if team.size() == 1:
            return self._own_score(check)
        # Others wait for its word: it is not told to end in the middle.
        return team.shared(self._own_score(lambda: None) if team.leads() else None)

    def _own_score(self, check: Callable[[], None]) -> tuple[SelectiveScore, float]:
        source, generator = self._sources.judged, torch.Generator()

        def features(start: int, stop: int) -> Tensor:
            return source.features(self._net, source.draw(np.arange(start, stop), generator))

        outputs = answers(self._net, len(self._val_select.data), features, self._settings.precision, check)
        loss = class_loss(outputs, self._val_select.data.labels, self._share)
        return selective_score(outputs, self._val_select.data, self._calibration), loss
