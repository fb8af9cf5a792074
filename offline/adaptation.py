"""Domain adaptation: self-distillation of the backbone on unlabelled images of the domain.

A student sees two views of each image and predicts, from one, the cluster that an exponential-moving-average teacher
assigns to the other; the assignments are balanced over the batch, so that not all images fall into one cluster, and
KoLeo spreads the features. As in ExPLoRA, one block is trained in full and the rest through low-rank adapters, which
are merged into a plain backbone at the end.

References:
    Khanna, Irgau, Lobell, Ermon (2025), ExPLoRA, arXiv 2406.10973.
    Caron et al. (2021), DINO, arXiv 2104.14294. Oquab et al. (2023), DINOv2, arXiv 2304.07193 (Sinkhorn, KoLeo).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F

from offline.augmentation import light
from offline.checkpoints import Checkpoints, Randomness, Trained
from offline.config import AdaptSettings
from offline.errors import TrainingError
from offline.training import batches, device_of
from stage1.model import Stage1Net
from stage1.preprocess import Pixels

TEACHER_TEMPERATURE = 0.07
STUDENT_TEMPERATURE = 0.1
KOLEO_WEIGHT = 0.1
MOMENTUM = 0.99
RANK = 16
SMALLEST_CROP = 0.4


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Soft cluster assignments with balanced clusters.

    Args:
        logits: `(N, K)`.
        temperature: of the assignments.
        iterations: rounds of column and row normalisation.

    Returns:
        `(N, K)`; each row sums to 1, each column to about N / K.
    """
    scaled = logits.float() / temperature
    q = (scaled - scaled.max()).exp()
    for _ in range(iterations):
        q = q / q.sum(0, keepdim=True).clamp_min(1e-12)
        q = q / q.sum(1, keepdim=True).clamp_min(1e-12)
    return q


def koleo(features: Tensor) -> Tensor:
    """Minus the mean log distance of each unit-norm feature `(N, D)` to its nearest neighbour."""
    unit = F.normalize(features.float(), dim=1)
    with torch.no_grad():
        similarity = unit @ unit.T
        similarity.fill_diagonal_(-2)
        nearest = similarity.argmax(1)
    return -(F.pairwise_distance(unit, unit[nearest]) + 1e-8).log().mean()


def random_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """One augmented view of a uint8 batch `(N, 3, H, W)`: a common random crop, then flips and brightness."""
    side = images.shape[-1]
    crop = int(side * (SMALLEST_CROP + (1 - SMALLEST_CROP) * float(torch.rand(1, generator=generator))))
    top, left = (int(v) for v in torch.randint(0, side - crop + 1, (2,), generator=generator))
    view = F.interpolate(
        images[..., top : top + crop, left : left + crop].float(), (side, side), mode="bilinear", align_corners=False
    )
    return light(view.to(torch.uint8), generator)


def _student(net: Stage1Net) -> nn.Module:
    layers = int(net.backbone.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    if layers < 2:
        raise TrainingError("domain adaptation needs a backbone of at least two blocks: one is trained in full")
    config = LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        target_modules=["q_proj", "v_proj"],
        layers_to_transform=list(range(layers - 1)),
        layers_pattern="layer",
        modules_to_save=[f"layer.{layers - 1}"],
    )
    return get_peft_model(net.backbone, config)


@dataclass
class Progress:
    """How far the adaptation is.

    Attributes:
        epoch: epochs that are done.
        step: steps of the next epoch that are done.
        order: rows of that epoch in their order, `(N,)`; None before it is drawn.
    """

    epoch: int = 0
    step: int = 0
    order: Tensor | None = None


def adapt_domain(
    net: Stage1Net,
    images: Pixels,
    settings: AdaptSettings,
    *,
    seed: int,
    progress: Callable[[int, int, str], None],
    checkpoints: Path | None = None,
) -> None:
    """Adapt `net.backbone` in place; the heads are not touched.

    Args:
        net: without adapters.
        images: unlabelled uint8 images `(N, 3, H, W)`, N at least two.
        settings: schedule and size of the projection head.
        seed: seed of order, views and the projection head.
        progress: called with steps done, steps in all, and a note.
        checkpoints: directory from which a killed adaptation goes on; None for none.

    Raises:
        TrainingError: the loss is not finite, or the backbone has a single block.
        TrainingInterrupted: the process was told to end; a checkpoint is written.
    """
    torch.manual_seed(seed)
    net.backbone = _student(net)
    width = int(net.class_head[1].in_features)  # type: ignore[arg-type]
    device = device_of(net)
    head = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, settings.prototypes, bias=False)).to(device)
    teacher, teacher_head = copy.deepcopy(net).eval(), copy.deepcopy(head)
    trained = [p for p in net.backbone.parameters() if p.requires_grad] + list(head.parameters())
    followers = _pairs(net, teacher) + _pairs(head, teacher_head)
    optimiser = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.04)
    random = Randomness.seeded(seed)
    steps = max(1, len(images) // settings.batch_size)
    keeper = Checkpoints(
        checkpoints,
        [settings.model_dump(mode="json"), seed, list(images.shape)],
        {
            "student": Trained(net=net, head=head),
            "teacher": Trained(net=teacher, head=teacher_head),
            "optimiser": optimiser,
            "random": random,
        },
    )
    at = Progress(**(keeper.restore() or {}))
    net.train()
    with keeper.watch(vars(at)) as watch:
        while at.epoch < settings.epochs:
            if at.order is None:
                at.order = torch.from_numpy(random.order.permutation(len(images)))
            for index in batches(at.order.numpy(), settings.batch_size)[at.step :]:
                batch = torch.from_numpy(images[index]).to(device)
                views = [random_view(batch, random.views) for _ in range(2)]
                with torch.no_grad():
                    targets = [sinkhorn(teacher_head(teacher.features(v)), TEACHER_TEMPERATURE) for v in views]
                features = [net.features(view) for view in views]
                guesses = [F.log_softmax(head(f) / STUDENT_TEMPERATURE, dim=1) for f in features]
                loss = -0.5 * sum((targets[i] * guesses[1 - i]).sum(1).mean() for i in range(2))
                loss = loss + KOLEO_WEIGHT * 0.5 * (koleo(features[0]) + koleo(features[1]))
                if not torch.isfinite(loss):
                    raise TrainingError(
                        f"the loss of domain adaptation is not finite in epoch {at.epoch + 1}, step {at.step + 1} of "
                        f"{steps}, at a learning rate of {settings.learning_rate:.3g}: lower adapt_domain.learning_rate"
                    )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(trained, 3.0)
                optimiser.step()
                _follow(followers)
                at.step += 1
                done = at.epoch * steps + at.step
                progress(done, settings.epochs * steps, f"self-distillation loss {float(loss.detach()):.3f}")
                watch.step_done()
            at.epoch, at.step, at.order = at.epoch + 1, 0, None
            watch.save()
    net.backbone = teacher.backbone.float().merge_and_unload(safe_merge=True)  # type: ignore[operator]


def _pairs(student: nn.Module, teacher: nn.Module) -> list[tuple[Tensor, Tensor]]:
    theirs = dict(teacher.named_parameters())
    return [(theirs[name], p) for name, p in student.named_parameters() if p.requires_grad]


@torch.no_grad()
def _follow(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for mine, theirs in pairs:
        mine.lerp_(theirs, 1 - MOMENTUM)
