"""Training: adapters that merge exactly, gradients through the conformal threshold, an export equal to torch."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError

from engines.store.bundle import engine_sha256
from engines.store.file_names import ENGINE, WEIGHTS
from offline.certify.onnx_export import check_export, export_onnx
from offline.data.dataset import Dataset, Row
from offline.errors import TrainingError
from offline.learning.checkpoint_score import selective_score
from offline.learning.conformal.train import train_conformal_risk
from offline.learning.predict import ImageSet, predict
from offline.learning.settings import ConformalTrainingSettings, TrainSettings
from offline.learning.supervised.train import Trainee, train_supervised
from stage1.artifacts import sha256_file
from stage1.certificate.settings import CalibrationSettings
from stage1.model.adapters.attach import add_adapters, merge_adapters
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, RandomBackbone
from stage1.model.weights import load_weights, save_weights
from stage1.preprocess import Pixels
from tests.support.challenges import SquareChallenges

SIZE_PX = 32
Tiles = tuple[int, int] | None
MODEL = ModelSettings(backbone=RandomBackbone(hidden=32, layers=2, heads=2, patch_px=8), last_layers=None, rank=4)
CALIBRATION = CalibrationSettings(alpha=0.1, unit="row", grid_size=30, gate_size=5)


def silent(_done: int, _total: int, _note: str) -> None:
    """Say nothing."""


def net(adapter: str | None = None, seed: int = 0) -> Stage1Net:
    settings = MODEL.model_copy(update={"adapter": adapter or "dora"})
    made = build(settings, shape=(SIZE_PX, SIZE_PX), seed=seed)
    if adapter is not None:
        add_adapters(made, settings)
    return made


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, SIZE_PX, SIZE_PX), dtype=np.uint8)


def coloured(count: int, seed: int, tmp_path: Path) -> ImageSet:
    """Images that are roadwork if and only if they are reddish: learnable in a few steps."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    pixels = rng.integers(0, 120, (count, 3, SIZE_PX, SIZE_PX))
    pixels[:, 0] += 120 * labels[:, None, None]
    rows = tuple(Row(image=f"{seed}/{n}", label=int(y), group=f"{seed}/{n}") for n, y in enumerate(labels))
    return ImageSet(pixels.astype(np.uint8), Dataset(tmp_path, rows))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Tiles], tuple[Stage1Net, Path]]:
    """A trained network with this adapter merged into it and these tiles, and its export."""

    @functools.cache
    def of(adapter: str, tiles: Tiles) -> tuple[Stage1Net, Path]:
        settings = MODEL.model_copy(update={"adapter": adapter})
        made = build(settings, shape=(SIZE_PX, SIZE_PX), tiles=tiles, seed=0)
        add_adapters(made, settings)
        disturb(made)
        merge_adapters(made)
        path = tmp_path_factory.mktemp(adapter) / "model.onnx"
        export_onnx(made, path, (SIZE_PX, SIZE_PX))
        return made, path

    return of


