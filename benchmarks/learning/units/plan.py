"""How long everything will take, by what was measured: of finished units their own time, of others a model of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.learning.data.task import part_of
from benchmarks.learning.table.statistics import aligned
from benchmarks.learning.units.place import Place
from benchmarks.learning.units.results import UnitResult
from benchmarks.learning.units.rows import REFERENCE, row_called
from benchmarks.learning.units.unit import Sizes, Unit, base_settings
from offline.config import RunConfig
from offline.learning.precision import autocast
from stage1.model.adapters.attach import add_adapters, frozen_blocks
from stage1.model.backbones import build

# Libraries, pictures and files, whatever is trained.
START_S = 15.0
PICTURES = 8
SHOWN = (3, 6)


@dataclass(frozen=True)
class Speed:
    """Processor seconds of one picture on one thread.

    Attributes:
        whole: through the whole network.
        frozen: through the blocks that do not train.
        step: forwards and backwards through those that do.
    """

    whole: float
    frozen: float
    step: float


def measured(config: RunConfig) -> Speed:
    """Try it on a few pictures."""
    torch.set_num_threads(1)
    net = build(config.model, shape=config.preprocess.shape, seed=0)
    add_adapters(net, config.model)
    cut = frozen_blocks(net)
    images = torch.zeros((PICTURES, 3, *config.preprocess.shape), dtype=torch.uint8)

    def seconds(*, frozen: bool, trains: bool) -> float:
        before = time.process_time()
        with torch.set_grad_enabled(trains), autocast(torch.device("cpu"), config.train_supervised.precision):
            if not frozen:
                features = net.rest(state, cut) if cut else net.features(images)
            else:
                features = net.prefix(images, cut) if cut else net.features(images)
            loss = net.outputs(features).logits.float().square().mean() if trains else None
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
        return (time.process_time() - before) / PICTURES

    with torch.no_grad():
        state = net.prefix(images, cut) if cut else images
    frozen_s = min(seconds(frozen=True, trains=False) for _ in range(2))
    rest_s = min(seconds(frozen=False, trains=False) for _ in range(2))
    step_s = min(seconds(frozen=False, trains=True) for _ in range(2))
    return Speed(frozen_s + rest_s if cut else rest_s, frozen_s, step_s)


def reference_seconds(place: Place, task: str, speed: Speed) -> float:
    """Processor seconds of one unit of LoRA."""
    fold = place.tasks[task].folds[0]
    count = {part: len(part_of(fold, part)) for part in ("train", "val_select", "val_calib", "test")}
    epochs = place.sizes.training.epochs
    judged = (speed.whole - speed.frozen) * count["val_select"]
    answered = speed.whole * (count["val_select"] + count["val_calib"] + count["test"])
    return START_S + epochs * (speed.step * count["train"] + judged) + answered


def plan_text(place: Place, units: list[Unit], results: Mapping[str, UnitResult], hours: float, jobs: int) -> str:
    """The plan as text: what a unit takes, and all of them, beside the budget."""
    speeds = {layers: measured(_with_layers(place, layers)) for layers in SHOWN}
    ours = speeds.get(place.sizes.training.last_layers) or measured(place.base)
    guessed = {task: reference_seconds(place, task, ours) for task in place.tasks}
    lines = [["task", "row", "units", "done", "CPU s a unit", "CPU h in all"]]
    total = left = 0.0
    refused = place.refusals()
    for task in place.tasks:
        for name in dict.fromkeys(unit.row.name for unit in units if unit.task == task):
            own = [unit for unit in units if unit.task == task and unit.row.name == name]
            done = [results[unit.name] for unit in own if unit.name in results]
            each = _seconds(task, name, done, results, guessed[task])
            if name not in refused:
                total += each * len(own)
                left += each * (len(own) - len(done))
            shown = "refused" if name in refused else f"{each:.0f}"
            lines.append([task, name, str(len(own)), str(len(done)), shown, f"{each * len(own) / 3600:.2f}"])
    told = [
        f"A picture through {layers} adapted blocks takes {speed.step:.3f} s a step behind the cache, and "
        f"{speed.whole:.3f} s through the whole network."
        for layers, speed in speeds.items()
    ]
    told.append(
        f"{total / 3600:.1f} h of processor time in all, {left / 3600:.1f} h of it left; the budget is {hours:g} h on "
        f"{jobs} cores, {hours * jobs:g} h. Refused rows are in no sum."
    )
    return aligned(lines) + "\n\n" + "\n".join(told)


def _with_layers(place: Place, layers: int) -> RunConfig:
    return base_settings(place.backbone, Sizes(last_layers=layers))


def _seconds(task: str, row: str, done: list[UnitResult], results: Mapping[str, UnitResult], guessed: float) -> float:
    """Of finished units of the row the median, else LoRA's times the row's guessed cost."""
    own = [result.whole_cpu_s for result in done if result.whole_cpu_s]
    if own:
        return float(np.median(own))
    reference = [r.whole_cpu_s for name, r in results.items() if name.startswith(f"{task}.{REFERENCE}.")]
    one = float(np.median(reference)) if reference else guessed
    return START_S + max(0.0, one - START_S) * row_called(row).cost
