"""Units through Ray Tune: asked for in its own words, and refused clearly where it is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from offline.errors import TrainingError
from offline.learning.race.ray_tune import RayTune
from offline.learning.race.units import Unit, UnitOutcome

UNITS = [Unit("lora", {"model.adapter": "lora"}, 0.25, fold, 0) for fold in range(3)]


def work(unit: Unit) -> UnitOutcome:
    if unit.fold == 2:
        return UnitOutcome(recipe=unit.recipe, share=unit.share, fold=2, seed=0, failed="diverged")
    return UnitOutcome(recipe=unit.recipe, share=unit.share, fold=unit.fold, seed=0, log_odds=(0.1, unit.fold / 3))


class Cluster:
    """What stands in for `ray` and `ray.tune`: it does trials at once and in turn, the last first."""

    def __init__(self, gpus: int, *, failing: bool = False) -> None:
        self.gpus, self.failing = gpus, failing
        self.asked: dict[str, Any] = {}
        self.tune = SimpleNamespace(
            with_resources=self._with_resources,
            grid_search=lambda values: values,
            TuneConfig=lambda **kwargs: self.asked.update(kwargs),
            RunConfig=lambda **kwargs: self.asked.update(kwargs),
            Tuner=self._tuner,
        )

    def is_initialized(self) -> bool:
        return False

    def init(self, **_: object) -> None:
        self.asked["initialised"] = True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 16.0, **({"GPU": float(self.gpus)} if self.gpus else {})}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 8.0}}, {"Alive": True, "Resources": {"CPU": 8.0}}]

    def _with_resources(self, trial: Callable, resources: dict[str, float]) -> Callable:
        self.asked["resources"] = resources
        return trial

    def _tuner(self, trial: Callable, *, param_space: dict[str, list[int]], **_: object) -> Any:
        numbers = reversed(param_space["number"])
        if self.failing:
            results = [SimpleNamespace(error=RuntimeError("out of memory"), metrics=None) for _ in numbers]
        else:
            results = [
                SimpleNamespace(error=None, metrics={**trial({"number": number}), "config": {"number": number}})
                for number in numbers
            ]
        return SimpleNamespace(fit=lambda: results)


def test_every_unit_is_a_trial_with_a_gpu_to_itself(tmp_path: Path) -> None:
    cluster = Cluster(gpus=4)
    executor = RayTune(tmp_path, cluster, cluster.tune)
    found = {unit.fold: outcome for unit, outcome in executor.run(UNITS, work)}
    assert found == {unit.fold: work(unit) for unit in UNITS}
    assert executor.width == 4
    assert cluster.asked["resources"] == {"cpu": 1, "gpu": 1}
    assert cluster.asked["max_concurrent_trials"] == 4
    assert cluster.asked["storage_path"] == str(tmp_path)


def test_without_a_gpu_a_trial_has_a_host_to_itself(tmp_path: Path) -> None:
    cluster = Cluster(gpus=0)
    executor = RayTune(tmp_path, cluster, cluster.tune)
    assert executor.width == 2
    assert len(list(executor.run(UNITS, work))) == 3
    assert cluster.asked["resources"] == {"cpu": 8.0}


def test_a_trial_that_dies_ends_the_race_with_its_reason(tmp_path: Path) -> None:
    cluster = Cluster(gpus=1, failing=True)
    with pytest.raises(TrainingError, match="out of memory"):
        list(RayTune(tmp_path, cluster, cluster.tune).run(UNITS, work))


def test_nothing_to_do_starts_nothing(tmp_path: Path) -> None:
    cluster = Cluster(gpus=1)
    assert list(RayTune(tmp_path, cluster, cluster.tune).run([], work)) == []
    assert "resources" not in cluster.asked


def test_without_ray_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TrainingError, match=r"install `ray\[tune\]`, or set learn\.ray to false"):
        RayTune(tmp_path)
