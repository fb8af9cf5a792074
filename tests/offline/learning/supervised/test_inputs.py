"""Training behind the frozen blocks: the same loss, computed once, kept over the nights, and never of other weights."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from offline.data.dataset import Dataset, Row
from offline.data.pictures.pixel_store import Images
from offline.data.pictures.slots import KEYS
from offline.errors import TrainingError, TrainingInterrupted
from offline.learning.augmentation import augmenter, unchanged
from offline.learning.challenge_views import ChallengeViews
from offline.learning.frozen_prefix.cache import STATES, PrefixCache, digest_of, key_of
from offline.learning.frozen_prefix.fill import BUILD_BATCH, Frozen, Views
from offline.learning.predict import ImageSet
from offline.learning.settings import TrainSettings
from offline.learning.supervised.inputs import ALL, CachedViews, FreshViews, Sources, choose_inputs
from offline.learning.supervised.outcome import TrainingOutcome
from offline.learning.supervised.train import Trainee, train_supervised
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.stream import even_weights
from stage1.model.adapters.attach import add_adapters, frozen_blocks
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, PretrainedBackbone
from stage1.model.trunk import plain
from stage1.preprocess import PreprocessSettings
from tests.support.backbones import write_dinov3
from tests.support.challenges import SquareChallenges

SIZE_PX = 32
CPU = torch.device("cpu")
CALIBRATION = CalibrationSettings(alpha=0.1, unit="row", grid_size=30, gate_size=5)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two DINOv3s of three blocks with other weights."""
    first, second = (write_dinov3(tmp_path_factory.mktemp("backbone"), seed=seed, patch_size=8) for seed in (0, 1))
    return first, second


def network(backbone: Path, **changes: Any) -> Stage1Net:
    common = {"backbone": PretrainedBackbone(name=str(backbone)), "adapter": "dora", "rank": 4, "last_layers": 1}
    model = ModelSettings.model_validate(common | changes)
    net = build(model, shape=(SIZE_PX, SIZE_PX), seed=0)
    add_adapters(net, model)
    return net


def coloured(count: int, seed: int) -> ImageSet:
    """Images that are roadwork if and only if they are reddish."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 2).astype(int)
    pixels = rng.integers(0, 120, (count, 3, SIZE_PX, SIZE_PX))
    pixels[:, 0] += 90 * labels[:, None, None]
    rows = tuple(Row(image=f"{seed}/{n}", label=int(y), group=f"{seed}/{n}") for n, y in enumerate(labels))
    return ImageSet(pixels.astype(np.uint8), Dataset(Path("nowhere"), rows))


def recipe(**changes: Any) -> TrainSettings:
    common = {"epochs": 3, "batch_size": 16, "learning_rate": 3e-3, "cache_views": 2, "augmentation": "validators"}
    return TrainSettings.model_validate(common | changes)


def train(net: Stage1Net, place: Path | None, tell: Any = lambda *_: None, **changes: Any) -> TrainingOutcome:
    shown = coloured(48, 1)
    trainee = Trainee(net, shown, coloured(32, 2), challenges=SquareChallenges(shown.images))
    return train_supervised(trainee, recipe(**changes), CALIBRATION, seed=0, progress=tell, cache=place)


def sources(
    net: Stage1Net, images: Images, place: Path | None, told: list[int], seed: int = 0, **changes: Any
) -> Sources:
    return choose_inputs(
        net,
        images,
        images[:4],
        recipe(**changes),
        challenges=SquareChallenges(images),
        seed=seed,
        device=CPU,
        directory=place,
        progress=lambda done, *_: told.append(done),
        check=lambda: None,
    )


class _SameViews(FreshViews):
    """The views that the cache would keep, as pixels, through the whole network."""

    def draw(self, rows: np.ndarray, generator: Generator, part: slice = ALL) -> Tensor:
        assert part == ALL
        numbers = torch.randint(2, (len(rows),), generator=generator).tolist()
        wanted = [
            (key_of(digest_of(self.images[row]), number, 0), row, number)
            for row, number in zip(rows.tolist(), numbers, strict=True)
        ]
        return Views(self.images, "validators", self.augment, 2, self.challenges).made(wanted)


@pytest.mark.parametrize(
    "changes",
    [{"last_layers": 1}, {"last_layers": 2}, {"adapter": "none"}, {"last_layers": 1, "pooled_blocks": (-2, -1)}],
    ids=str,
)
def test_behind_the_frozen_blocks_the_loss_is_the_same(
    backbones: tuple[Path, Path], changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the rounding of what is kept to bf16: eight bits of mantissa."""
    cached = train(network(backbones[0], **changes), tmp_path)
    assert cached.cached

    def whole(_: Stage1Net, shown: np.ndarray, judged: np.ndarray, *__: Any, **___: Any) -> Sources:
        ours = _SameViews(shown, augmenter("validators"), CPU, SquareChallenges(shown))
        return Sources(ours, FreshViews(judged, unchanged, CPU), cached=False, reason="")

    monkeypatch.setattr("offline.learning.supervised.train.choose_inputs", whole)
    uncached = train(network(backbones[0], **changes), None)
    for name in ("train_loss", "val_select_loss"):
        ours, theirs = ([record[name] for record in outcome.records] for outcome in (cached, uncached))
        assert ours == pytest.approx(theirs, rel=0.01)
    assert cached.records[-1]["train_loss"] < 0.9 * cached.records[0]["train_loss"]


