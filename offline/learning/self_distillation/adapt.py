"""Domain adaptation: self-distillation of the backbone on unlabelled images of the domain.

A student sees large and small crops of an image, some patches of the large ones masked, and predicts the clusters that
a teacher, its exponential moving average, assigns to the large crops and to the patches behind the masks. One or two
blocks train in full, the others through low-rank adapters on query and value, all norms in full; the teacher, merged
into a plain backbone, is the result. It is judged after each epoch by what its features say of the labels, and the best
epoch is kept: a lower self-distillation loss is no promise of better features.

References:
    Khanna, Irgau, Lobell, Ermon (2025), ExPLoRA, arXiv 2406.10973.
    Oquab et al. (2023), DINOv2, arXiv 2304.07193, section 4 (the objective), appendix B (schedules).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from offline.errors import TrainingError
from offline.learning.checkpoints import Checkpoints, Randomness, Trained, Watch
from offline.learning.optimiser import warm_up_cosine
from offline.learning.precision import autocast, recomputing
from offline.learning.predict import device_of
from offline.learning.row_order import batches
from offline.learning.self_distillation.losses import (
    PrototypeHead,
    gram_loss,
    koleo,
    marginal_entropy,
    patch_loss,
    sinkhorn,
    view_loss,
)
from offline.learning.self_distillation.pictures import Batch, Pictures, pictures_of
from offline.learning.self_distillation.views import random_masks, random_view
from offline.learning.settings import AdaptSettings
from stage1.model.adapters.attach import with_low_rank
from stage1.model.net import Stage1Net
from stage1.model.trunk import blocks_of, plain
from stage1.preprocess import Pixels

LARGE_VIEWS = 2
ROPE_RESCALE = 2.0
WARMING_TEACHER = 0.3

Judge = Callable[[Stage1Net], float]


@dataclass
class AdaptationState:
    """How far the adaptation is.

    Attributes:
        epoch: epochs that are done.
        step: steps of the next epoch that are done.
        order: rows of that epoch in their order, `(N,)`; None before it is drawn.
        sums: of each loss term over the steps of that epoch.
        records: one an epoch that is done: mean loss terms, and the judgement.
        before: judgement of the backbone as it came; None without a judge.
        best: highest judgement so far.
        kept: epoch that it is from; 0 for the backbone as it came.
        tensors: the teacher's of that epoch.
    """

    epoch: int = 0
    step: int = 0
    order: Tensor | None = None
    sums: dict[str, float] = field(default_factory=dict)
    records: list[dict[str, float]] = field(default_factory=list)
    before: float | None = None
    best: float = -math.inf
    kept: int = 0
    tensors: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Adaptation:
    """What came of an adaptation.

    Attributes:
        kept: epoch whose teacher is the backbone now; 0 if none was better than the backbone as it came.
        before: judgement of the backbone as it came; None without a judge.
        records: one an epoch: mean loss terms, the entropy of the mean assignment, the judgement.
    """

    kept: int
    before: float | None
    records: list[dict[str, float]]


def adapt_domain(
    net: Stage1Net,
    images: Pixels | Pictures,
    settings: AdaptSettings,
    *,
    seed: int,
    progress: Callable[[int, int, str], None],
    checkpoints: Path | None = None,
    judge: Judge | None = None,
) -> Adaptation:
    """Adapt `net.backbone` in place and leave a plain one; the heads are not touched.

    Args:
        net: a DINOv3 without adapters, on the device that is to train.
        images: unlabelled, N at least two; pictures to cut from, or uint8 `(N, 3, H, W)`, whose detail is lost already.
        settings: schedule, losses and what trains.
        seed: seed of order, views and the projection head.
        progress: called with steps done, steps in all, and a note.
        checkpoints: directory from which a killed adaptation goes on; None for none.
        judge: how good the features of a network are, higher is better; None goes through all epochs and keeps the
            last.

    Raises:
        TrainingError: the loss is not finite, there are too few images or blocks, or the backbone is no DINOv3.
        TrainingInterrupted: the process was told to end; a checkpoint is written.
    """
    if len(images) < 2:
        raise TrainingError(
            f"domain adaptation needs at least two images, not {len(images)}: name more in adapt_domain.images"
        )
    return _Adapting(net, images, settings, seed, progress, checkpoints, judge).run()


def _student(backbone: nn.Module, settings: AdaptSettings) -> nn.Module:
    """The backbone with what is to train of it."""
    if getattr(plain(backbone).config, "model_type", "") != "dinov3_vit":
        raise TrainingError(
            f"{type(backbone).__name__} cannot be adapted: self-distillation masks patches, which DINOv3 can; set "
            "adapt_domain.enabled to false"
        )
    if settings.unfrozen_blocks is None:
        return backbone.requires_grad_(True)
    layers = len(blocks_of(backbone))
    adapted = layers - settings.unfrozen_blocks
    if adapted < 1:
        raise TrainingError(
            f"domain adaptation of a backbone of {layers} blocks with {settings.unfrozen_blocks} trained in full needs "
            "at least two blocks, one of them behind adapters: lower adapt_domain.unfrozen_blocks"
        )
    norms = [f"layer.{index}.norm{number}" for index in range(adapted) for number in (1, 2)]
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.rank,
        target_modules=["q_proj", "v_proj"],
        layers_to_transform=list(range(adapted)),
        layers_pattern="layer",
        modules_to_save=[*(f"layer.{index}" for index in range(adapted, layers)), *norms, "norm"],
    )
    return with_low_rank(backbone, config)


class _Adapting:
    """The loop of `adapt_domain`, with its arguments."""

    def __init__(
        self,
        net: Stage1Net,
        images: Pixels | Pictures,
        settings: AdaptSettings,
        seed: int,
        progress: Callable[[int, int, str], None],
        checkpoints: Path | None,
        judge: Judge | None,
    ) -> None:
        self._net, self._settings, self._tell, self._judge = net, settings, progress, judge
        self._images = pictures_of(images)
        self._device = device_of(net)
        torch.manual_seed(seed)
        self._config: Any = plain(net.backbone).config
        self._start = copy.deepcopy(net.backbone).eval() if settings.gram_weight else None
        self._untouched = {name: tensor.cpu().clone() for name, tensor in net.backbone.state_dict().items()}
        net.backbone = _student(net.backbone, settings)
        self._head = PrototypeHead(
            net.layout.width,
            hidden=settings.head_hidden,
            bottleneck=settings.head_bottleneck,
            prototypes=settings.prototypes,
        ).to(self._device)
        # Copied before the student's positions begin to jitter, so the teacher's never do.
        self._teacher, self._teacher_head = copy.deepcopy(net).eval(), copy.deepcopy(self._head)
        self._followers = [*_pairs(net.backbone, self._teacher.backbone), *_pairs(self._head, self._teacher_head)]
        self._steps = max(1, len(images) // settings.batch_size)
        self._total = settings.epochs * self._steps
        self._head_steps = min(settings.head_steps, self._total // 2)
        total, heads, warm_up = self._total, self._head_steps, settings.warm_up
        groups = self._groups()
        self._trained = [p for group in groups for p in group["params"]]
        self._optimiser = torch.optim.AdamW(groups)
        # The rates rise anew when the backbone begins to move. No reference to this object, which holds two networks.
        self._schedule = LambdaLR(
            self._optimiser,
            lambda step: 1.0 if step < heads else warm_up_cosine(step - heads, total - heads, warm_up),
        )
        self._random = Randomness.seeded(seed)
        self._best = Trained(net=self._teacher)
        self._keeper = Checkpoints(
            checkpoints,
            [settings.model_dump(mode="json"), seed, list(self._images.decides), judge is not None],
            {
                "student": Trained(net=net, head=self._head),
                "teacher": Trained(net=self._teacher, head=self._teacher_head),
                "optimiser": self._optimiser,
                "schedule": self._schedule,
                "random": self._random,
            },
        )

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by rate and by whether they are decayed."""
        settings = self._settings
        blocks = blocks_of(self._net.backbone)
        first_full = len(blocks) - (settings.unfrozen_blocks or 0)
        slow = {p for block in blocks[first_full:] for p in block.parameters() if p.requires_grad}
        trained = [p for part in (self._net.backbone, self._head) for p in part.parameters() if p.requires_grad]
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
        self._config.pos_embed_rescale = ROPE_RESCALE
        try:
            with (
                recomputing(self._net.backbone, self._settings.gradient_checkpointing),
                self._keeper.watch(vars(at)) as watch,
            ):
                if at.before is None and self._judge is not None:
                    at.before = at.best = self._judge(self._teacher)
                while at.epoch < self._settings.epochs and not self._given_up(at):
                    self._run_epoch(at, watch)
                    watch.save()
        finally:
            self._config.pos_embed_rescale = None
        self._finish(at)
        return Adaptation(at.kept, at.before, at.records)

    def _given_up(self, at: AdaptationState) -> bool:
        patience = self._settings.patience
        # While only the heads train, no epoch can be better than the one before.
        unmoved = self._head_steps // self._steps
        return self._judge is not None and patience is not None and at.epoch - max(at.kept, unmoved) >= patience

    def _run_epoch(self, at: AdaptationState, watch: Watch) -> None:
        settings = self._settings
        if at.order is None:
            at.order = torch.from_numpy(self._random.order.permutation(len(self._images)))
        self._net.train()
        for index in batches(at.order.numpy(), settings.batch_size)[at.step :]:
            done = at.epoch * self._steps + at.step
            terms = self._step(index, done, at)
            at.sums = {name: at.sums.get(name, 0.0) + value for name, value in terms.items()}
            at.step += 1
            self._tell(done + 1, self._total, self._note(at, terms["loss"]))
            watch.step_done()
        record = {name: value / at.step for name, value in at.sums.items()}
        if self._judge is not None:
            record["judgement"] = self._judge(self._teacher)
        better = self._judge is None or record["judgement"] > at.best
        at.epoch, at.step, at.order, at.sums = at.epoch + 1, 0, None, {}
        at.records.append({"epoch": float(at.epoch)} | record)
        if better:
            at.best, at.kept = record.get("judgement", math.nan), at.epoch
            at.tensors = self._best.state_dict()

    @staticmethod
    def _note(at: AdaptationState, loss: float) -> str:
        judged = "" if at.before is None else f", features {at.before:.3f} -> {at.best:.3f}"
        return f"epoch {at.epoch + 1}: self-distillation loss {loss:.3f}{judged}"

    def _step(self, index: NDArray[np.intp], done: int, at: AdaptationState) -> dict[str, float]:
        settings = self._settings
        with autocast(self._device, settings.precision):
            terms, entropy = self._losses(self._images.opened(index.tolist(), self._device), done)
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise self._diverged("loss", at)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if not torch.isfinite(nn.utils.clip_grad_norm_(self._trained, settings.gradient_clip)):
            raise self._diverged("gradient", at)
        self._optimiser.step()
        self._schedule.step()
        moved = max(0, done - self._head_steps) / max(1, self._total - self._head_steps)
        follow(self._followers, 1 - (1 - settings.momentum) * (1 + math.cos(math.pi * moved)) / 2)
        told = {name: float(term.detach()) for name, term in terms.items()}
        return {"loss": float(loss.detach()), **told, "entropy": float(entropy)}

    def _diverged(self, what: str, at: AdaptationState) -> TrainingError:
        return TrainingError(
            f"the {what} of domain adaptation is not finite in epoch {at.epoch + 1}, step {at.step + 1} of "
            f"{self._steps}, at a learning rate of {self._settings.learning_rate:.3g}: lower adapt_domain.learning_rate"
        )

    def _losses(self, batch: Batch, done: int) -> tuple[dict[str, Tensor], Tensor]:
        """The weighted terms of the objective, and the entropy of the mean assignment."""
        settings = self._settings
        large = torch.cat([self._view(batch, number) for number in range(LARGE_VIEWS)])
        temperature = self._temperature(done)
        mask = self._masks(large)
        with torch.no_grad():
            cls, patches = self._tokens(self._teacher.backbone, large)
            targets = sinkhorn(self._teacher_head(cls), temperature)
            behind = sinkhorn(self._teacher_head(patches[mask]), temperature)
        # Random heads would push garbage into the backbone.
        with torch.set_grad_enabled(done >= self._head_steps):
            own_cls, own_patches = self._tokens(self._net.backbone, large, mask)
            small = [self._tokens(self._net.backbone, self._small(batch))[0] for _ in range(settings.local_crops)]
        scores = [*self._head(own_cls).chunk(LARGE_VIEWS), *(self._head(each) for each in small)]
        terms = {"views": view_loss(targets.chunk(LARGE_VIEWS), scores)}
        if settings.patch_weight:
            terms["patches"] = settings.patch_weight * patch_loss(behind, self._head(own_patches[mask]), mask)
        if settings.koleo_weight and len(batch) > 1:
            spread = torch.stack([koleo(each) for each in own_cls.chunk(LARGE_VIEWS)]).mean()
            terms["koleo"] = settings.koleo_weight * spread
        if self._start is not None:
            with torch.no_grad():
                anchor = self._tokens(self._start, large)[1]
            terms["gram"] = settings.gram_weight * gram_loss(own_patches, anchor)
        return terms, marginal_entropy(targets)

    def _view(self, batch: Batch, number: int) -> Tensor:
        scale = self._settings.global_scale, 1.0
        return random_view(batch, self._net.view_shape, scale, self._random.views, solarise=number == 1)

    def _small(self, batch: Batch) -> Tensor:
        patch = int(self._config.patch_size)
        height, width = (max(2, round(side / 2 / patch)) * patch for side in self._net.view_shape)
        scale = self._settings.local_scale, self._settings.global_scale
        return random_view(batch, (height, width), scale, self._random.views)

    def _masks(self, large: Tensor) -> Tensor:
        rows, columns = (side // int(self._config.patch_size) for side in self._net.view_shape)
        settings = self._settings
        drawn = random_masks(
            len(large), (rows, columns), settings.masked_images, settings.masked_patches, self._random.views
        )
        return drawn.to(self._device)

    def _tokens(self, backbone: nn.Module, view: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """CLS token `(N, D)` and patch tokens `(N, P, D)`."""
        hidden = backbone((view - self._net.mean) / self._net.std, bool_masked_pos=mask).last_hidden_state
        return hidden[:, 0], hidden[:, self._net.layout.first_patch :]

    def _temperature(self, done: int) -> float:
        first, last = self._settings.teacher_temperature
        return first + (last - first) * min(1.0, done / max(1.0, WARMING_TEACHER * self._total))

    def _finish(self, at: AdaptationState) -> None:
        """Leave the best teacher as a plain backbone."""
        if at.tensors is not None:
            self._best.load_state_dict(at.tensors)
        backbone = self._teacher.backbone
        if isinstance(backbone, PeftModel):
            backbone = backbone.float().merge_and_unload(safe_merge=True)
        if not at.kept:
            backbone.load_state_dict(self._untouched)
        self._net.backbone = backbone.requires_grad_(True)


def _pairs(student: nn.Module, teacher: nn.Module) -> list[tuple[Tensor, Tensor]]:
    theirs = dict(teacher.named_parameters())
    return [(theirs[name], p) for name, p in student.named_parameters() if p.requires_grad]


@torch.no_grad()
def follow(pairs: list[tuple[Tensor, Tensor]], momentum: float) -> None:
    """Move each teacher tensor towards the student's: `momentum` of its own stays.

    Args:
        pairs: teacher and student tensors.
        momentum: in [0, 1].
    """
    torch._foreach_lerp_([mine for mine, _ in pairs], [theirs.detach() for _, theirs in pairs], 1 - momentum)
