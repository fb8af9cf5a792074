"""The process of one unit: the stages of a night that learn, on the parts of a fold, and then what the network says."""

from __future__ import annotations

import argparse
import resource
import shutil
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from benchmarks.learning.data.task import SPLITS_STAGE, part_of
from benchmarks.learning.units.adaptation import adapted_backbone, arrival
from benchmarks.learning.units.place import FULL, QUICK, Place
from benchmarks.learning.units.results import Answers, UnitResult, write_result
from benchmarks.learning.units.rows import row_called
from benchmarks.learning.units.unit import KEY_LENGTH, Unit
from engines.store.store import Store
from offline.config import RunConfig
from offline.data.dataset import Dataset
from offline.errors import OfflineError, TrainingInterrupted
from offline.learning.predict import predict
from offline.night import stages
from offline.pipeline.choice import Choice
from offline.pipeline.run_files import BEST
from offline.pipeline.runner import Pipeline
from offline.splits.settings import Split
from offline.stages.common.network import network_of
from stage1.artifacts import sha256_json
from stage1.errors import Stage1Error
from stage1.model.settings import PretrainedBackbone
from stage1.model.weights import load_weights
from stage1.settings import override

if TYPE_CHECKING:
    from offline.stages.common.context import Context

# The stage after which weights are final.
LAST = "train_conformal_risk"
ANSWERED: tuple[Split, ...] = ("val_select", "val_calib", "test")
KEEPING = "keeping the activations"


class Meter:
    """A `Progress` that counts the processor time in which states of frozen blocks are brought into the cache."""

    def __init__(self) -> None:
        self.filling_s, self.filling_wall_s = 0.0, 0.0
        self._last = time.process_time(), time.perf_counter()

    def stage(self, name: str, state: str) -> None:
        """See `Progress.stage`."""
        print(f"{name}: {state}", flush=True)
        self._last = time.process_time(), time.perf_counter()

    def step(self, done: int, total: int, note: str = "") -> None:
        """See `Progress.step`."""
        now = time.process_time(), time.perf_counter()
        if note.startswith(KEEPING):
            self.filling_s += now[0] - self._last[0]
            self.filling_wall_s += now[1] - self._last[1]
        self._last = now
        if done == total or done % 20 == 0:
            print(f"  {done}/{total} {note}", flush=True)


@dataclass(frozen=True)
class _Configured:
    """All of a context that making a network reads."""

    config: RunConfig


def run_unit(place: Place, unit: Unit) -> UnitResult:
    """Train a unit and ask it; what the program refuses to train is a result, too.

    Args:
        place: of the run.
        unit: what to train.
    """
    torch.set_num_threads(1)
    key, data = place.key(unit), place.tasks[unit.task].folds[unit.fold]
    workspace = place.home / "work" / unit.name
    meter, note = Meter(), ""
    begun = time.process_time(), time.perf_counter()
    try:
        config = place.config(unit)
        if unit.row.adapted:
            config, note = _adapted(place, unit, config)
        config, weights = _trained(place, unit, config, workspace, meter)
    except TrainingInterrupted:
        raise
    except (OfflineError, Stage1Error) as error:
        return UnitResult(unit=unit.name, key=key, refused=str(error))
    cpu_s = time.process_time() - begun[0] - meter.filling_s
    wall_s = time.perf_counter() - begun[1] - meter.filling_wall_s
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answers = _answers(config, data, weights)
    shutil.rmtree(workspace)
    return UnitResult(
        unit=unit.name,
        key=key,
        note=note,
        wall_s=wall_s,
        cpu_s=cpu_s,
        whole_cpu_s=time.process_time(),
        memory_mib=memory,
        answers=answers,
    )


def _adapted(place: Place, unit: Unit, config: RunConfig) -> tuple[RunConfig, str]:
    settings, unlabelled = place.adaptation(unit), place.tasks[unit.task].unlabelled()
    home = adapted_backbone(place.adapted_home(unit), config, settings, unlabelled, seed=unit.seed)
    note = arrival(home, settings, len(unlabelled))
    return override(config, {"model.backbone": PretrainedBackbone(name=str(home)).model_dump()}), note


def _trained(place: Place, unit: Unit, config: RunConfig, workspace: Path, meter: Meter) -> tuple[RunConfig, Path]:
    """Run the stages up to the final weights; the settings that a race may have changed, and the file of these."""
    workspace.mkdir(parents=True, exist_ok=True)
    # Units share what frozen blocks make of pictures; a workspace keeps few of these, so each kind has its own.
    kind = sha256_json(
        [config.preprocess.model_dump(), config.model.backbone.model_dump(), config.model.adapter == "none"]
    )
    shared = place.home / "prefixes" / unit.task / kind[:KEY_LENGTH]
    shared.mkdir(parents=True, exist_ok=True)
    link = workspace / "prefixes"
    if not link.is_symlink():
        link.symlink_to(shared)
    pipeline = Pipeline(
        stages=(SPLITS_STAGE, *stages()[1:]),
        workspace=workspace,
        store=Store(workspace / "store"),
        data=place.tasks[unit.task].folds[unit.fold],
        config=config,
        now=lambda: datetime.now(UTC),
        progress=meter,
    )
    run = pipeline.run(Choice(only=LAST))
    return pipeline.config, run / BEST


def _answers(config: RunConfig, data: Dataset, weights: Path) -> dict[str, Answers]:
    context = cast("Context", _Configured(config))
    net = network_of(context, trained=True)
    load_weights(net, weights)
    found: dict[str, Answers] = {}
    for part in ANSWERED:
        rows = part_of(data, part)
        if len(rows):
            images = rows.array(config.preprocess)
            found[part] = Answers.of(rows, predict(net, images, config.train_supervised.precision))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--backbone", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("task")
    parser.add_argument("row")
    parser.add_argument("fold", type=int)
    parser.add_argument("seed", type=int)
    told = parser.parse_args()
    warnings.simplefilter("ignore")
    place = Place(told.home, told.photographs, told.backbone, QUICK if told.quick else FULL, only=(told.task,))
    unit = Unit(told.task, row_called(told.row), told.fold, told.seed)
    write_result(place.home, run_unit(place, unit))


if __name__ == "__main__":
    main()
