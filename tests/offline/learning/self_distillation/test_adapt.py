"""Domain adaptation: who moves, who stays, what is kept, and a plain backbone at the end."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import MobileNetV2Config

from offline.data.originals import Copies, originals_of
from offline.errors import TrainingError, TrainingInterrupted
from offline.learning.self_distillation import adapt as adaptation
from offline.learning.self_distillation import objective
from offline.learning.self_distillation.adapt import adapt_domain
from offline.learning.self_distillation.judge import Judge
from offline.learning.self_distillation.losses import gram_loss
from offline.learning.self_distillation.pictures import Unshrunk
from offline.learning.self_distillation.probe import linear_probe
from offline.learning.self_distillation.student import follow
from offline.learning.self_distillation.views import random_view
from offline.learning.settings import AdaptSettings
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, PretrainedBackbone, RandomBackbone
from stage1.model.trunk import plain
from stage1.model.weights import load_weights, save_weights
from stage1.preprocess import PreprocessSettings
from tests.support.backbones import write_backbone

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
        "keep": "best",
    }
    return AdaptSettings.model_validate(common | changes)


def silent(_done: int, _total: int, _note: str) -> None:
    """Say nothing."""


def adapt(made: Stage1Net, judge: Judge | None = None, **changes: Any) -> adaptation.Adaptation:
    return adapt_domain(made, streets(), settings(**changes), seed=0, progress=silent, judge=judge)


JUDGED = np.tile([0, 1], 10)


def judging(value: Callable[[Stage1Net], float]) -> Judge:
    """Gives a network a judgement: the area under the ROC curve of its scores on twenty rows is that value."""

    def scores(made: Stage1Net) -> np.ndarray:
        # Of ten zeros, the ones are above so many.
        below = round(100 * value(made))
        found = np.zeros(20)
        found[JUDGED == 0] = np.arange(10) + 0.5
        found[JUDGED == 1] = np.sort([below // 10 + (row < below % 10) for row in range(10)])
        return found

    return Judge(scores, JUDGED, np.arange(20))


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

    def standing(pairs: list[tuple[Tensor, Tensor]], momentum: float) -> None:
        seen.append(momentum)
        follow(pairs, 1.0)

    monkeypatch.setattr(adaptation, "follow", standing)
    made = net()
    before = features(made)
    (*_, last) = adapt(made, momentum=0.9, head_steps=0).records
    assert torch.allclose(features(made), before, atol=1e-5)
    assert seen == [0.9] * 8
    assert (last["teacher_way"], last["student_way"] > 0) == (0.0, True)


def test_while_only_the_heads_train_the_backbone_stays_bit_for_bit() -> None:
    """At most for a twentieth of all steps, however many are asked for: here for one of forty."""
    made, seen = net(), list[dict[str, Tensor]]()

    def value(judged: Stage1Net) -> float:
        seen.append(state(judged))
        return 0.5

    adapt(made, judge=judging(value), unfrozen_blocks=None, epochs=2, batch_size=24, head_steps=1, patience=None)
    assert not all(torch.equal(seen[1][name], seen[0][name]) for name in seen[0])
    made, seen = net(), []
    adapt(made, judge=judging(value), unfrozen_blocks=None, epochs=20, batch_size=48, head_steps=100, patience=2)
    start, *first_epoch, teacher, student = seen[:5]
    assert all(torch.equal(each[name], start[name]) for each in first_epoch for name in start)
    assert not any(all(torch.equal(each[name], start[name]) for name in start) for each in (teacher, student))


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
def test_the_loss_is_the_sum_of_the_terms_that_are_wanted(changes: dict[str, Any], terms: set[str]) -> None:
    (record,) = adapt(net(), epochs=1, **changes).records
    assert record.keys() - {"epoch", "loss", "entropy", "teacher_way", "student_way"} == terms
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


def judgements(*values: float) -> Judge:
    left = iter(values)
    return judging(lambda _: next(left))


@pytest.mark.parametrize(("values", "of"), [((0.3, 0.2, 0.25, 0.2), "teacher"), ((0.2, 0.3, 0.25, 0.2), "student")])
def test_the_better_of_teacher_and_student_of_the_best_epoch_is_kept(values: tuple[float, ...], of: str) -> None:
    seen: list[Tensor] = []
    judged = iter((0.1, *values))

    def value(made: Stage1Net) -> float:
        seen.append(features(made))
        return next(judged)

    made = net()
    found = adapt(made, judge=judging(value), epochs=2)
    assert found.before == pytest.approx(0.1)
    assert (found.kept, found.of) == (1, of)
    told = [value for record in found.records for value in (record["teacher"], record["student"])]
    assert told == pytest.approx(values)
    place = 1 + values.index(max(values))
    assert torch.allclose(features(made), seen[place], atol=1e-5)
    others = [each for number, each in enumerate(seen) if number != place]
    assert not any(torch.allclose(features(made), each, atol=1e-5) for each in others)


def test_where_no_epoch_is_better_the_backbone_is_as_it_was() -> None:
    for unfrozen in (1, None):
        made = net()
        before = state(made)
        found = adapt(made, judge=judgements(0.5, *[0.4, 0.5] * 3), epochs=10, patience=3, unfrozen_blocks=unfrozen)
        assert (found.kept, found.of, found.gain) == (0, "start", None)
        assert len(found.records) == 3
        assert all(torch.equal(tensor, before[name]) for name, tensor in state(made).items())


def test_a_gain_that_is_not_proven_is_told_and_leaves_the_backbone_as_it_was() -> None:
    values = 0.5, 0.55, 0.5, 0.5, 0.5
    kept, left = net(), net()
    before = state(left)
    best = adapt(kept, judge=judgements(*values))
    proven = adapt(left, judge=judgements(*values), keep="proven")
    assert best.gain == proven.gain
    assert best.gain is not None
    assert best.gain.lower < 0 < best.gain.estimate == pytest.approx(0.05)
    assert best.gain.judged == 4
    assert ((best.kept, best.of), (proven.kept, proven.of)) == ((1, "teacher"), (0, "start"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(left).items())
    assert not all(torch.equal(tensor, before[name]) for name, tensor in state(kept).items())


def test_a_gain_that_is_proven_is_kept() -> None:
    found = adapt(net(), judge=judgements(0.1, 0.95, 0.5, 0.5, 0.5), keep="proven")
    assert (found.kept, found.of) == (1, "teacher")
    assert found.gain is not None
    assert found.gain.lower > 0


def test_it_stops_when_patience_is_over() -> None:
    values = [0.1, *[0.5, 0.1], *[0.4, 0.2], *[0.3, 0.3], *[0.9, 0.9]]
    found = adapt(net(), judge=judgements(*values), epochs=10, patience=2)
    assert (found.kept, len(found.records)) == (1, 3)


def test_patience_begins_when_the_backbone_does() -> None:
    """One step an epoch, forty in all: in the first two only heads train, and none of them can be better."""
    changes: dict[str, Any] = {"epochs": 40, "batch_size": 48, "head_steps": 9, "patience": 2}
    found = adapt(net(), judge=judgements(*[0.1] * 5, 0.3, *[0.2] * 5), **changes)
    assert (found.kept, len(found.records)) == (3, 5)
    in_vain = adapt(net(), judge=judgements(*[0.1] * 9), **changes)
    assert (in_vain.kept, len(in_vain.records)) == (0, 4)


def test_on_a_shifted_domain_what_is_kept_is_what_was_judged_best() -> None:
    """So few rows do not say what adaptation gains; the merged backbone has to earn the judgement told of it."""
    labels = (np.arange(48) % 6 < 3).astype(np.int8)
    noise = np.random.default_rng(1).normal(0, 8, (48, 3, SIZE_PX, SIZE_PX))
    hazy = (streets() * 0.1 + 100 + noise).clip(0, 255).astype(np.uint8)

    def scores(made: Stage1Net) -> np.ndarray:
        with torch.no_grad():
            seen = made.eval().features(torch.from_numpy(hazy)).numpy()
        return linear_probe(seen[:24], labels[:24], seen[24:])

    judge = Judge(scores, labels[24:], np.arange(24))
    made = net()
    chosen = settings(unfrozen_blocks=None, momentum=0.8, patience=None)
    found = adapt_domain(made, hazy, chosen, seed=0, progress=silent, judge=judge)
    assert found.before is not None
    judged = [found.before, *(record[of] for record in found.records for of in ("teacher", "student"))]
    assert len(set(judged)) > 1
    assert judge.value(judge.scores(made)) == pytest.approx(max(judged), abs=1e-6)


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
    tokens = objective.tokens_of

    def watching(other: Stage1Net, backbone: nn.Module, *rest: Any) -> Any:
        config: Any = plain(backbone).config
        seen.append((other is made, config.pos_embed_rescale))
        return tokens(other, backbone, *rest)

    monkeypatch.setattr(objective, "tokens_of", watching)
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


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers"])
@pytest.mark.parametrize("unfrozen", [1, None])
def test_dinov2_is_adapted_too(kind: str, unfrozen: int | None, tmp_path: Path) -> None:
    """Its positions are learned and interpolated to the size of a crop, and nothing is added to them."""
    write_backbone(tmp_path, kind, size_px=SIZE_PX)
    made = build(ModelSettings(backbone=PretrainedBackbone(name=str(tmp_path))), shape=(SIZE_PX, SIZE_PX), seed=0)
    before = state(made)
    found = adapt(made, unfrozen_blocks=unfrozen)
    assert type(made.backbone).__name__.startswith("Dinov2")
    assert list(state(made)) == list(before)
    moved = {name for name, tensor in state(made).items() if not torch.equal(tensor, before[name])}
    if unfrozen == 1:
        last = "encoder.layer.2."
        assert moved == {
            name
            for name in before
            if name.startswith(last) or "norm" in name or name.endswith(("q_proj.weight", "v_proj.weight"))
        }
    else:
        assert "embeddings.position_embeddings" in moved
    assert found.records[-1]["loss"] < found.records[0]["loss"] + 0.5


def test_a_backbone_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    write_backbone(tmp_path, "vit", size_px=SIZE_PX)
    made = build(ModelSettings(backbone=PretrainedBackbone(name=str(tmp_path))), shape=(SIZE_PX, SIZE_PX), seed=0)
    with pytest.raises(TrainingError, match=r"ViTModel cannot be adapted.*adapt_domain\.enabled to false"):
        adapt(made)


def test_parts_of_a_batch_change_memory_not_the_step(tmp_path: Path) -> None:
    """Up to rounding, where neither the positions jitter nor neighbours are looked for."""
    write_backbone(tmp_path, "dinov2", size_px=SIZE_PX)
    ends, told = [], []
    for accumulation in (1, 3, 5):
        made = build(ModelSettings(backbone=PretrainedBackbone(name=str(tmp_path))), shape=(SIZE_PX, SIZE_PX), seed=0)
        found = adapt(made, accumulation=accumulation, koleo_weight=0.0, gram_weight=0.5, epochs=1)
        ends.append(features(made))
        told.append(found.records[0])
    for end, record in zip(ends[1:], told[1:], strict=True):
        assert torch.allclose(end, ends[0], atol=2e-3)
        assert record == pytest.approx(told[0], rel=1e-3)


def out_of_memory_above(images: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device whose memory is enough for so many images at once; returns the sizes of the parts that it was asked."""
    asked: list[int] = []
    plainly = objective.part_losses

    def losses(student: Any, part: Any, *rest: Any, **named: Any) -> Any:
        asked.append(len(part.large) // 2)
        found = plainly(student, part, *rest, **named)
        if asked[-1] > images:
            raise torch.OutOfMemoryError
        return found

    monkeypatch.setattr(adaptation, "part_losses", losses)
    return asked


def test_a_lack_of_memory_is_met_by_smaller_parts_from_the_same_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, made = net(), net()
    adapt(expected, accumulation=4, epochs=1)
    asked = out_of_memory_above(3, monkeypatch)
    adapt(made, epochs=1)
    # Twelve images in one part, in two, in four; and in four from then on.
    assert asked == [12, 6] + [3] * 16
    assert all(torch.equal(tensor, state(expected)[name]) for name, tensor in state(made).items())


def test_where_memory_is_not_enough_for_one_image_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_above(0, monkeypatch)
    with pytest.raises(TrainingError, match=r"not enough for one image.*adapt_domain\.gradient_checkpointing"):
        adapt(net())


def test_a_training_that_resumes_remembers_the_size_of_the_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = out_of_memory_above(3, monkeypatch)

    def end(done: int, *_: Any) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    changes = settings(epochs=1)
    with pytest.raises(TrainingInterrupted):
        adapt_domain(net(), streets(), changes, seed=0, progress=end, checkpoints=tmp_path)
    del asked[:]
    resumed, whole = net(), net()
    adapt_domain(resumed, streets(), changes, seed=0, progress=silent, checkpoints=tmp_path)
    assert asked == [3] * 8
    adapt_domain(whole, streets(), changes, seed=0, progress=silent)
    assert all(torch.equal(tensor, state(whole)[name]) for name, tensor in state(resumed).items())


@pytest.mark.parametrize(("shape", "tiles"), [((32, 48), None), ((64, 96), (2, 3)), ((32, 64), (1, 2))])
@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_a_network_of_a_rectangle_or_of_tiles_is_adapted_in_what_its_backbone_sees(
    shape: tuple[int, int], tiles: tuple[int, int] | None, kind: str, tmp_path: Path
) -> None:
    made = build(ModelSettings(backbone=BACKBONE), shape=shape, tiles=tiles, seed=0)
    before = {name: tensor.clone() for name, tensor in made.backbone.state_dict().items()}
    seen: set[tuple[int, ...]] = set()
    made.backbone.embeddings.register_forward_pre_hook(lambda _, given: seen.add(tuple(given[0].shape[2:])))  # type: ignore[union-attr]
    shown: Any = np.zeros((24, 3, *shape), np.uint8)
    shown[:] = streets(24).repeat(2, axis=2).repeat(3, axis=3)[:, :, : shape[0], : shape[1]]
    if kind == "files":
        for number, pixels in enumerate(shown):
            Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / f"{number}.png")
        copies = Copies(tmp_path / "copies", PreprocessSettings(size_px=32, geometry="wide"))
        shown = Unshrunk(originals_of([tmp_path / f"{n}.png" for n in range(24)], copies), "wide")
    found = adapt_domain(made, shown, settings(epochs=1), seed=0, progress=silent)
    assert math.isfinite(found.records[0]["loss"])
    after = made.backbone.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    height, width = made.view_shape
    assert (height, width) == (shape[0] // (tiles or (1, 1))[0], shape[1] // (tiles or (1, 1))[1])
    assert (height, width) in seen
    assert len(seen) == 2
