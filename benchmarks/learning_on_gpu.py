"""Training at full size on one GPU: images a second, memory, and the share of the card's own matrix rate.

    python -m benchmarks.learning_on_gpu
    python -m benchmarks.learning_on_gpu --batch 32 64 128 --steps 8
    python -m benchmarks.learning_on_gpu --small          # a few seconds on a CPU: shows that the script runs

The backbone has the shape of DINOv3 ViT-H/16+ (840 million parameters) and random weights: speed and memory do not
depend on what the weights are. Each row runs the code of a nightly stage on random images. Operations are counted by
PyTorch's own counter in a run that is not timed; the card's rate is measured by multiplying matrices of 8192 in bf16.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DINOv3ViTConfig

from offline.data.dataset import Dataset, Row
from offline.learning.conformal.train import train_conformal_risk
from offline.learning.predict import ImageSet, best_device, features
from offline.learning.self_distillation.adapt import adapt_domain
from offline.learning.settings import AdaptSettings, ConformalTrainingSettings, TrainSettings
from offline.learning.supervised.train import Trainee, train_supervised
from stage1.certificate.settings import CalibrationSettings
from stage1.model.adapters.attach import add_adapters
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, PretrainedBackbone

CALIBRATION = CalibrationSettings(alpha=0.1, unit="row", grid_size=30, gate_size=5)
Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Measured:
    """One row: images a second, peak memory in GiB, operations a second in tera."""

    rate: float
    memory: float
    operations: float


class _Clock:
    """Times the steps that a training tells of."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.ends = device, list[float]()

    def tell(self, _done: int, _total: int, note: str) -> None:
        if "keeping" in note:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def step(self) -> float:
        """Median duration of a step, without the first two, which compile and allocate."""
        return float(statistics.median(np.diff(self.ends)[1:].tolist()))


def shape(small: bool) -> DINOv3ViTConfig:
    if small:
        return DINOv3ViTConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_register_tokens=4,
            use_gated_mlp=True,
        )
    return DINOv3ViTConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        num_register_tokens=4,
        use_gated_mlp=True,
        hidden_act="silu",
        key_bias=False,
    )