@pytest.mark.parametrize("pooling", ["cls_mean", "attention"])
def test_the_frozen_backbone_with_heads_alone_keeps_features_or_what_attention_pools(
    backbones: tuple[Path, Path], pooling: str, tmp_path: Path
) -> None:
    net = network(backbones[0], adapter="none", pooling=pooling)
    outcome = train(net, tmp_path)
    assert outcome.inputs == "3 of 3 blocks frozen, 2 views kept of each image"
    tokens = net.layout.first_patch + (SIZE_PX // net.layout.patch_px) ** 2
    kept = net.width if pooling == "cls_mean" else tokens * net.layout.width
    sizes = sorted(path.stat().st_size for path in tmp_path.rglob(STATES))
    assert sizes == [32 * kept * 2, 2 * 48 * kept * 2]


def test_what_an_earlier_night_kept_is_not_computed_again(
    backbones: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    states = Frozen.states

    def counting(self: Frozen, images: Tensor) -> Tensor:
        computed.append(len(images))
        found: Tensor = states(self, images)
        return found

    monkeypatch.setattr(Frozen, "states", counting)
    images = coloured(48, 1).images
    first = sources(network(backbones[0]), images[:40], tmp_path, [])
    # Two views of each image and four as they are; one more tells the shape of a state.
    assert sum(computed) == 2 * 40 + 4 + 1
    computed.clear()
    again = sources(network(backbones[0]), images[::-1].copy(), tmp_path, [])
    assert sum(computed) == 2 * 8 + 4 + 1
    old, new = (Tensor.float(s.train.draw(np.array([row]), torch.Generator())) for s, row in ((first, 7), (again, 40)))
    assert torch.equal(old, new)


@pytest.mark.parametrize(
    "change",
    ["weights", "config", "normalisation", "cut", "augmentation", "seed", "precision", "views", "transformers"],
)
def test_nothing_is_read_that_anything_else_decided(
    backbones: tuple[Path, Path], change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, told = coloured(8, 1).images, list[int]()
    sources(network(backbones[0]), images, tmp_path, told)
    told.clear()
    sources(network(backbones[0]), images, tmp_path, told)
    assert told == []
    other = network(backbones[1] if change == "weights" else backbones[0], last_layers=2 if change == "cut" else 1)
    if change == "views":
        other.tiles, other.view_shape = (2, 2), (SIZE_PX // 2, SIZE_PX // 2)
    elif change == "config":
        config: Any = plain(other.backbone).config
        config.rope_theta = 50.0
    elif change == "normalisation":
        other.mean += 1
    elif change == "transformers":
        monkeypatch.setattr(
            "offline.learning.frozen_prefix.fill.version", lambda name: "0" if name == change else version(name)
        )
    changes = {"augmentation": {"augmentation": "light"}, "precision": {"precision": "bf16"}}.get(change, {})
    sources(other, images, tmp_path, told, seed=int(change == "seed"), **changes)
    assert told


def test_a_view_is_the_same_whichever_images_are_beside_it() -> None:
    images = coloured(6, 1).images
    views = Views(images, "strong", augmenter("strong"), 2, SquareChallenges(images))
    wanted = views.keys(seed=0)
    alone = views.made(wanted[8:9])
    assert torch.equal(views.made(wanted)[8:9], alone)
    assert not torch.equal(views.made(wanted[9:10]), alone)


def test_other_weights_of_the_eras_are_other_views(backbones: tuple[Path, Path]) -> None:
    images, frozen = coloured(2, 1), Frozen(network(backbones[0]), 2, "fp32", CPU)
    hashes = set()
    for weights in (even_weights(), {"challenges-2026-05": 1.0}):
        made = ChallengeViews(images.data, PreprocessSettings(size_px=SIZE_PX), weights)  # type: ignore[arg-type]
        hashes.add(frozen.sha256(Views(images.images, "validators", unchanged, 2, made).decides))
    assert len(hashes) == 2


def test_what_validators_send_is_made_of_files_and_not_of_squares(backbones: tuple[Path, Path]) -> None:
    shown = coloured(16, 1)
    trainee = Trainee(network(backbones[0]), shown, coloured(16, 2))
    with pytest.raises(TrainingError, match=r"augmentation is validators, which shows what .* or set it to light"):
        train_supervised(trainee, recipe(), CALIBRATION, seed=0, progress=lambda *_: None)


def test_a_cache_goes_on_after_a_crash_between_states_and_keys(tmp_path: Path) -> None:
    keys = [bytes([n]) * 16 for n in range(6)]
    states = torch.arange(12.0).reshape(6, 2)
    PrefixCache(tmp_path, (2,)).append(keys[:3], states[:3])
    with (tmp_path / STATES).open("ab") as handle:
        handle.write(b"\0" * 7)
    with (tmp_path / KEYS).open("ab") as handle:
        handle.write(b"\1" * 9)
    again = PrefixCache(tmp_path, (2,))
    assert len(again) == 3
    again.append(keys[3:], states[3:])
    for cache in (again, PrefixCache(tmp_path, (2,))):
        assert torch.equal(cache.read(cache.slots([keys[5], keys[0]])).float(), states[[5, 0]])


def test_a_key_that_comes_twice_takes_one_slot(tmp_path: Path) -> None:
    a, b, c = (bytes([n]) * 16 for n in range(3))
    cache = PrefixCache(tmp_path, (1,))
    cache.append([a, a, b], torch.tensor([[1.0], [1.0], [2.0]]))
    cache.append([c], torch.tensor([[3.0]]))
    for each in (cache, PrefixCache(tmp_path, (1,))):
        assert each.read(each.slots([a, b, c])).float().flatten().tolist() == [1.0, 2.0, 3.0]


def test_two_writers_take_turns_and_a_reader_is_not_disturbed(tmp_path: Path) -> None:
    keys = [bytes([n]) * 16 for n in range(6)]
    states = torch.arange(12.0).reshape(6, 2)
    first, second = PrefixCache(tmp_path, (2,)), PrefixCache(tmp_path, (2,))
    first.append(keys[:2], states[:2])
    assert torch.equal(first.read(first.slots(keys[:2])).float(), states[:2])
    second.append(keys[1:4], states[1:4])
    assert torch.equal(first.read(first.slots(keys[:2])).float(), states[:2])
    first.append(keys[3:], states[3:])
    for cache in (first, PrefixCache(tmp_path, (2,))):
        assert torch.equal(cache.read(cache.slots(keys)).float(), states)
    assert len(PrefixCache(tmp_path, (2,))) == 6


def test_keys_without_their_states_are_not_believed(tmp_path: Path) -> None:
    keys = [bytes([n]) * 16 for n in range(4)]
    PrefixCache(tmp_path, (2,)).append(keys, torch.zeros(4, 2))
    (tmp_path / STATES).write_bytes(bytes(4 * 3))
    again = PrefixCache(tmp_path, (2,))
    assert len(again) == 3
    assert keys[3] not in again


def test_told_to_end_while_it_fills_the_next_run_goes_on_there(backbones: tuple[Path, Path], tmp_path: Path) -> None:
    images = coloured(2 * BUILD_BATCH, 1).images

    def end() -> None:
        raise TrainingInterrupted

    told: list[int] = []
    common: dict[str, Any] = {
        "seed": 0,
        "device": CPU,
        "directory": tmp_path,
        "progress": lambda done, *_: told.append(done),
    }
    common["challenges"] = SquareChallenges(images)
    net = network(backbones[0])
    checks = iter([lambda: None, end])

    def once() -> None:
        next(checks)()

    with pytest.raises(TrainingInterrupted):
        choose_inputs(net, images, images[:4], recipe(), check=once, **common)
    assert told == [BUILD_BATCH]
    told.clear()
    choose_inputs(net, images, images[:4], recipe(), check=lambda: None, **common)
    assert told == [BUILD_BATCH, 2 * BUILD_BATCH, 3 * BUILD_BATCH, 4]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cache": "off"}, "the settings switch it off"),
        ({"cache_share": 1e-12}, r"the frozen activations take 0\.0 GiB, more than 0% of"),
    ],
)
def test_without_the_cache_images_are_augmented_anew(
    backbones: tuple[Path, Path], changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    outcome = train(network(backbones[0]), tmp_path, epochs=1, **changes)
    assert not outcome.cached
    assert outcome.inputs.startswith(why.replace("\\", ""))


def test_a_network_without_frozen_blocks_trains_whole(backbones: tuple[Path, Path], tmp_path: Path) -> None:
    net = network(backbones[0], last_layers=None)
    assert frozen_blocks(net) == 0
    assert "no block is frozen" in train(net, tmp_path, epochs=1).inputs
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", [True, False])
def test_insisting_on_a_cache_that_cannot_be_had_stops(
    backbones: tuple[Path, Path], place: bool, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"train_supervised\.cache is on, but"):
        train(network(backbones[0], last_layers=None), tmp_path if place else None, cache="on")


def test_states_that_are_added_together_reach_the_disk_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    keys, states = [bytes([n]) * 16 for n in range(40)], torch.arange(80.0).reshape(40, 2)
    cache = PrefixCache(tmp_path, (2,))
    with cache.together():
        for n in range(40):
            cache.append(keys[n : n + 1], states[n : n + 1])
        assert len(PrefixCache(tmp_path, (2,))) == 0
    assert len(synced) == 2
    for each in (cache, PrefixCache(tmp_path, (2,))):
        assert torch.equal(each.read(each.slots(keys)).float(), states)


def test_what_was_added_before_an_error_is_kept(tmp_path: Path) -> None:
    keys = [bytes([n]) * 16 for n in range(3)]
    cache = PrefixCache(tmp_path, (1,))

    def add() -> None:
        with cache.together():
            cache.append(keys, torch.ones(3, 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add()
    assert len(PrefixCache(tmp_path, (1,))) == 3


def test_a_group_does_not_grow_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offline.learning.frozen_prefix.cache.GROUP_BYTES", 8)
    cache = PrefixCache(tmp_path, (2,))
    with cache.together():
        cache.append([b"a" * 16], torch.ones(1, 2))
        assert len(PrefixCache(tmp_path, (2,))) == 0
        cache.append([b"b" * 16], torch.ones(1, 2))
        assert len(PrefixCache(tmp_path, (2,))) == 2


def test_only_keys_that_are_new_are_read(tmp_path: Path) -> None:
    first, second = PrefixCache(tmp_path, (1,)), PrefixCache(tmp_path, (1,))
    first.append([b"a" * 16], torch.ones(1, 1))
    second.append([b"b" * 16], torch.ones(1, 1))
    # What it knows is not looked up again: another beginning of the file goes unseen.
    content = (tmp_path / KEYS).read_bytes()
    (tmp_path / KEYS).write_bytes(b"x" * 16 + content[16:])
    first.append([b"c" * 16], torch.ones(1, 1))
    assert [key in first for key in (b"a" * 16, b"b" * 16, b"c" * 16, b"x" * 16)] == [True, True, True, False]


def test_frozen_weights_and_images_are_hashed_once(
    backbones: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[int] = []
    pixels: list[int] = []
    hashed = Frozen._weights

    def counted(self: Frozen) -> Any:
        weights.append(1)
        return hashed(self)

    def told(image: np.ndarray) -> bytes:
        pixels.append(1)
        return digest_of(image)

    monkeypatch.setattr(Frozen, "_weights", counted)
    monkeypatch.setattr("offline.learning.frozen_prefix.fill.digest_of", told)
    sources(network(backbones[0]), coloured(8, 1).images, tmp_path, [], cache_views=3)
    assert len(weights) == 1
    assert len(pixels) == 8 + 4


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    cache = PrefixCache(tmp_path, (2,))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TrainingError, match=r"No space left on device.*train_supervised\.cache to off"):
        cache.append([b"0" * 16], torch.zeros(1, 2))


def test_both_views_of_an_image_are_drawn(backbones: tuple[Path, Path], tmp_path: Path) -> None:
    found = sources(network(backbones[0]), coloured(8, 1).images, tmp_path, []).train
    assert isinstance(found, CachedViews)
    generator = torch.Generator().manual_seed(0)
    drawn = found.draw(np.zeros(32, np.intp), generator)
    assert len(torch.unique(drawn.float().flatten(1), dim=0)) == 2


def test_what_was_kept_can_be_thrown_away(backbones: tuple[Path, Path], tmp_path: Path) -> None:
    first = train(network(backbones[0]), tmp_path, epochs=1)
    shutil.rmtree(tmp_path)
    second = train(network(backbones[0]), tmp_path, epochs=1)
    assert first == second
