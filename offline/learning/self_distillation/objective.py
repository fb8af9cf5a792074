"""One step's objective: crops and masks, the teacher's assignments over the whole batch, the student's losses in parts.

The teacher sees the whole batch before the student sees any of it, so assignments and the two distillation losses do
not depend on the number of parts. KoLeo looks for neighbours within a part, as DINOv2 does within a device.

References:
    Oquab et al. (2023), DINOv2, arXiv 2304.07193, section 4 (the objective).
    Simeoni et al. (2025), DINOv3, arXiv 2508.10104, section 4 (the Gram anchor).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from offline.learning.self_distillation.losses import (
    gram_loss,
    koleo,
    marginal_entropy,
    patch_loss,
    patch_weights,
    sinkhorn,
    view_loss,
)
from offline.learning.self_distillation.pictures import Batch
from offline.learning.self_distillation.views import random_masks, random_view
from offline.learning.settings import AdaptSettings
from stage1.model.net import Stage1Net
from stage1.model.trunk import plain

LARGE_VIEWS = 2


@dataclass(frozen=True)
class Part:
    """What the student sees at once of a batch of N images.

    Attributes:
        large: large crops of its n images, fp32 `(2 n, 3, h, w)`, all first ones before all second ones.
        small: small crops, `(L n, 3, s, s')`, likewise; None for none.
        mask: masked patches of the large ones, bool `(2 n, P)`.
        places: numbers of the masked patches among all `2 n P`, int64 `(M,)`.
        weights: of each masked patch in the loss, `(M,)`.
        share: n / N.
    """

    large: Tensor
    small: Tensor | None
    mask: Tensor
    places: Tensor
    weights: Tensor
    share: float


@dataclass(frozen=True)
class Targets:
    """The teacher's assignments for one part.

    Attributes:
        views: of the large crops, one `(n, K)` each.
        patches: of the masked patches, `(M, K)`.
    """

    views: tuple[Tensor, ...]
    patches: Tensor


@dataclass(frozen=True)
class Side:
    """A network with its projection head.

    Attributes:
        net: gives pixels their normalisation and the tokens their layout.
        head: scores prototypes.
    """

    net: Stage1Net
    head: nn.Module

    def tokens(self, view: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """CLS token `(N, D)` and patch tokens `(N, P, D)` of crops `(N, 3, h, w)`, some patches masked."""
        return tokens_of(self.net, self.net.backbone, view, mask)


def tokens_of(net: Stage1Net, backbone: nn.Module, view: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """CLS token `(N, D)` and patch tokens `(N, P, D)`.

    Args:
        net: whose normalisation and layout it is.
        backbone: one of the same layout.
        view: fp32 `(N, 3, h, w)`, in [0, 255].
        mask: bool `(N, P)`, true for patches that are masked; None for none.
    """
    hidden = backbone((view - net.mean) / net.std, bool_masked_pos=mask).last_hidden_state
    return hidden[:, 0], hidden[:, net.layout.first_patch :]


@dataclass(frozen=True)
class Drawn:
    """Crops and masks of a batch of N images.

    Attributes:
        large: fp32 `(2, N, 3, h, w)`.
        small: `(L, N, 3, s, s')`; None for none.
        masks: masked patches of the large ones, bool `(2, N, P)`, on the CPU.
    """

    large: Tensor
    small: Tensor | None
    masks: Tensor

    def parts(self, number: int) -> list[Part]:
        """The batch in so many parts of nearly the same size, or as many as there are images."""
        count, device = self.masks.shape[1], self.large.device
        number = min(number, count)
        cuts = [round(count * place / number) for place in range(number + 1)]
        return [
            _part(
                self.large[:, a:b],
                None if self.small is None else self.small[:, a:b],
                self.masks[:, a:b],
                (b - a) / count,
                device,
            )
            for a, b in pairwise(cuts)
        ]


def drawn_of(batch: Batch, net: Stage1Net, settings: AdaptSettings, generator: torch.Generator) -> Drawn:
    """Draw the crops and masks of a batch.

    Args:
        batch: pictures of N images, or uint8 `(N, 3, H, W)`, on the device that computes.
        net: says how large a view is.
        settings: of crops and masks.
        generator: on the CPU.
    """
    shape, patch = net.view_shape, int(plain(net.backbone).config.patch_size)  # type: ignore[union-attr, arg-type]
    count = len(batch)
    scale = settings.global_scale, 1.0
    large = torch.stack(
        [random_view(batch, shape, scale, generator, solarise=number == 1) for number in range(LARGE_VIEWS)]
    )
    grid = shape[0] // patch, shape[1] // patch
    drawn = random_masks(LARGE_VIEWS * count, grid, settings.masked_images, settings.masked_patches, generator)
    height, width = (max(2, round(side / 2 / patch)) * patch for side in shape)
    scale = settings.local_scale, settings.global_scale
    crops = [random_view(batch, (height, width), scale, generator) for _ in range(settings.local_crops)]
    return Drawn(large, torch.stack(crops) if crops else None, drawn.reshape(LARGE_VIEWS, count, -1))


def _part(large: Tensor, small: Tensor | None, masks: Tensor, share: float, device: torch.device) -> Part:
    # Where the masked patches are is known on the CPU: asked of the device, each step would wait for it.
    mask = masks.flatten(0, 1)
    return Part(
        large.flatten(0, 1),
        None if small is None else small.flatten(0, 1),
        mask.to(device),
        mask.flatten().nonzero().squeeze(1).to(device),
        patch_weights(mask).to(device),
        share,
    )


@torch.no_grad()
def assignments(teacher: Side, parts: list[Part], temperature: float) -> tuple[list[Targets], Tensor]:
    """What the teacher assigns, over all parts together, and the entropy of its mean assignment.

    Args:
        teacher: in evaluation mode.
        parts: of one batch.
        temperature: of the assignments.
    """
    views, patches = [], []
    for part in parts:
        cls, grid = teacher.tokens(part.large)
        views.append(teacher.head(cls))
        patches.append(teacher.head(grid.flatten(0, 1)[part.places]))
    assigned = sinkhorn(torch.cat(views), temperature)
    behind = sinkhorn(torch.cat(patches), temperature)
    of_views = torch.split(assigned, [*map(len, views)])
    of_patches = torch.split(behind, [*map(len, patches)])
    targets = [Targets(one.chunk(LARGE_VIEWS), other) for one, other in zip(of_views, of_patches, strict=True)]
    return targets, marginal_entropy(assigned)


def part_losses(
    student: Side, part: Part, targets: Targets, settings: AdaptSettings, *, anchor: nn.Module | None, moving: bool
) -> dict[str, Tensor]:
    """The weighted terms of the objective for one part; those of all parts sum to those of the batch.

    Args:
        student: in training mode.
        part: what it sees.
        targets: what the teacher assigned.
        settings: weights of the terms.
        anchor: the backbone as it was, if the anchor of patch similarities is wanted.
        moving: whether the backbone trains; random heads would push garbage into it.
    """
    with torch.set_grad_enabled(moving):
        cls, patches = student.tokens(part.large, part.mask)
        small = None if part.small is None else student.tokens(part.small)[0]
    masked = patches.flatten(0, 1)[part.places]
    scored = [cls, *([] if small is None else [small]), *([masked] if settings.patch_weight else [])]
    scores = torch.split(student.head(torch.cat(scored)), [*map(len, scored)])
    crops = [*scores[0].chunk(LARGE_VIEWS), *([] if small is None else scores[1].chunk(settings.local_crops))]
    terms = {"views": view_loss(targets.views, crops)}
    if settings.patch_weight:
        terms["patches"] = settings.patch_weight * patch_loss(targets.patches, scores[-1], part.weights)
    if settings.koleo_weight and len(cls) > LARGE_VIEWS:
        terms["koleo"] = settings.koleo_weight * torch.stack([koleo(each) for each in cls.chunk(LARGE_VIEWS)]).sum()
    if anchor is not None:
        with torch.no_grad():
            start = tokens_of(student.net, anchor, part.large)[1]
        terms["gram"] = settings.gram_weight * gram_loss(patches, start)
    return {name: part.share * term for name, term in terms.items()}
