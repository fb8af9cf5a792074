"""Units on the GPUs and hosts of a Ray cluster, through Ray Tune; an extra, imported only where it is asked for.

The workspace must be the same directory on every host: what a training keeps to go on from lies there.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from offline.errors import TrainingError
from offline.learning.race.units import Unit, UnitOutcome, Work

MISSING = "learn.ray is true, but Ray Tune is not installed: install `ray[tune]`, or set learn.ray to false"


def imported(name: str) -> ModuleType:
    """A module of Ray.

    Raises:
        TrainingError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrainingError(MISSING) from error


class RayTune:
    """One trial a unit; each has a GPU to itself where the cluster has any, and else a whole host.

    Args:
        directory: where Ray Tune notes its trials.
        ray: the package; None imports it and connects to the cluster of the environment, or starts one here.
        tune: its module `ray.tune`; None imports it.

    Raises:
        TrainingError: Ray Tune is not installed.
    """

    def __init__(self, directory: Path, ray: Any | None = None, tune: Any | None = None) -> None:  # noqa: ANN401  modules
        self._directory = directory
        self._ray = ray or imported("ray")
        self._tune = tune or imported("ray.tune")
        if not self._ray.is_initialized():
            self._ray.init(log_to_driver=False, include_dashboard=False)
        self._gpus = int(self._ray.cluster_resources().get("GPU", 0))
        self._hosts = [node for node in self._ray.nodes() if node["Alive"]]

    @property
    def width(self) -> int:
        """See `Executor.width`."""
        return max(1, self._gpus or len(self._hosts))

    @property
    def _resources(self) -> dict[str, float]:
        if self._gpus:
            return {"cpu": 1, "gpu": 1}
        return {"cpu": min([host["Resources"].get("CPU", 1) for host in self._hosts], default=1)}

    def run(self, units: Sequence[Unit], work: Work) -> Iterator[tuple[Unit, UnitOutcome]]:
        """See `Executor.run`; the outcomes come when all are done, and a trial that fails is not tried again.

        Raises:
            TrainingError: a trial ended without an outcome.
        """
        if not units:
            return
        tune = self._tune
        trial = tune.with_resources(partial(_trial, units=tuple(units), work=work), self._resources)
        space = {"number": tune.grid_search([*range(len(units))])}
        config = tune.TuneConfig(max_concurrent_trials=self.width)
        noted = tune.RunConfig(storage_path=str(self._directory.resolve()), verbose=0)
        for result in tune.Tuner(trial, param_space=space, tune_config=config, run_config=noted).fit():
            if result.error is not None or "outcome" not in (result.metrics or {}):
                raise TrainingError(f"a trial of Ray Tune ended without an outcome: {result.error}")
            yield (
                units[result.metrics["config"]["number"]],
                UnitOutcome.model_validate_json(result.metrics["outcome"]),
            )


def _trial(config: dict[str, int], *, units: Sequence[Unit], work: Work) -> dict[str, object]:
    """Do a unit; what a function of a trial returns is its last report."""
    return {"outcome": work(units[config["number"]]).model_dump_json()}
