"""One training of one row on one fold with one seed: its settings, its key, and the order of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.learning.units.rows import BASELINE, REFERENCE, ROWS, Row, settled
from offline.config import RunConfig
from offline.data.dataset import Dataset
from offline.learning.settings import AdaptSettings
from offline.pipeline.content_key import installed, own_modules
from stage1.artifacts import sha256_file, sha256_json
from stage1.model.settings import PretrainedBackbone, RandomBackbone
from stage1.settings import override

SEEDS, MORE_SEEDS = 3, 5
KEY_LENGTH = 16
# Random, so that it can be said where no pretrained one is at hand.
RANDOM = RandomBackbone(hidden=96, layers=8, heads=3, initializer_range=0.1)
# Where training, and what it reads of its pictures, is decided.
STAGES = ("adapt_domain", "race", "train_supervised", "train_conformal_risk")
DISTRIBUTIONS = ("torch", "transformers", "peft", "numpy", "pytorch-optimizer", "kornia")


@dataclass(frozen=True)
class Sizes:
    """How long a training is.

    Attributes:
        epochs: of supervised training.
        batch: images a step.
        steps: of what trains heads on.
        last_layers: blocks that adapters are on.
        views: augmented views kept of each image.
    """

    epochs: int = 7
    batch: int = 8
    steps: int = 200
    last_layers: int = 3
    views: int = 2


@dataclass(frozen=True)
class Unit:
    """One training.

    Attributes:
        task: its name.
        row: what is trained.
        fold: number of the fold.
        seed: of the training.
    """

    task: str
    row: Row
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """Its name among files."""
        return f"{self.task}.{self.row.name}.fold{self.fold}.seed{self.seed}"


def base_settings(backbone: Path | None, sizes: Sizes) -> RunConfig:
    """What all rows have in common: LoRA on the last blocks by AdamW, pictures as they are.

    Args:
        backbone: directory of a pretrained one; None for a random DINOv3.
        sizes: how long a training is.
    """
    kind = RANDOM if backbone is None else PretrainedBackbone(name=str(backbone))
    changes: dict[str, Any] = {
        "model.backbone": kind.model_dump(),
        "model.adapter": "lora",
        "model.rank": 8,
        "model.last_layers": sizes.last_layers,
        "train_supervised.epochs": sizes.epochs,
        "train_supervised.batch_size": sizes.batch,
        "train_supervised.learning_rate": 2e-3,
        "train_supervised.augmentation": "light",
        "train_supervised.precision": "bf16",
        "train_supervised.cache": "auto",
        "train_supervised.cache_views": sizes.views,
        "train_supervised.cache_share": 1.0,
        "train_conformal_risk.enabled": False,
        "train_conformal_risk.steps": sizes.steps,
        "calibrate_scrc.stream": "originals",
        "calibrate_scrc.alpha": 0.05,
        "calibrate_scrc.unit": "row",
        "calibrate_scrc.allow_row_unit": True,
        "calibrate_scrc.false_alarm_rate": 0.05,
    }
    return override(RunConfig(), changes)


def settings_of(unit: Unit, base: RunConfig) -> RunConfig:
    """The settings of a unit.

    Args:
        unit: the training.
        base: what all rows have in common.

    Raises:
        SettingsError: the program has no such setting or value; says which.
    """
    return override(settled(base, unit.row), {"seed": unit.seed})


def key_of(unit: Unit, config: RunConfig, data: Dataset, adaptation: AdaptSettings | None = None) -> str:
    """Hash of everything that decides what comes of a unit: settings, data, weights, code and versions.

    Args:
        unit: the training.
        config: its settings.
        data: rows of its fold.
        adaptation: how its backbone is adapted first; None if it is not.
    """
    tree = config.model_dump(mode="json")
    backbone = config.model.backbone
    if isinstance(backbone, PretrainedBackbone):
        tree["model"]["backbone"] = _weights(Path(backbone.name))
    adapted = None if adaptation is None else adaptation.model_dump(mode="json")
    return sha256_json([unit.name, tree, adapted, data.sha256, code_sha256()])[:KEY_LENGTH]


@cache
def _weights(directory: Path) -> list[str]:
    """Hashes of the files of a pretrained model; where it lies does not matter."""
    return [sha256_file(path) for path in sorted(directory.iterdir()) if path.suffix in {".json", ".safetensors"}]


@cache
def code_sha256() -> str:
    """Hash of the modules that decide what comes of a training, and of the versions of what they use."""
    modules = own_modules(["offline.learning.predict", *(f"offline.stages.{name}" for name in STAGES)])
    sources = {module: _source(module) for module in modules}
    return sha256_json([sources, {name: installed(name) for name in DISTRIBUTIONS}])


def _source(module: str) -> str:
    place = Path(*module.split("."))
    root = Path(__file__).resolve().parents[3]
    file = next(path for path in (root / place / "__init__.py", root / place.with_suffix(".py")) if path.is_file())
    return sha256_file(file)


def ordered(tasks: Iterable[tuple[str, int]], winners: dict[str, str] | None = None) -> list[Unit]:
    """All units, so that after any time all rows have about equally many.

    Args:
        tasks: name of each task and the number of its folds.
        winners: of each task, the row that gets as many more seeds as the baseline and LoRA; none if left out.
    """
    known = list(tasks)
    return [
        Unit(task, row, fold, seed)
        for seed in range(MORE_SEEDS)
        for fold in range(max((folds for _, folds in known), default=0))
        for row in ROWS
        for task, folds in known
        if fold < folds and task in row.tasks and seed < _seeds(row, (winners or {}).get(task, ""))
    ]


def _seeds(row: Row, winner: str) -> int:
    return MORE_SEEDS if row.name in {BASELINE, REFERENCE, winner} else SEEDS


def wanted(units: Sequence[Unit], task: str, row: Row) -> list[Unit]:
    """The units of a row of a task."""
    return [unit for unit in units if unit.task == task and unit.row.name == row.name]
