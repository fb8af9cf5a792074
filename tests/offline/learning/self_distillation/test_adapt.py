"""Domain adaptation: who moves, who stays, what is kept, and a plain backbone at the end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import MobileNetV2Config

from offline.errors import TrainingError
from offline.learning.self_distillation import adapt as adaptation
from offline.learning.self_distillation.adapt import adapt_domain, follow
from offline.learning.self_distillation.losses import gram_loss
from offline.learning.self_distillation.probe import linear_probe
from offline.learning.self_distillation.views import random_view
from offline.learning.settings import AdaptSettings
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, PretrainedBackbone, RandomBackbone
from stage1.model.trunk import plain
from stage1.model.weights import load_weights, save_weights

SIZE_PX = 32
BACKBONE = RandomBackbone(hidden=32, layers=3, heads=2, patch_px=8, initializer_range=0.15)


def net(seed: int = 0, **changes: Any) -> Stage1Net:
    model = ModelSettings(backbone=BACKBONE.model_copy(update=changes))
    return build(model, shape=(SIZE_PX, SIZE_PX), seed=seed)


def streets(count: int = 48) -> np.ndarray:
    """Smooth pictures of a few kinds, so that there is something to tell apart."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 256, (6, 3, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    noise = rng.normal(0, 12, (count, 3, SIZE_PX, SIZE_PX))
    return (kinds[np.arange(count) % 6] + noise).clip(0, 255).astype(np.uint8)


def settings(**changes: Any) -> AdaptSettings:
    common = {
        "enabled": True,
        "epochs": 2,
        "batch_size": 12,
        "rank": 4,
        "learning_rate": 2e-3,
        "block_learning_rate": 1e-3,
        "head_steps": 1,
        "prototypes": 32,
        "head_hidden": 32,
        "head_bottleneck": 16,
        "local_crops": 2,
        "precision": "fp32",
    }
    return AdaptSettings.model_validate(common | changes)


def silent(_done: int, _total: int, _note: str) -> None:
    """Say nothing."""


def adapt(made: Stage1Net, judge: Any = None, **changes: Any) -> adaptation.Adaptation:
    return adapt_domain(made, streets(), settings(**changes), seed=0, progress=silent, judge=judge)


def state(made: Stage1Net) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in made.backbone.state_dict().items()}


def features(made: Stage1Net) -> Tensor:
    with torch.no_grad():
        return made.eval().features(torch.from_numpy(streets()[:4]))


def test_the_backbone_moves_and_the_heads_do_not_and_a_plain_one_is_left(tmp_path: Path) -> None:
    made = net()
    names, before = list(made.state_dict()), features(made)
    heads = [p.clone() for p in made.class_head.parameters()]
    found = adapt(made)
    assert found.kept == 2
    assert list(made.state_dict()) == names
    assert type(made.backbone).__name__ == "DINOv3ViTModel"
    assert all(torch.equal(a, b) for a, b in zip(heads, made.class_head.parameters(), strict=True))
    assert not torch.allclose(features(made), before, atol=1e-4)
    save_weights(made, tmp_path / "backbone.safetensors")
    again = net(seed=3)
    load_weights(again, tmp_path / "backbone.safetensors")
    assert torch.equal(features(again), features(made))


@pytest.mark.parametrize("unfrozen", [1, 2])
def test_only_what_should_train_has_moved(unfrozen: int) -> None:
    """Query and value of the first blocks by their adapters, the last blocks in full, and all norms."""
    made = net()
    before = state(made)
    adapt(made, unfrozen_blocks=unfrozen)
    moved = {name for name, tensor in state(made).items() if not torch.equal(tensor, before[name])}
    full = tuple(f"model.layer.{index}." for index in range(3 - unfrozen, 3))
    may = [
        n
        for n in before
        if n.startswith(full) or ".norm" in n or n.startswith("norm.") or "q_proj" in n or "v_proj" in n
    ]
    assert moved <= set(may)
    assert {n for n in moved if not n.startswith(full)} >= {"model.layer.0.attention.q_proj.weight", "norm.weight"}
    assert any("mlp" in n for n in moved)
    assert not [n for n in moved if "bias" in n and "proj" in n and not n.startswith(full)]