def disturb(made: Stage1Net) -> None:
    """Give every trainable tensor another value, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_a_merged_adapter_says_what_the_adapter_said(adapter: str) -> None:
    made, base = net(adapter), predict(net(), images(8))
    disturb(made)
    before = predict(made, images(8))
    merge_adapters(made)
    after = predict(made, images(8))
    assert np.abs(after.logits - before.logits).max() < 1e-5
    assert np.abs(before.logits - base.logits).max() > 1e-3
    assert not [name for name, _ in made.named_parameters() if "lora" in name]


def test_merged_weights_survive_the_file(tmp_path: Path) -> None:
    made = net("dora")
    disturb(made)
    merge_adapters(made)
    save_weights(made, tmp_path / "model.safetensors")
    again = net(seed=3)
    load_weights(again, tmp_path / "model.safetensors")
    assert np.array_equal(predict(again, images(4)).logits, predict(made, images(4)).logits)


def train(made: Stage1Net, tmp_path: Path, **settings: float) -> list[dict[str, float]]:
    recipe = TrainSettings(epochs=6, batch_size=16, learning_rate=3e-3).model_copy(update=settings)
    sets = coloured(128, 1, tmp_path), coloured(96, 2, tmp_path)
    return train_supervised(Trainee(made, *sets), recipe, CALIBRATION, seed=0, progress=silent).records


def test_training_learns_what_there_is_to_learn(tmp_path: Path) -> None:
    made = net("dora")
    records = train(made, tmp_path)
    held = coloured(96, 2, tmp_path)
    right = predict(made, held.images).logits.argmax(1) == held.data.labels
    assert right.mean() > 0.9
    assert records[-1]["train_loss"] < records[0]["train_loss"]


def test_training_is_repeatable(tmp_path: Path) -> None:
    first, second = net("dora"), net("dora")
    train(first, tmp_path, epochs=1)
    train(second, tmp_path, epochs=1)
    assert np.array_equal(predict(first, images(4)).logits, predict(second, images(4)).logits)


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    made = net("dora")
    with torch.no_grad():
        next(made.class_head.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="learning_rate"):
        train(made, tmp_path)


def test_conformal_training_leaves_the_heads_unless_others_are_shown_to_be_better(tmp_path: Path) -> None:
    made = net("dora")
    train(made, tmp_path, epochs=2)
    merge_adapters(made)
    backbone = {name: p.clone() for name, p in made.backbone.named_parameters()}
    settings = ConformalTrainingSettings(steps=30, batch_size=128)
    sets = coloured(256, 1, tmp_path), coloured(96, 2, tmp_path)
    heads = [tensor.clone() for tensor in made.class_head.state_dict().values()]
    outcome = train_conformal_risk(made, *sets, settings, CALIBRATION, seed=0, progress=silent)
    same = all(torch.equal(a, b) for a, b in zip(made.class_head.state_dict().values(), heads, strict=True))
    assert same is not outcome.gain.kept
    assert outcome.gain.value == pytest.approx(outcome.after - outcome.before)
    assert all(torch.equal(p, backbone[name]) for name, p in made.backbone.named_parameters())


def test_conformal_training_draws_among_kept_views_of_what_is_sent(tmp_path: Path) -> None:
    train, select = coloured(130, 1, tmp_path), coloured(96, 2, tmp_path)
    asked: list[tuple[int, int]] = []

    class Noted(SquareChallenges):
        def __call__(self, rows: Sequence[int], seeds: Sequence[int]) -> Pixels:
            asked.extend(zip(rows, seeds, strict=True))
            return super().__call__(rows, seeds)

    settings = ConformalTrainingSettings(steps=5, batch_size=128, views=3)
    challenges = Noted(train.images)
    for _ in range(2):
        train_conformal_risk(
            net("dora"), train, select, settings, CALIBRATION, seed=0, progress=silent, challenges=challenges
        )
    first, second = asked[: len(asked) // 2], asked[len(asked) // 2 :]
    assert Counter(row for row, _ in first) == dict.fromkeys(range(130), 3)
    assert len({seed for _, seed in first}) == 3 * 130
    assert first == second


@pytest.mark.parametrize(("adapter", "tiles"), [("lora", None), ("doran", (2, 2))])
def test_the_exported_engine_equals_torch_at_every_batch_size(
    adapter: str, tiles: Tiles, exported: Callable[[str, Tiles], tuple[Stage1Net, Path]]
) -> None:
    made, path = exported(adapter, tiles)
    assert check_export(made, path, images(17)) < 1e-4
    names = {tensor.name for tensor in onnx.load(path).graph.initializer}
    assert names
    assert not [name for name in names if "lora" in name or "trunk" in name]


def test_weights_that_lie_beside_a_large_graph_are_part_of_the_engines_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the default backbone, whose weights are too large for one file."""
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1000)
    made = net()
    path = tmp_path / ENGINE
    export_onnx(made, path, (SIZE_PX, SIZE_PX))
    assert sorted(file.name for file in tmp_path.iterdir()) == [ENGINE, WEIGHTS]
    assert check_export(made, path, images(17)) < 1e-4
    before, graph = engine_sha256(path), sha256_file(path)
    content = bytearray((tmp_path / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / WEIGHTS).write_bytes(bytes(content))
    assert sha256_file(path) == graph
    assert engine_sha256(path) != before
    (tmp_path / WEIGHTS).unlink()
    assert engine_sha256(path) == graph


def test_an_export_of_another_model_is_caught(exported: Callable[[str, Tiles], tuple[Stage1Net, Path]]) -> None:
    _, path = exported("lora", None)
    with pytest.raises(TrainingError, match="differs from torch"):
        check_export(net(seed=5), path, images(17))


def test_progress_is_told_at_every_step(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    tell: Callable[[int, int, str], None] = lambda done, total, _: told.append((done, total))  # noqa: E731
    recipe = TrainSettings(epochs=1, batch_size=16)
    trainee = Trainee(net("lora"), coloured(64, 1, tmp_path), coloured(64, 2, tmp_path))
    train_supervised(trainee, recipe, CALIBRATION, seed=0, progress=tell)
    assert told[-1] == (4, 4)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_conformal_training_that_diverges_stops_with_advice(tmp_path: Path) -> None:
    sets = coloured(128, 1, tmp_path), coloured(96, 2, tmp_path)
    settings = ConformalTrainingSettings(steps=5, batch_size=64, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"lower train_conformal_risk\.learning_rate"):
        train_conformal_risk(net(), *sets, settings, CALIBRATION, seed=0, progress=silent)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_schedule_of_any_length_can_be_run(tmp_path: Path, steps: int) -> None:
    recipe = TrainSettings(epochs=steps, batch_size=64)
    sets = coloured(40, 1, tmp_path), coloured(64, 2, tmp_path)
    records = train_supervised(Trainee(net("lora"), *sets), recipe, CALIBRATION, seed=0, progress=silent).records
    assert [record["epoch"] for record in records] == list(range(1, steps + 1))


def test_the_best_checkpoint_of_val_select_is_the_one_that_is_left(tmp_path: Path) -> None:
    made, recipe = net("lora"), TrainSettings(epochs=5, batch_size=16, learning_rate=2e-2)
    train_set, val_select = coloured(64, 1, tmp_path), coloured(64, 2, tmp_path)
    outcome = train_supervised(Trainee(made, train_set, val_select), recipe, CALIBRATION, seed=0, progress=silent)
    best, records = outcome.score, outcome.records
    assert best == selective_score(predict(made, val_select.images), val_select.data, CALIBRATION)
    assert best.value == max(record["val_select_value"] for record in records)


def test_selectivenet_takes_a_batch_as_a_whole() -> None:
    """Its coverage is that of a batch; that of a part is another one."""
    with pytest.raises(ValidationError, match="set accumulation to 1"):
        TrainSettings(selection="selectivenet", accumulation=2)
