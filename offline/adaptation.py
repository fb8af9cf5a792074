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

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F

from offline.config import AdaptSettings
from offline.errors import TrainingError
from offline.training import augment, batches, seeded_generator
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
    return augment(view.to(torch.uint8), generator)


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


def adapt_domain(
    net: Stage1Net,
    images: Pixels,
    settings: AdaptSettings,
    *,
    seed: int,
    progress: Callable[[int, int, str], None],
) -> None:
    """Adapt `net.backbone` in place; the heads are not touched.

    Args:
        net: without adapters.
        images: unlabelled uint8 images `(N, 3, H, W)`, N at least two.
        settings: schedule and size of the projection head.
        seed: seed of order, views and the projection head.
        progress: called with steps done, steps in all, and a note.

    Raises:
        TrainingError: the loss is not finite, or the backbone has a single block.
    """
    torch.manual_seed(seed)
    net.backbone = _student(net)
    width = int(net.class_head[1].in_features)  # type: ignore[arg-type]
    head = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, settings.prototypes, bias=False))
    teacher, teacher_head = copy.deepcopy(net).eval(), copy.deepcopy(head)
    trained = [p for p in net.backbone.parameters() if p.requires_grad] + list(head.parameters())
    followers = _pairs(net, teacher) + _pairs(head, teacher_head)
    optimiser = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.04)
    rng, generator = np.random.default_rng(seed), seeded_generator(seed)
    total = settings.epochs * max(1, len(images) // settings.batch_size)
    done = 0
    net.train()
    for _ in range(settings.epochs):
        for index in batches(len(images), settings.batch_size, rng):
            batch = torch.from_numpy(images[index])
            views = [random_view(batch, generator) for _ in range(2)]
            with torch.no_grad():
                targets = [sinkhorn(teacher_head(teacher.features(v)), TEACHER_TEMPERATURE) for v in views]
            features = [net.features(view) for view in views]
            guesses = [F.log_softmax(head(f) / STUDENT_TEMPERATURE, dim=1) for f in features]
            loss = -0.5 * sum((targets[i] * guesses[1 - i]).sum(1).mean() for i in range(2))
            loss = loss + KOLEO_WEIGHT * 0.5 * (koleo(features[0]) + koleo(features[1]))
            if not torch.isfinite(loss):
                raise TrainingError("domain adaptation diverged: lower adapt_domain.learning_rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, 3.0)
            optimiser.step()
            _follow(followers)
            done += 1
            progress(done, total, f"self-distillation loss {float(loss.detach()):.3f}")
    net.backbone = teacher.backbone.float().merge_and_unload(safe_merge=True)  # type: ignore[operator]


def _pairs(student: nn.Module, teacher: nn.Module) -> list[tuple[Tensor, Tensor]]:
    theirs = dict(teacher.named_parameters())
    return [(theirs[name], p) for name, p in student.named_parameters() if p.requires_grad]


@torch.no_grad()
def _follow(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for mine, theirs in pairs:
        mine.lerp_(theirs, 1 - MOMENTUM)