def test_everything_trains_in_a_backbone_that_has_learned_nothing() -> None:
    made = net()
    before = state(made)
    adapt(made, unfrozen_blocks=None)
    still = {name for name, tensor in state(made).items() if torch.equal(tensor, before[name])}
    # A DINOv3 without registers has an empty tensor of them; the mask token is the student's only.
    assert {name for name in still if before[name].numel()} <= {"embeddings.mask_token"} | {
        name for name in still if "k_proj.bias" in name
    }


def test_the_teacher_follows_by_its_momentum() -> None:
    mine, theirs = torch.ones(3), torch.full((3,), 5.0)
    follow([(mine, theirs)], 0.75)
    assert torch.allclose(mine, torch.full((3,), 2.0))


def test_with_a_momentum_of_one_the_teacher_never_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    plainly = adaptation.follow

    def standing(pairs: list[tuple[Tensor, Tensor]], momentum: float) -> None:
        seen.append(momentum)
        plainly(pairs, 1.0)

    monkeypatch.setattr(adaptation, "follow", standing)
    made = net()
    before = features(made)
    adapt(made, momentum=0.9, head_steps=0)
    assert torch.allclose(features(made), before, atol=1e-5)
    # From its first value up to one, by half a cosine.
    assert seen[0] == pytest.approx(0.9)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1 - 0.1 * (1 + math.cos(math.pi * 7 / 8)) / 2)


def test_while_only_the_heads_train_the_backbone_stays_bit_for_bit() -> None:
    """At most for half of all steps, however many are asked for."""
    made, seen = net(), list[dict[str, Tensor]]()

    def judge(teacher: Stage1Net) -> float:
        seen.append(state(teacher))
        return float(len(seen))

    adapt(made, judge=judge, unfrozen_blocks=None, epochs=2, head_steps=100)
    start, first, second = seen
    assert all(torch.equal(tensor, start[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, start[name]) for name, tensor in second.items())


def test_it_learns_without_collapsing() -> None:
    found = adapt(net(), unfrozen_blocks=None, epochs=8, prototypes=16)
    losses = [record["loss"] for record in found.records]
    assert losses[-1] < losses[0] - 0.2
    assert all(record["entropy"] > 0.9 * math.log(16) for record in found.records)


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({}, {"views", "patches", "koleo"}),
        ({"patch_weight": 0.0, "koleo_weight": 0.0}, {"views"}),
        ({"gram_weight": 1.0}, {"views", "patches", "koleo", "gram"}),
    ],
)
def test_the_loss_is_the_sum_of_the_terms_that_are_wanted(changes: dict[str, float], terms: set[str]) -> None:
    (record,) = adapt(net(), epochs=1, **changes).records
    assert record.keys() - {"epoch", "loss", "entropy"} == terms
    assert record["loss"] == pytest.approx(sum(record[name] for name in terms), rel=1e-5)


def test_the_anchor_holds_patch_similarities() -> None:
    """With a heavy anchor the similarities end nearer to those of the start than without."""

    def patches(made: Stage1Net) -> Tensor:
        with torch.no_grad():
            pixels = (torch.from_numpy(streets()[:8]).float() - made.mean) / made.std
            tokens: Tensor = made.eval().backbone(pixels).last_hidden_state
            return tokens[:, 1:]

    def drift(weight: float) -> float:
        made = net()
        start = patches(made)
        adapt(made, unfrozen_blocks=None, gram_weight=weight, epochs=3, momentum=0.5, learning_rate=6e-3)
        return float(gram_loss(patches(made), start))

    assert drift(100.0) < 0.4 * drift(0.0)


def judgements(*values: float) -> Any:
    left = iter(values)
    return lambda _: next(left)


def test_the_best_epoch_is_kept_not_the_last() -> None:
    kept: list[Tensor] = []
    judged = judgements(0.1, 0.3, 0.2)

    def judge(made: Stage1Net) -> float:
        kept.append(features(made))
        return float(judged(made))

    made = net()
    found = adapt(made, judge=judge, epochs=2)
    assert (found.before, found.kept) == (0.1, 1)
    assert [record["judgement"] for record in found.records] == [0.3, 0.2]
    assert torch.allclose(features(made), kept[1], atol=1e-5)
    assert not torch.allclose(features(made), kept[2], atol=1e-5)


def test_where_no_epoch_is_better_the_backbone_is_as_it_was() -> None:
    made = net()
    before = state(made)
    found = adapt(made, judge=judgements(0.5, 0.4, 0.5, 0.3), epochs=10, patience=3)
    assert found.kept == 0
    assert len(found.records) == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(made).items())


