"""The objective of a step against one that takes every crop by itself, and what student and teacher share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from offline.learning.self_distillation.losses import PrototypeHead, gram_loss, koleo, sinkhorn, view_loss
from offline.learning.self_distillation.objective import Part, Side, assignments, drawn_of, part_losses
from offline.learning.self_distillation.student import pairs_of, student_of, teacher_of, way
from offline.learning.settings import AdaptSettings
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, RandomBackbone

SIZE_PX = 32


def settings(**changes: Any) -> AdaptSettings:
    return AdaptSettings.model_validate({"rank": 4, "local_crops": 3, "gram_weight": 0.5} | changes)


def made() -> tuple[Side, Side, nn.Module]:
    """Student, teacher and anchor, all different."""
    model = ModelSettings(backbone=RandomBackbone(hidden=32, layers=2, heads=2, patch_px=8, initializer_range=0.15))
    sides = []
    for seed in range(2):
        net = build(model, shape=(SIZE_PX, SIZE_PX), seed=seed).eval()
        sides.append(Side(net, PrototypeHead(32, hidden=16, bottleneck=8, prototypes=24)))
    return sides[0], sides[1], build(model, shape=(SIZE_PX, SIZE_PX), seed=5).backbone.eval()


def pictures(count: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    drawn: Tensor = torch.randint(0, 256, (count, 3, SIZE_PX, SIZE_PX), generator=generator, dtype=torch.uint8)
    return drawn


def plain_terms(
    student: Side, teacher: Side, anchor: nn.Module, part: Part, temperature: float, chosen: AdaptSettings
) -> dict[str, Tensor]:
    """Each crop and each head by itself, as in the papers."""

    def tokens(net: Stage1Net, backbone: nn.Module, view: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        hidden = backbone((view - net.mean) / net.std, bool_masked_pos=mask).last_hidden_state
        return hidden[:, 0], hidden[:, net.layout.first_patch :]

    with torch.no_grad():
        cls, patches = tokens(teacher.net, teacher.net.backbone, part.large, None)
        targets = sinkhorn(teacher.head(cls), temperature)
        behind = sinkhorn(teacher.head(patches[part.mask]), temperature)
    own, own_patches = tokens(student.net, student.net.backbone, part.large, part.mask)
    assert part.small is not None
    small = [tokens(student.net, student.net.backbone, each, None)[0] for each in part.small.chunk(chosen.local_crops)]
    weight = (1.0 / part.mask.sum(1, keepdim=True).clamp_min(1)).expand_as(part.mask)[part.mask]
    crossed = -(behind * F.log_softmax(student.head(own_patches[part.mask]) / 0.1, dim=-1)).sum(-1)
    return {
        "views": view_loss(targets.chunk(2), [*student.head(own).chunk(2), *(student.head(each) for each in small)]),
        "patches": chosen.patch_weight * (crossed * weight).sum() / len(part.mask),
        "koleo": chosen.koleo_weight * (koleo(own[: len(own) // 2]) + koleo(own[len(own) // 2 :])),
        "gram": chosen.gram_weight * gram_loss(own_patches, tokens(student.net, anchor, part.large, None)[1]),
    }


def gradient(side: Side) -> list[Tensor]:
    parameters = [*side.net.backbone.parameters(), *side.head.parameters()]
    found = [p.grad.clone() for p in parameters if p.grad is not None]
    for parameter in parameters:
        parameter.grad = None
    return found


def test_all_crops_at_once_give_the_terms_and_the_gradient_of_each_by_itself() -> None:
    student, teacher, anchor = made()
    chosen = settings()
    (part,) = drawn_of(pictures(), student.net, chosen, torch.Generator().manual_seed(3)).parts(1)
    ((targets,), _) = assignments(teacher, [part], 0.05)
    found = part_losses(student, part, targets, chosen, anchor=anchor, moving=True)
    torch.stack([*found.values()]).sum().backward()
    ours = gradient(student)
    expected = plain_terms(student, teacher, anchor, part, 0.05, chosen)
    torch.stack([*expected.values()]).sum().backward()
    assert found.keys() == expected.keys()
    for name, term in expected.items():
        assert found[name].item() == pytest.approx(term.item(), rel=1e-5)
    for one, other in zip(ours, gradient(student), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("number", [2, 3, 7, 50])
def test_the_terms_of_all_parts_are_those_of_the_batch(number: int) -> None:
    student, teacher, anchor = made()
    terms = []
    for parts in (1, number):
        chosen = settings(koleo_weight=0.0)
        drawn = drawn_of(pictures(), student.net, chosen, torch.Generator().manual_seed(3)).parts(parts)
        assert len(drawn) == min(parts, 7)
        assert sum(part.share for part in drawn) == pytest.approx(1)
        targets, entropy = assignments(teacher, drawn, 0.05)
        found = [
            part_losses(student, part, assigned, chosen, anchor=anchor, moving=True)
            for part, assigned in zip(drawn, targets, strict=True)
        ]
        terms.append(
            {name: sum(each[name].item() for each in found) for name in found[0]} | {"entropy": float(entropy)}
        )
    assert terms[1] == pytest.approx(terms[0], rel=1e-5)


def test_while_the_backbone_does_not_move_only_the_head_gets_a_gradient() -> None:
    student, teacher, anchor = made()
    chosen = settings()
    (part,) = drawn_of(pictures(), student.net, chosen, torch.Generator().manual_seed(3)).parts(1)
    ((targets,), _) = assignments(teacher, [part], 0.05)
    found = part_losses(student, part, targets, chosen, anchor=anchor, moving=False)
    torch.stack([*found.values()]).sum().backward()
    assert all(p.grad is None for p in student.net.backbone.parameters())
    assert all(p.grad is not None for p in student.head.parameters() if p.requires_grad)


def addresses(net: Stage1Net) -> dict[int, int]:
    """Bytes of the backbone's parameters by where they lie."""
    return {p.data_ptr(): p.numel() * p.element_size() for p in net.backbone.parameters() if p.numel()}


@pytest.mark.parametrize("unfrozen", [1, None])
def test_the_teacher_owns_what_trains_and_shares_the_rest(unfrozen: int | None) -> None:
    student, _, _ = made()
    net = student.net
    net.backbone = student_of(net.backbone, settings(unfrozen_blocks=unfrozen))
    teacher = teacher_of(net, net.backbone)
    ours, theirs = addresses(net), addresses(teacher)
    trained = sum(p.numel() * p.element_size() for p in net.backbone.parameters() if p.requires_grad)
    assert sum(size for at, size in theirs.items() if at not in ours) == trained
    assert sum(size for at, size in theirs.items() if at in ours) == sum(ours.values()) - trained
    pairs = pairs_of(net.backbone, teacher.backbone)
    start = [tensor.detach().clone() for _, tensor in pairs]
    assert way(pairs, start) == (0.0, 0.0)
    with torch.no_grad():
        for _, tensor in pairs:
            tensor.add_(1.0)
    count = sum(tensor.numel() for tensor in start)
    teacher_way, student_way = way(pairs, start)
    assert teacher_way == 0
    assert student_way == pytest.approx(count**0.5)
