"""Weights that are cast once, and what stays in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offline.learning.precision import autocast, lowered
from stage1.model.adapters.attach import add_adapters
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, RandomBackbone
from stage1.model.trunk import blocks_of

CPU = torch.device("cpu")
ADAPTERS: tuple[Any, ...] = ("lora", "dora", "doran", "prompts", "parallel", "none")


def net(adapter: Any, last: int | None = 1) -> Stage1Net:
    settings = ModelSettings(
        backbone=RandomBackbone(hidden=32, layers=3, heads=2, patch_px=8), adapter=adapter, rank=4, last_layers=last
    )
    made = build(settings, shape=(32, 32), seed=0)
    add_adapters(made, settings)
    return made


def images(count: int = 4) -> Tensor:
    return torch.randint(256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def gradients(made: Stage1Net) -> list[Tensor]:
    made.zero_grad()
    with autocast(CPU, "bf16"):
        out = made(images())[0].float()
    nn.functional.cross_entropy(out, torch.tensor([0, 1, 0, 1])).backward()
    return [out.detach(), *(p.grad.clone() for p in made.parameters() if p.grad is not None)]


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("last", [1, None])
def test_a_pass_and_its_gradients_are_the_same_to_the_bit(adapter: Any, last: int | None) -> None:
    made = net(adapter, last)
    for index, parameter in enumerate(p for p in made.parameters() if p.requires_grad):
        nn.init.normal_(parameter, 0.1, 0.1, torch.Generator().manual_seed(index))
    before = gradients(made)
    weights = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    with lowered(made.backbone, CPU, "bf16"):
        after = gradients(made)
    assert len(before) == len(after) > 1
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in made.state_dict().items())
    assert {tensor.dtype for tensor in made.state_dict().values()} == {torch.float32}


def test_frozen_products_are_lowered_and_what_trains_or_is_measured_in_fp32_is_not() -> None:
    made = net("doran")
    with lowered(made.backbone, CPU, "bf16"):
        blocks = blocks_of(made.backbone)
        kinds = {
            p.dtype for block in blocks[:2] for m in block.modules() if isinstance(m, nn.Linear) for p in m.parameters()
        }
        assert kinds == {torch.bfloat16}
        assert {p.dtype for p in blocks[2].parameters()} == {torch.float32}
        assert all(p.dtype == torch.float32 for p in made.parameters() if p.requires_grad)
        with lowered(made.backbone, CPU, "bf16"):
            pass
        assert kinds == {torch.bfloat16}
    assert {p.dtype for p in made.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_in_fp32_nothing_is_lowered(precision: Any) -> None:
    made = net("none")
    with lowered(made.backbone, CPU, precision):
        assert {p.dtype for p in made.parameters()} == {torch.float32}


def test_weights_are_put_back_after_an_error() -> None:
    made = net("lora")
    with pytest.raises(KeyboardInterrupt), lowered(made.backbone, CPU, "bf16", frozen=False):
        raise KeyboardInterrupt
    assert {p.dtype for p in made.parameters()} == {torch.float32}


def test_a_network_that_only_answers_is_lowered_whole() -> None:
    made = net("none").requires_grad_(True)
    with torch.no_grad(), autocast(CPU, "bf16"):
        before = made(images())[0]
        with lowered(made.backbone, CPU, "bf16", frozen=False):
            assert torch.bfloat16 in {p.dtype for p in blocks_of(made.backbone)[0].parameters()}
            after = made(images())[0]
    assert torch.equal(before, after)
