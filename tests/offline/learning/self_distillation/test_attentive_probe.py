"""A probe that learns where to look sees what a mean of patches hides, and disturbs nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from offline.data.dataset import Dataset, Row
from offline.learning.predict import ImageSet
from offline.learning.self_distillation import attentive_probe as probing
from offline.learning.self_distillation.attentive_probe import attentive_probe, looks
from offline.learning.self_distillation.judge import Judge, feature_judge
from stage1.metrics.classification import roc_auc
from stage1.model.net import Layout, Stage1Net
from stage1.model.settings import Pooling

SIZE_PX, WIDTH = 64, 128


class Patches(nn.Module):
    """A backbone whose patches are mean colours of squares of 8 px, spread over many channels; its block is idle."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList([nn.Identity()])
        self.twist = nn.Parameter(torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0)))

    def forward(self, pixels: torch.Tensor) -> BaseModelOutput:
        colours = nn.functional.avg_pool2d(pixels, 8).flatten(2).transpose(1, 2)
        return BaseModelOutput(last_hidden_state=colours @ self.twist)


def net(pooling: Pooling = "attention", *, multi_scale: bool = False) -> Stage1Net:
    torch.manual_seed(0)
    layout = Layout(width=WIDTH, first_patch=0, patch_px=8)
    return Stage1Net(
        Patches(), layout, shape=(SIZE_PX, SIZE_PX), head_hidden=4, pooling=pooling, multi_scale=multi_scale
    )


def cones(count: int, seed: int) -> ImageSet:
    """Streets of any brightness and tint; on those with roadwork one square of 64 is orange."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.3).astype(int)
    pixels = np.broadcast_to(rng.integers(20, 220, (count, 1, 8, 8)), (count, 3, 8, 8)).copy()
    pixels = pixels + rng.integers(-20, 21, (count, 3, 1, 1)) + rng.integers(-12, 13, pixels.shape)
    for number in np.flatnonzero(labels):
        pixels[number, :, rng.integers(8), rng.integers(8)] = (235, 120, 20)
    large = pixels.clip(0, 255).astype(np.uint8).repeat(8, 2).repeat(8, 3)
    rows = tuple(Row(image=f"{seed}/{n}", label=int(y), group=f"{seed}/{n}") for n, y in enumerate(labels))
    return ImageSet(large, Dataset(Path("nowhere"), rows))


def area(judge: Judge, made: Stage1Net) -> float:
    return judge.value(judge.scores(made))


def test_small_things_are_seen_where_the_net_pools_by_attention() -> None:
    judge = feature_judge("probe", cones(300, 1), cones(200, 2))
    assert area(judge, net()) > area(judge, net("mean")) + 0.1


def test_the_network_and_the_generators_stay_as_they_are_and_the_answer_is_the_same() -> None:
    made, train, held = net(), cones(120, 1), cones(40, 2)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    state = torch.get_rng_state()
    first = attentive_probe(made, train.images, train.data.labels, held.images)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    assert np.array_equal(first, attentive_probe(made, train.images, train.data.labels, held.images))
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())
    assert first.shape == (40,)
    assert first.dtype == np.float64


def test_more_rows_than_memory_is_for_are_picked_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    made, train, held = net(), cones(300, 1), cones(200, 2)
    # Of 64 patches, so many bytes are 250 rows.
    monkeypatch.setattr(probing, "MOST_BYTES", 250 * 64 * WIDTH * 2)
    scores = attentive_probe(made, train.images, train.data.labels, held.images)
    assert float(roc_auc(scores, held.data.labels)(np.ones(200))) > 0.8


def test_other_pools_are_judged_by_their_features() -> None:
    assert looks(net())
    assert not looks(net("cls_mean"))
    assert not looks(net(multi_scale=True))
