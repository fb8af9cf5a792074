"""Domain adaptation: self-distillation of the backbone on unlabelled images of the domain.

A student sees large and small crops of an image, some patches of the large ones masked, and predicts the clusters that
a teacher, its exponential moving average, assigns to the large crops and to the patches behind the masks. One or two
blocks train in full, the others through low-rank adapters on query and value, all norms in full; the teacher holds only
these, and shares all else with the student. After each epoch both are judged by what their features say of the labels:
a lower self-distillation loss is no promise of better features. The best of all, merged into a plain backbone, takes
the place of the backbone as it came if its gain is proven.

References:
    Khanna, Irgau, Lobell, Ermon (2025), ExPLoRA, arXiv 2406.10973.
    Oquab et al. (2023), DINOv2, arXiv 2304.07193, section 4 (the objective), appendix B (schedules).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from offline.data.pictures.pixel_store import Images
from offline.errors import TrainingError
from offline.learning.checkpoints import Checkpoints, Randomness, Trained, Watch
from offline.learning.precision import autocast, recomputing
from offline.learning.predict import device_of
from offline.learning.ranks import team
from offline.learning.row_order import batches
from offline.learning.self_distillation.gain import Gain
from offline.learning.self_distillation.judge import Judge
from offline.learning.self_distillation.losses import PrototypeHead
from offline.learning.self_distillation.objective import (
    LARGE_VIEWS,
    Drawn,
    Part,
    Side,
    assignments,
    drawn_of,
    part_losses,
)
from offline.learning.self_distillation.pictures import Pictures, pictures_of
from offline.learning.self_distillation.schedule import Schedule, prototypes_for
from offline.learning.self_distillation.student import follow, pairs_of, sharing_copy, student_of, teacher_of, way
from offline.learning.settings import AdaptSettings
from offline.learning.update import random_state, set_random_state
from stage1.model.net import Stage1Net
from stage1.model.trunk import blocks_of, plain

ROPE_RESCALE = 2.0

Of = Literal["teacher", "student", "start"]


@dataclass
class AdaptationState:
    """How far the adaptation is.

    Attributes:
        epoch: epochs that are done.
        step: steps of the next epoch that are done.
        order: rows of that epoch in their order, `(N,)`; None before it is drawn.
        sums: of each loss term over the steps of that epoch.
        records: one an epoch that is done; see `Adaptation`.
        before: the judge's scores of the backbone as it came, `(M,)`; None without a judge.
        scores: those of the teacher and of the student of each epoch, in turn.
        value: highest judgement so far; of the backbone as it came, if none is higher.
        best: place of the best in `scores`; None for the backbone as it came.
        tensors: what was trained of the best.
        halvings: how often the parts of a batch had to be halved for the memory of the device.
    """

    epoch: int = 0
    step: int = 0
    order: Tensor | None = None
    sums: dict[str, float] = field(default_factory=dict)
    records: list[dict[str, float]] = field(default_factory=list)
    before: Tensor | None = None
    scores: list[Tensor] = field(default_factory=list)
    value: float = -math.inf
    best: int | None = None
    tensors: dict[str, Tensor] | None = None
    halvings: int = 0

    @property
    def best_epoch(self) -> int:
        """Epoch that the best is from, from 1; 0 for the backbone as it came."""
        return 0 if self.best is None else self.best // 2 + 1


@dataclass(frozen=True)
class Adaptation:
    """What came of an adaptation.

    Attributes:
        kept: epoch whose backbone is the backbone now; 0 for the backbone as it came.
        of: whose of that epoch.
        before: judgement of the backbone as it came, an area under the ROC curve; None without a judge.
        gain: what the best judged gains over it, kept or not; None without a judge, or if none was better.
        records: one an epoch: mean loss terms, the entropy of the mean assignment, how far the teacher and the student
            are from the start, and the judgement of both.
    """

    kept: int
    of: Of
    before: float | None
    gain: Gain | None
    records: list[dict[str, float]]


def adapt_domain(
    net: Stage1Net,
    images: Images | Pictures,
    settings: AdaptSettings,
    *,
    seed: int,
    progress: Callable[[int, int, str], None],
    checkpoints: Path | None = None,
    judge: Judge | None = None,
) -> Adaptation:
    """Adapt `net.backbone` in place and leave a plain one; the heads are not touched.

    Args:
        net: a DINOv3 or DINOv2 without adapters, on the device that is to train.
        images: unlabelled, N at least two; pictures to cut from, or uint8 `(N, 3, H, W)`, whose detail is lost already.
        settings: schedule, losses and what trains.
        seed: seed of order, views, the projection head and the judge's draws.
        progress: called with steps done, steps in all, and a note.
        checkpoints: directory from which a killed adaptation goes on; None for none.
        judge: how good the features of a network are; None goes through all epochs and keeps the last teacher.

    Raises:
        TrainingError: the loss is not finite, there are too few images or blocks, or the backbone masks no patches.
        TrainingInterrupted: the process was told to end; a checkpoint is written.
    """
    if len(images) < 2:
        raise TrainingError(
            f"domain adaptation needs at least two images, not {len(images)}: name more in adapt_domain.images"
        )
    return _Adapting(net, images, settings, seed, progress, checkpoints, judge).run()


class _Adapting:
    """The loop of `adapt_domain`, with its arguments."""

    def __init__(
        self,
        net: Stage1Net,
        images: Images | Pictures,
        settings: AdaptSettings,
        seed: int,
        progress: Callable[[int, int, str], None],
        checkpoints: Path | None,
        judge: Judge | None,
    ) -> None:
        self._net, self._settings, self._tell, self._judge = net, settings, progress, judge
        self._images = pictures_of(images)
        team.check_batch(min(settings.batch_size, len(images)), "adapt_domain.batch_size")
        self._device, self._seed = device_of(net), seed
        self._schedule = schedule = Schedule.of(settings, len(images))
        torch.manual_seed(seed)
        self._config: Any = plain(net.backbone).config
        as_it_came = dict(net.backbone.state_dict(keep_vars=True))
        everything = settings.unfrozen_blocks is None
        untouched = [] if everything else [*net.backbone.parameters()]
        self._anchor = sharing_copy(net.backbone, untouched).eval() if settings.gram_weight else None
        net.backbone = student_of(net.backbone, settings)
        # What trains in place has to be copied; all else is written to by nothing before the end.
        self._untouched = {name: t.detach().clone() if everything else t.detach() for name, t in as_it_came.items()}
        head = PrototypeHead(
            net.layout.width,
            hidden=settings.head_hidden,
            bottleneck=settings.head_bottleneck,
            prototypes=prototypes_for(settings.batch_size) if settings.prototypes is None else settings.prototypes,
        ).to(self._device)
        # Copied before the student's positions begin to jitter, so the teacher's never do.
        self._student, self._teacher = Side(net, head), Side(teacher_of(net, net.backbone), teacher_of(head, head))
        self._moved = pairs_of(net.backbone, self._teacher.net.backbone)
        self._followers = [*self._moved, *pairs_of(head, self._teacher.head)]
        self._start = [tensor.detach().cpu().clone() for _, tensor in self._moved]
        groups = self._groups()
        self._trained = [p for group in groups for p in group["params"]]
        self._optimiser = torch.optim.AdamW(groups)
        # No reference to this object, which holds two networks.
        self._rates = LambdaLR(self._optimiser, schedule.rate)
        self._random = Randomness.seeded(seed)
        self._keeper = Checkpoints(
            checkpoints,
            [settings.model_dump(mode="json"), seed, list(self._images.decides), judge is not None],
            {
                "student": Trained(net=net, head=head),
                "teacher": Trained(net=self._teacher.net, head=self._teacher.head),
                "optimiser": self._optimiser,
                "schedule": self._rates,
                "random": self._random,
            },
        )

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by rate and by whether they are decayed."""
        settings = self._settings
        blocks = blocks_of(self._net.backbone)
        first_full = len(blocks) - (settings.unfrozen_blocks or 0)
        slow = {p for block in blocks[first_full:] for p in block.parameters() if p.requires_grad}
        parts = self._net.backbone, self._student.head
        trained = [p for part in parts for p in part.parameters() if p.requires_grad]
        rates = {True: settings.block_learning_rate, False: settings.learning_rate}
        return [
            {
                "params": [p for p in trained if (p in slow) == inside and (p.ndim > 1) == decayed],
                "lr": rates[inside],
                "weight_decay": settings.weight_decay if decayed else 0.0,
            }
            for inside in (False, True)
            for decayed in (True, False)
        ]

    def run(self) -> Adaptation:
        at = AdaptationState(**(self._keeper.restore() or {}))
        jitters = hasattr(self._config, "pos_embed_rescale")
        if jitters:
            self._config.pos_embed_rescale = ROPE_RESCALE
        try:
            with (
                recomputing(self._net.backbone, self._settings.gradient_checkpointing),
                self._keeper.watch(vars(at)) as watch,
            ):
                if at.before is None and self._judge is not None:
                    at.before = torch.from_numpy(self._scores(self._judge, self._teacher.net))
                    at.value = self._judge.value(at.before.numpy())
                while at.epoch < self._settings.epochs and not self._given_up(at):
                    self._run_epoch(at, watch)
                    watch.save()
        finally:
            if jitters:
                self._config.pos_embed_rescale = None
        return self._finished(at)

    def _given_up(self, at: AdaptationState) -> bool:
        patience = self._settings.patience
        # While only the heads train, no epoch can be better than the one before.
        unmoved = self._schedule.head_steps // self._schedule.epoch_steps
        return self._judge is not None and patience is not None and at.epoch - max(at.best_epoch, unmoved) >= patience

    def _run_epoch(self, at: AdaptationState, watch: Watch) -> None:
        settings = self._settings
        if at.order is None:
            at.order = torch.from_numpy(self._random.order.permutation(len(self._images)))
        self._net.train()
        for index in batches(at.order.numpy(), settings.batch_size)[at.step :]:
            done = at.epoch * self._schedule.epoch_steps + at.step
            terms = self._step(index, done, at)
            at.sums = {name: at.sums.get(name, 0.0) + value for name, value in terms.items()}
            at.step += 1
            self._tell(done + 1, self._schedule.total, self._note(at, terms["loss"]))
            watch.step_done()
        record = {name: value / at.step for name, value in at.sums.items()}
        record["teacher_way"], record["student_way"] = way(self._moved, self._start)
        at.records.append({"epoch": float(at.epoch + 1)} | record | self._judged(at))
        at.epoch, at.step, at.order, at.sums = at.epoch + 1, 0, None, {}

    def _judged(self, at: AdaptationState) -> dict[str, float]:
        """The judgements of teacher and student; the better of them is kept if it is better than all before."""
        if self._judge is None:
            at.best, at.tensors = 2 * at.epoch, Trained(net=self._teacher.net).state_dict()
            return {}
        found = {}
        for side, net in {"teacher": self._teacher.net, "student": self._net}.items():
            scores = self._scores(self._judge, net)
            value = found[side] = self._judge.value(scores)
            if value > at.value:
                at.value, at.best, at.tensors = value, len(at.scores), Trained(net=net).state_dict()
            at.scores.append(torch.from_numpy(scores))
        return found

    @staticmethod
    def _scores(judge: Judge, net: Stage1Net) -> NDArray[np.float64]:
        """What a judge says of a network, by the first process."""
        return judge.scores(net) if team.size() == 1 else team.shared(judge.scores(net) if team.leads() else None)

    @staticmethod
    def _note(at: AdaptationState, loss: float) -> str:
        judged = "" if at.before is None else f", features at best {at.value:.3f}"
        return f"epoch {at.epoch + 1}: self-distillation loss {loss:.3f}{judged}"

    def _step(self, index: NDArray[np.intp], done: int, at: AdaptationState) -> dict[str, float]:
        settings, schedule = self._settings, self._schedule
        team.reseed(self._seed, done)
        batch = self._images.opened(index.tolist(), self._device)
        told = self._fitting_gradient(drawn_of(batch, self._net, settings, self._random.views), done, at)
        told["norm"] = nn.utils.clip_grad_norm_(self._trained, settings.gradient_clip)
        # One read for all: each would wait for the device.
        numbers = dict(zip(told, torch.stack([*told.values()]).tolist(), strict=True))
        if not math.isfinite(numbers["loss"]):
            raise self._diverged("loss", at)
        if not math.isfinite(numbers.pop("norm")):
            raise self._diverged("gradient", at)
        self._optimiser.step()
        self._rates.step()
        follow(self._followers, schedule.momentum)
        return numbers

    def _fitting_gradient(self, drawn: Drawn, done: int, at: AdaptationState) -> dict[str, Tensor]:
        """The gradient in parts that fit into memory, each try from the same random numbers."""
        before = random_state()
        while True:
            self._optimiser.zero_grad(set_to_none=True)
            parts = drawn.parts(self._settings.accumulation * 2**at.halvings * team.size())
            try:
                return self._summed(self._gradient(parts[team.rank() :: team.size()], done))
            except torch.OutOfMemoryError as error:
                # The others wait for the sums of this part.
                if team.size() > 1 or max(len(part.large) for part in parts) <= LARGE_VIEWS:
                    raise TrainingError(
                        "the memory of the device is not enough for one image: set adapt_domain.gradient_checkpointing "
                        "to true, or take a smaller backbone, preprocess.size_px or adapt_domain.local_crops"
                    ) from error
            # Behind the handler: until its end the error holds what had been computed.
            at.halvings += 1
            set_random_state(before)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _gradient(self, parts: list[Part], done: int) -> dict[str, Tensor]:
        """Take the gradient of the objective, part by part; its terms, their sum and the entropy."""
        settings, moving = self._settings, done >= self._schedule.head_steps
        with autocast(self._device, settings.precision):
            targets, entropy = assignments(self._teacher, parts, self._schedule.temperature(done))
        told: dict[str, Tensor] = {}
        for part, assigned in zip(parts, targets, strict=True):
            with autocast(self._device, settings.precision):
                terms = part_losses(self._student, part, assigned, settings, anchor=self._anchor, moving=moving)
                loss = torch.stack([*terms.values()]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            for name, term in {"loss": loss, **terms}.items():
                told[name] = told.get(name, torch.zeros_like(term)) + term.detach()
        return {**told, "entropy": entropy}

    def _summed(self, told: dict[str, Tensor]) -> dict[str, Tensor]:
        """The gradient and the terms of all processes; of the entropy the mean."""
        team.add_gradients(self._trained)
        team.add([*told.values()])
        return told | {"entropy": told["entropy"] / team.size()}

    def _diverged(self, what: str, at: AdaptationState) -> TrainingError:
        return TrainingError(
            f"the {what} of domain adaptation is not finite in epoch {at.epoch + 1}, step {at.step + 1} of "
            f"{self._schedule.epoch_steps}, at a learning rate of {self._settings.learning_rate:.3g}: lower "
            "adapt_domain.learning_rate"
        )

    def _finished(self, at: AdaptationState) -> Adaptation:
        """Leave the best, or the backbone as it was, as a plain backbone."""
        judge, gain = self._judge, None
        keep = at.best is not None
        if judge is not None and at.before is not None and at.best is not None:
            scores = [each.numpy() for each in at.scores]
            gain = judge.gain(at.before.numpy(), scores, at.best, seed=self._seed)
            keep = self._settings.keep == "best" or gain.lower > 0
        if at.tensors is not None:
            Trained(net=self._teacher.net).load_state_dict(at.tensors)
        backbone = self._teacher.net.backbone
        if isinstance(backbone, PeftModel):
            backbone = backbone.float().merge_and_unload(safe_merge=True)
        if not keep:
            backbone.load_state_dict(self._untouched)
        self._net.backbone = backbone.requires_grad_(True)
        of: Of = "start" if not keep or at.best is None else ("teacher", "student")[at.best % 2]
        before = None if judge is None or at.before is None else judge.value(at.before.numpy())
        return Adaptation(at.best_epoch if keep else 0, of, before, gain, at.records)
