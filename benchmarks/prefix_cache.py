"""An epoch of training with the activations of the frozen blocks kept on disk, against one through the whole network.

    python -m benchmarks.prefix_cache
    python -m benchmarks.prefix_cache --hidden 384 --images 256 --last 4

Both sides see the same views of the same images in the same order, one side as pixels, the other as what the frozen
blocks made of them, so their loss curves are the same up to rounding to bf16. A third side augments anew in every
epoch, as training without the cache does. The sides take turns in one process; the shortest epoch of each counts.
An epoch is the training steps and the judging on val_select.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from offline.data.dataset import Dataset, Row
from offline.learning.augmentation import SEE_CHALLENGES, augmenter, unchanged
from offline.learning.challenge_views import ChallengeViews
from offline.learning.frozen_prefix.cache import STATES
from offline.learning.frozen_prefix.fill import Views
from offline.learning.predict import ImageSet
from offline.learning.settings import TrainSettings
from offline.learning.supervised.inputs import ALL, FreshViews, Sources
from offline.learning.supervised.train import Trainee, train_supervised
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.stream import even_weights
from stage1.model.adapters.attach import add_adapters, frozen_blocks
from stage1.model.backbones import build
from stage1.model.settings import ModelSettings, PretrainedBackbone
from stage1.preprocess import PreprocessSettings

CPU = torch.device("cpu")
CALIBRATION = CalibrationSettings(alpha=0.1, unit="row", grid_size=30, gate_size=5)


@dataclass(frozen=True, kw_only=True)
class PixelViews(FreshViews):
    """The views that the cache keeps, as pixels that were augmented beforehand."""

    views: Tensor

    def draw(self, rows: Any, generator: torch.Generator, part: slice = ALL) -> Tensor:
        number = torch.randint(self.views.shape[1], (len(rows),), generator=generator)
        return self.views[torch.from_numpy(rows), number][part]


def streets(count: int, size_px: int, seed: int, home: Path) -> ImageSet:
    """Files of noise with a reddish patch where there is roadwork: what is learned does not matter here."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(0, 160, (count, 3, size_px, size_px), dtype=np.uint8)
    images[labels == 1, 0, : size_px // 2] += 60
    rows = tuple(Row(image=f"{seed}/{n}.png", label=int(y), group=f"{seed}/{n}") for n, y in enumerate(labels))
    for row, image in zip(rows, images, strict=True):
        path = home / row.image
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    return ImageSet(images, Dataset(home, rows))


def save_backbone(directory: Path, options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    config = DINOv3ViTConfig(
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        patch_size=16,
        num_register_tokens=4,
        layerscale_value=1.0,
        initializer_range=options.hidden**-0.5,
    )
    DINOv3ViTModel(config).save_pretrained(directory)


def pixel_sources(trainee: Trainee, settings: TrainSettings, *, fresh: bool) -> Sources:
    """Through the whole network: the views that the cache keeps, or new ones each time."""
    images, augment = trainee.train.images, augmenter(settings.augmentation)
    challenges = trainee.challenges if settings.augmentation in SEE_CHALLENGES else None
    judged = FreshViews(trainee.val_select.images, unchanged, CPU)
    if fresh:
        return Sources(FreshViews(images, augment, CPU, challenges), judged, cached=False, reason="")
    views = Views(images, settings.augmentation, augment, settings.cache_views, challenges)
    drawn = views.made(views.keys(seed=0))
    kept = drawn.reshape(len(images), settings.cache_views, *drawn.shape[1:])
    return Sources(PixelViews(images, augment, CPU, views=kept), judged, cached=False, reason="")


def run(model: ModelSettings, sets: tuple[ImageSet, ImageSet], settings: TrainSettings, side: str, cache: Path) -> Any:
    """Losses and the duration of each epoch."""
    net = build(model, shape=(sets[0].images.shape[-1], sets[0].images.shape[-1]), seed=0)
    add_adapters(net, model)
    limits = PreprocessSettings(size_px=sets[0].images.shape[-1])
    trainee = Trainee(net, *sets, challenges=ChallengeViews(sets[0].data, limits, even_weights()))
    ends: list[float] = []

    def tell(_done: int, _total: int, note: str) -> None:
        if note.startswith(f"epoch {len(ends)}:") or not ends:
            ends.append(time.perf_counter())

    common: dict[str, Any] = {"seed": 0, "progress": tell, "cache": cache}
    if side == "kept":
        outcome = train_supervised(trainee, settings, CALIBRATION, **common)
    else:
        chosen = pixel_sources(trainee, settings, fresh=side == "anew")
        with patch("offline.learning.supervised.train.choose_inputs", lambda *_, **__: chosen):
            outcome = train_supervised(trainee, settings, CALIBRATION, **common)
    # The first stamp is that of the first step.
    return outcome, np.diff(ends)[1:]


def compare(options: argparse.Namespace, backbone: Path, last: int, home: Path) -> str:
    adapter = "none" if last == 0 else options.adapter
    model = ModelSettings(
        backbone=PretrainedBackbone(name=str(backbone)),
        adapter=adapter,
        targets=options.targets,
        last_layers=max(last, 1),
    )
    counts = ((1, options.images), (2, options.images // 4))
    train, judged = (streets(count, options.size, seed, home) for seed, count in counts)
    sets = (train, judged)
    settings = TrainSettings(
        epochs=options.epochs,
        batch_size=16,
        learning_rate=1e-3,
        augmentation=options.augmentation,
        cache="on",
        cache_views=options.views,
    )
    net = build(model, shape=(options.size, options.size), seed=0)
    add_adapters(net, model)
    cut = frozen_blocks(net)
    cache = home / f"last{last}"
    fill = 0.0
    if cut:
        began = time.perf_counter()
        run(model, sets, settings.model_copy(update={"epochs": 1}), "kept", cache)
        fill = time.perf_counter() - began
    sides = ["anew", "pixels", *(["kept"] if cut else [])]
    best: dict[str, float] = {}
    losses: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for side in sides:
            outcome, epochs = run(model, sets, settings, side, cache)
            best[side] = min(best.get(side, np.inf), float(epochs.min()))
            losses[side] = [record["train_loss"] for record in outcome.records]
    head = f"{last:>4} {cut:>4}  {best['anew']:>8.2f} s {best['pixels']:>8.2f} s"
    if not cut:
        return f"{head}         -         -        -        -          -         -"
    apart = max(abs(a / b - 1) for a, b in zip(losses["kept"], losses["pixels"], strict=True))
    disk = sum(path.stat().st_size for path in cache.rglob(STATES)) / 2**20
    ratios = f"{best['anew'] / best['kept']:>8.2f} {best['pixels'] / best['kept']:>8.2f}"
    return f"{head} {best['kept']:>8.2f} s {ratios}  {apart:>8.2%}  {disk:>7.1f} MiB {fill:>7.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="blocks L of the backbone")
    parser.add_argument("--hidden", type=int, default=192, help="its width; a multiple of 64")
    parser.add_argument("--size", type=int, default=224, help="side of the images, px")
    parser.add_argument("--images", type=int, default=64, help="images that train; a quarter as many judge")
    parser.add_argument("--views", type=int, default=2, help="views kept of each image")
    parser.add_argument("--last", type=int, nargs="+", default=[0, 1, 2, 4, 6, 8, 12], help="adapted blocks N")
    parser.add_argument("--adapter", default="doran", choices=["doran", "dora", "lora"])
    parser.add_argument("--targets", default="query_value", choices=["query_value", "attention", "mlp", "all"])
    parser.add_argument("--augmentation", default="strong", choices=["none", "light", "validators", "strong"])
    parser.add_argument("--epochs", type=int, default=3, help="epochs of a run; the first one is not timed")
    parser.add_argument("--rounds", type=int, default=2, help="times that the sides take turns")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    shape = (
        f"{options.layers} blocks of width {options.hidden}, {options.size} px, {options.adapter} on {options.targets}"
    )
    print(f"{shape}; augmentation {options.augmentation}")
    print(f"{options.images} images, {options.images // 4} judged; {torch.get_num_threads()} threads\n")
    print("   N  cut  augmented   as pixels        kept    ratio    ratio  loss apart        disk  filling")
    print("                anew  same views  same views     anew   pixels     at most")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        save_backbone(home / "backbone", options)
        for last in options.last:
            print(compare(options, home / "backbone", last, home), flush=True)


if __name__ == "__main__":
    main()
