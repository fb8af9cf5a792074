"""How far Friendly-SAM climbs, what climbs, and that all of it is put back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from offline.errors import TrainingError
from offline.learning.optimiser import build_optimiser, parameter_groups
from offline.learning.settings import FSamSettings, TrainSettings
from offline.learning.supervised.sharpness import Climb, FriendlySam
from offline.learning.update import Updater
from stage1.model.adapters.attach import add_adapters, merge_adapters
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import Adapter, ModelSettings, PretrainedBackbone, RandomBackbone

SIZE_PX = 32
LOW_RANK = ("lora", "dora", "doran")
Batch = tuple[Tensor, Tensor]


def network(adapter: Adapter, rank: int = 4) -> Stage1Net:
    settings = ModelSettings(
        backbone=RandomBackbone(hidden=32, layers=2, heads=2, patch_px=8), last_layers=None, rank=rank, adapter=adapter
    )
    net = build(settings, shape=(SIZE_PX, SIZE_PX), seed=0)
    # As on a backbone that has learned: nothing of it trains in full.
    pretrained = settings.model_copy(update={"backbone": PretrainedBackbone(name="nowhere")})
    add_adapters(net, pretrained)
    return net


def batch(seed: int) -> Batch:
    """Images that are roadwork if and only if they are reddish."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 16)
    pixels = rng.integers(0, 120, (16, 3, SIZE_PX, SIZE_PX))
    pixels[:, 0] += 120 * labels[:, None, None]
    return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels)


def trained(net: Stage1Net, steps: int, **sam: Any) -> tuple[FriendlySam, list[float], list[float]]:
    """Train so many steps; returns the optimiser's climb, its length in each step and the losses."""
    settings = TrainSettings(optimiser="fsam", learning_rate=3e-3, fsam=FSamSettings(**sam))
    made, lengths, losses = FriendlySam(net, settings.fsam), [], []
    weights = made.climb.weights

    def loss(drawn: Batch) -> Tensor:
        lengths.append(distance(weights, before))
        return nn.functional.cross_entropy(net(drawn[0])[0], drawn[1])

    updater = Updater(net, build_optimiser(parameter_groups(net, 0.0), settings), loss, climb=made.climb)
    for step in range(steps):
        before = [w.detach().clone() for w in weights]
        losses.append(updater.update([batch(step)]).loss)
    return made, lengths[1::2], losses


def distance(weights: list[Tensor], others: list[Tensor]) -> float:
    return float(sum(((w.detach() - o) ** 2).sum() for w, o in zip(weights, others, strict=True)) ** 0.5)


@pytest.mark.parametrize("adapter", [*LOW_RANK, "prompts", "parallel"])
def test_the_climb_begins_at_nothing_and_grows_with_the_adapter(adapter: Adapter) -> None:
    net = network(adapter)
    start = [p.detach().clone() for p in net.backbone.parameters() if p.requires_grad]
    _, lengths, _ = trained(net, 6, rho=0.05)
    assert lengths[0] == pytest.approx(0, abs=1e-6)
    assert lengths[-1] > lengths[1] > 0
    # Where the last climb began is a step away from where the adapter is.
    way = distance([p for p in net.backbone.parameters() if p.requires_grad], start)
    assert lengths[-1] == pytest.approx(0.05 * way, rel=0.3)


def test_heads_neither_climb_nor_lengthen_the_climb() -> None:
    net = network("lora")
    made = FriendlySam(net, FSamSettings())
    climbing = {id(w) for w in made.climb.weights}
    assert climbing == {id(p) for p in net.backbone.parameters() if p.requires_grad}
    alone = network("none")
    assert {id(w) for w in FriendlySam(alone, FSamSettings()).climb.weights} == {
        id(p) for p in alone.parameters() if p.requires_grad
    }


@pytest.mark.parametrize("adapter", LOW_RANK)
@pytest.mark.parametrize("rank", [2, 16])
def test_merged_weights_climb_by_their_share_of_the_merged_change(adapter: Adapter, rank: int) -> None:
    net = network(adapter, rank)
    layers = [module for module in net.backbone.modules() if isinstance(module, LoraLayer)]
    weights = [layer.get_base_layer().get_parameter("weight") for layer in layers]
    frozen = [weight.detach().clone() for weight in weights]
    made, lengths, _ = trained(net, 5, rho=0.1, form="merged")
    assert [id(w) for w in made.climb.weights] == [id(w) for w in weights]
    assert lengths[0] == pytest.approx(0, abs=1e-6)
    # The length of the next climb, against the product that peft merges.
    change = [module.get_delta_weight("default").detach() for module in layers]  # type: ignore[operator]
    expected = 0.1 * distance(change, [torch.zeros_like(c) for c in change])
    assert float(made.climb._length()) == pytest.approx(expected, rel=1e-4)
    assert lengths[-1] == pytest.approx(expected, rel=0.5)
    for weight, before in zip(weights, frozen, strict=True):
        assert torch.equal(weight, before)
        assert not weight.requires_grad
        assert weight.grad is None


def test_merged_weights_climb_along_their_own_gradient() -> None:
    """Which the factors of an adapter at its start cannot reach: there B is zero, and with it the gradient of A."""
    net = network("lora")
    made = FriendlySam(net, FSamSettings(form="merged"))
    images, labels = batch(0)
    with made.climb.watched():
        nn.functional.cross_entropy(net(images)[0], labels).backward()
    found = [g.clone() for g in made.climb.gradients]
    plain = network("lora")
    merge_adapters(plain)
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    nn.functional.cross_entropy(plain(images)[0], labels).backward()
    by_shape = sorted(
        float(p.grad.norm()) for n, p in plain.backbone.named_parameters() if _adapted(n, p) and p.grad is not None
    )
    assert sorted(float(g.norm()) for g in found) == pytest.approx(by_shape, rel=1e-4)
    assert len(found) == len(made.climb.weights)


def _adapted(name: str, parameter: nn.Parameter) -> bool:
    return "layer." in name and name.endswith("proj.weight") and parameter.ndim == 2


def test_merged_without_a_low_rank_adapter_is_refused() -> None:
    with pytest.raises(TrainingError, match="set it to adapter"):
        FriendlySam(network("prompts"), FSamSettings(form="merged"))


def test_the_state_goes_on_where_it_was() -> None:
    made, _, _ = trained(network("lora"), 3, rho=0.1)
    again = network("lora")
    other = FriendlySam(again, FSamSettings(rho=0.1))
    with torch.no_grad():
        for mine, theirs in zip(other.climb.weights, made.climb.weights, strict=True):
            mine.add_(1)
            mine.copy_(theirs)
    other.load_state_dict(made.state_dict())
    assert float(other.climb._length()) == float(made.climb._length()) > 0
    for mine, theirs in zip(other.climb.state_dict()["means"], made.climb.state_dict()["means"], strict=True):
        assert torch.equal(mine, theirs)


def test_weights_that_have_no_gradient_stay() -> None:
    moved, still = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    climb = Climb([moved, still], lambda: 0.5, sigma=1.0, momentum=0.9)
    moved.grad = torch.tensor([0.0, 3.0, 4.0])
    climb.up()
    assert moved.tolist() == pytest.approx([1.0, 1.3, 1.4])
    assert still.tolist() == [1.0, 1.0]
    climb.down()
    assert moved.tolist() == [1.0, 1.0, 1.0]