def test_it_stops_when_patience_is_over() -> None:
    found = adapt(net(), judge=judgements(0.1, 0.5, 0.4, 0.3, 0.9), epochs=10, patience=2)
    assert (found.kept, len(found.records)) == (1, 3)


def test_patience_begins_when_the_backbone_does() -> None:
    """Four steps an epoch: in the first three only heads train, and none of them can be better."""
    found = adapt(net(), judge=judgements(0.1, 0.1, 0.1, 0.1, 0.3, 0.2, 0.2), epochs=10, head_steps=13, patience=2)
    assert (found.kept, len(found.records)) == (4, 6)
    in_vain = adapt(net(), judge=judgements(*[0.1] * 9), epochs=10, head_steps=13, patience=2)
    assert (in_vain.kept, len(in_vain.records)) == (0, 5)


def test_on_a_shifted_domain_what_is_kept_is_what_was_judged_best() -> None:
    """So few rows do not say what adaptation gains; the merged backbone has to earn the judgement told of it."""
    labels = (np.arange(48) % 6 < 3).astype(np.int8)
    noise = np.random.default_rng(1).normal(0, 8, (48, 3, SIZE_PX, SIZE_PX))
    hazy = (streets() * 0.1 + 100 + noise).clip(0, 255).astype(np.uint8)

    def judge(made: Stage1Net) -> float:
        with torch.no_grad():
            seen = made.eval().features(torch.from_numpy(hazy)).numpy()
        return linear_probe(seen[:24], labels[:24], seen[24:], labels[24:])

    made = net()
    chosen = settings(unfrozen_blocks=None, momentum=0.8, patience=None)
    found = adapt_domain(made, hazy, chosen, seed=0, progress=silent, judge=judge)
    assert found.before is not None
    judged = [found.before, *(record["judgement"] for record in found.records)]
    assert len(set(judged)) > 1
    assert judge(made) == pytest.approx(max(judged), abs=1e-6)


def test_a_view_is_the_same_at_any_precision() -> None:
    pictures = torch.from_numpy(streets(4))

    def view() -> Tensor:
        return random_view(pictures, (SIZE_PX, SIZE_PX), (0.3, 1.0), torch.Generator().manual_seed(0))

    exact = view()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(view(), exact, atol=1e-4)


def test_positions_jitter_in_the_student_only_and_only_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    made = net()
    seen: list[tuple[bool, float | None]] = []
    tokens = adaptation._Adapting._tokens

    def watching(self: Any, backbone: nn.Module, *rest: Any) -> Any:
        config: Any = plain(backbone).config
        seen.append((backbone is self._net.backbone, config.pos_embed_rescale))
        return tokens(self, backbone, *rest)

    monkeypatch.setattr(adaptation._Adapting, "_tokens", watching)
    adapt(made, epochs=1)
    assert {rescale for student, rescale in seen if student} == {2.0}
    assert {rescale for student, rescale in seen if not student} == {None}
    assert made.backbone.config.pos_embed_rescale is None  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["bf16", "recomputed"])
def test_it_runs_with_less_memory(kind: str) -> None:
    changes = {"precision": "bf16"} if kind == "bf16" else {"gradient_checkpointing": True}
    (record,) = adapt(net(), epochs=1, **changes).records
    assert math.isfinite(record["loss"])


def test_one_that_diverges_stops_with_advice() -> None:
    with pytest.raises(TrainingError, match=r"lower adapt_domain\.learning_rate"):
        adapt(net(), learning_rate=1e30, head_steps=0)


def test_what_cannot_be_adapted_says_why(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="at least two blocks"):
        adapt(net(layers=1))
    with pytest.raises(TrainingError, match="at least two images"):
        adapt_domain(net(), streets(1), settings(), seed=0, progress=silent)
    MobileNetV2Config(depth_multiplier=0.35, image_size=SIZE_PX).save_pretrained(tmp_path)
    other = build(ModelSettings(backbone=PretrainedBackbone(name=str(tmp_path))), shape=(SIZE_PX, SIZE_PX), seed=0)
    with pytest.raises(TrainingError, match=r"MobileNetV2Model cannot be adapted.*adapt_domain\.enabled to false"):
        adapt(other)
