"""Where a benchmark is run, what it is told, and the settings and keys of its units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.learning.data.photographs import PhotographSizes, photographs
from benchmarks.learning.data.scenes import SceneSizes, scenes
from benchmarks.learning.data.task import Task
from benchmarks.learning.units.adaptation import AdaptationSizes, adaptation_settings
from benchmarks.learning.units.unit import Sizes, Unit, base_settings, key_of, ordered, settings_of
from offline.config import RunConfig
from offline.learning.settings import AdaptSettings
from stage1.artifacts import sha256_json
from stage1.errors import SettingsError


@dataclass(frozen=True)
class AllSizes:
    """Everything that makes a run long or short."""

    training: Sizes
    photographs: PhotographSizes
    scenes: SceneSizes
    adaptation: AdaptationSizes


FULL = AllSizes(Sizes(), PhotographSizes(), SceneSizes(), AdaptationSizes())
# Nothing is learned at these, but everything is run.
QUICK = AllSizes(
    training=Sizes(epochs=1, steps=25, last_layers=1, views=1),
    photographs=PhotographSizes(city_frames=2, other_frames=10, other_select=8),
    scenes=SceneSizes(scenes=(24, 20, 24, 20), unlabelled=16, scale=1),
    adaptation=AdaptationSizes(steps=4, batch=4),
)


@dataclass(frozen=True)
class Place:
    """What a run is told.

    Attributes:
        home: directory of everything that is kept.
        photographs: data directory with photographs; None for no such task.
        backbone: directory of a pretrained ViT; None for a random DINOv3.
        sizes: how long it is.
        only: tasks to run; empty for all that can be.
    """

    home: Path
    photographs: Path | None
    backbone: Path | None
    sizes: AllSizes = FULL
    only: tuple[str, ...] = ()

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks by their names; scenes are drawn when they are asked for first."""
        found = {}
        if self.photographs is not None and self._wants("photographs"):
            found["photographs"] = photographs(self.photographs, self.sizes.photographs)
        if self._wants("scenes"):
            found["scenes"] = scenes(self.home / "scenes", self.sizes.scenes)
        return found

    def _wants(self, name: str) -> bool:
        return not self.only or name in self.only

    @cached_property
    def base(self) -> RunConfig:
        """What all rows have in common."""
        return base_settings(self.backbone, self.sizes.training)

    def units(self, winners: dict[str, str] | None = None) -> list[Unit]:
        """All units in their order."""
        return ordered([(task.name, len(task.folds)) for task in self.tasks.values()], winners)

    def config(self, unit: Unit) -> RunConfig:
        """The settings of a unit.

        Raises:
            SettingsError: the program has no such setting or value; says which.
        """
        return settings_of(unit, self.base)

    def refusals(self) -> dict[str, str]:
        """Why the settings of a row are none of this program, by its name; rows that can be had are left out."""
        return dict(self._refused())

    def _refused(self) -> Iterator[tuple[str, str]]:
        seen = set[str]()
        for unit in self.units():
            if unit.row.name in seen:
                continue
            seen.add(unit.row.name)
            try:
                self.config(unit)
            except SettingsError as error:
                yield unit.row.name, str(error)

    def key(self, unit: Unit) -> str:
        """Key of a unit whose settings are not refused."""
        data = self.tasks[unit.task].folds[unit.fold]
        return key_of(unit, self.config(unit), data, self.adaptation(unit) if unit.row.adapted else None)

    def keys(self, units: list[Unit]) -> dict[str, str]:
        """Keys by name of all units whose settings are not refused."""
        refused = self.refusals()
        return {unit.name: self.key(unit) for unit in units if unit.row.name not in refused}

    def adaptation(self, unit: Unit) -> AdaptSettings:
        """How the backbone of a row is adapted first."""
        return adaptation_settings(len(self.tasks[unit.task].unlabelled()), self.sizes.adaptation)

    def adapted_home(self, unit: Unit) -> Path:
        """Where the adapted backbone of a task and a seed is kept."""
        settings = self.adaptation(unit).model_dump(mode="json")
        backbone = self.base.model.backbone.model_dump(mode="json")
        key = sha256_json([unit.task, unit.seed, settings, backbone])[:16]
        return self.home / "adapted" / f"{unit.task}.seed{unit.seed}.{key}"