def images(count: int, size_px: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    rows = tuple(Row(image=f"{seed}/{n}", label=n % 2, group=f"{seed}/{n}") for n in range(count))
    pixels = rng.integers(0, 256, (count, 3, size_px, size_px), dtype=np.uint8)
    return ImageSet(pixels, Dataset(Path("nowhere"), rows))


def matrix_rate(device: torch.device) -> float:
    """Tera operations a second of a large product in bf16."""
    side = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    durations = []
    for _ in range(10):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(durations) / 1e12


def measure(run: Callable[[Tell], None], batch: int, steps: int, device: torch.device) -> Measured:
    """Run once for the clock and once for the counter."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    clock = _Clock(device)
    run(clock.tell)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    counter = FlopCounterMode(display=False)
    with counter:
        run(lambda *_: None)
    return Measured(batch / clock.step(), memory, counter.get_total_flops() / steps / clock.step() / 1e12)


@dataclass(frozen=True)
class Bench:
    """What is measured, on what."""

    backbone: Path
    home: Path
    device: torch.device
    size_px: int
    last: int

    def net(self, adapter: str | None) -> Stage1Net:
        model = ModelSettings.model_validate(
            {
                "backbone": PretrainedBackbone(name=str(self.backbone)),
                "adapter": adapter or "none",
                "last_layers": self.last,
            }
        )
        net = build(model, shape=(self.size_px, self.size_px), seed=0).to(self.device)
        if adapter is not None:
            add_adapters(net, model)
        return net

    def explora(self, batch: int, steps: int, recompute: bool) -> Measured:
        settings = AdaptSettings(
            enabled=True, epochs=1, batch_size=batch, head_steps=0, gradient_checkpointing=recompute, patience=None
        )
        rows = images(batch * steps, self.size_px, 1).images
        net = self.net(None)
        return measure(
            lambda tell: void(adapt_domain(net, rows, settings, seed=0, progress=tell)), batch, steps, self.device
        )

    def supervised(self, batch: int, steps: int, recompute: bool, *, optimiser: str, cached: bool) -> Measured:
        settings = TrainSettings.model_validate(
            {
                "epochs": 1,
                "batch_size": batch,
                "optimiser": optimiser,
                "gradient_checkpointing": recompute,
                "augmentation": "light",
                "cache": "on" if cached else "off",
                "cache_views": 1,
                "cache_share": 0.9,
            }
        )
        sets = images(batch * steps, self.size_px, 1), images(2, self.size_px, 2)
        net = self.net("doran")
        return measure(
            lambda tell: void(
                train_supervised(
                    Trainee(net, *sets), settings, CALIBRATION, seed=0, progress=tell, cache=self.home / "prefixes"
                )
            ),
            batch,
            steps,
            self.device,
        )

    def conformal(self, batch: int, steps: int) -> Measured:
        """Images a second through the backbone, which is all that counts: the heads train on kept features."""
        net, rows = self.net(None), images(batch * steps, self.size_px, 1)

        def run(tell: Tell) -> None:
            for step in range(steps):
                features(net, rows.images[step * batch : (step + 1) * batch])
                tell(step + 1, steps, "")

        return measure(run, batch, steps, self.device)

    def conformal_steps(self, steps: int) -> float:
        """Steps a second of the heads at the default batch."""
        net, settings = self.net(None), ConformalTrainingSettings(steps=max(steps, 8))
        sets = images(64, self.size_px, 1), images(64, self.size_px, 2)
        clock = _Clock(self.device)
        train_conformal_risk(net, *sets, settings, CALIBRATION, seed=0, progress=clock.tell)
        return 1 / clock.step()


def void(_: object) -> None:
    """Drop what a training returns."""


def table(bench: Bench, options: argparse.Namespace, peak: float) -> None:
    rows: list[tuple[str, Callable[[int, bool], Measured], tuple[bool, ...]]] = [
        ("ExPLoRA", lambda b, r: bench.explora(b, options.steps, r), (False, True)),
        *(
            (
                f"{name}{', kept activations' if cached else ''}",
                lambda b, r, o=optimiser, c=cached: bench.supervised(b, options.steps, r, optimiser=o, cached=c),
                (False, True),
            )
            for name, optimiser in (("DoRAN", "adamw"), ("DoRAN + F-SAM", "fsam"))
            for cached in (False, True)
        ),
        ("conformal: features", lambda b, _: bench.conformal(b, options.steps), (False,)),
    ]
    print(f"{'':33} batch  recomputed  images/s  memory     TFLOP/s  of the card")
    for name, run, choices in rows:
        for batch in options.batch:
            for recompute in choices:
                line = f"{name:33} {batch:>5}  {'yes' if recompute else 'no':>10}"
                try:
                    found = run(batch, recompute)
                except torch.cuda.OutOfMemoryError:
                    print(f"{line}  out of memory", flush=True)
                    continue
                shown = f"{found.rate:>8.1f}  {found.memory:>5.1f} GiB  {found.operations:>8.2f}"
                print(f"{line}  {shown}  {found.operations / peak:>10.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 64, 128], help="images a step")
    parser.add_argument("--steps", type=int, default=6, help="steps of a run")
    parser.add_argument("--last", type=int, default=6, help="adapted blocks")
    parser.add_argument("--size", type=int, default=224, help="side of the images, px")
    parser.add_argument("--small", action="store_true", help="a small backbone, for a machine without a GPU")
    options: Any = parser.parse_args()
    warnings.simplefilter("ignore")
    device = best_device()
    if device.type == "cpu" and not options.small:
        parser.exit(2, "no GPU here: give --small to see that the script runs\n")
    if options.small:
        options.batch, options.last, options.size = [4], 2, 64
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        shape(options.small).save_pretrained(home / "backbone")
        bench = Bench(home / "backbone", home, device, options.size, options.last)
        peak = matrix_rate(device)
        parameters = sum(p.numel() for p in bench.net(None).backbone.parameters())
        print(f"{name}, torch {torch.__version__}, products in bf16: {peak:.1f} TFLOP/s")
        print(f"{parameters / 1e6:.1f} million parameters, {options.size} px, {options.last} adapted blocks\n")
        table(bench, options, peak)
        print(f"\nconformal: heads, batch 1024: {bench.conformal_steps(options.steps):.0f} steps/s")


if __name__ == "__main__":
    main()
