"""What a program that keeps experiments is asked for, and those that there are.

A tracker decides nothing of a night. It is told of one that has ended, within a time limit, and its error is a line
in the log.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from stage1.errors import SettingsError

EXPERIMENT = "streetvision-cascade"
DEFAULT, OFF = "tensorboard", "off"


class Tracker(Protocol):
    """One night in a program that keeps experiments."""

    def settings(self, values: Mapping[str, str]) -> None:
        """The settings of the night, by their dotted names."""
        ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step or an epoch, finite, by names with a slash between the stage and the number."""
        ...

    def text(self, name: str, text: str) -> None:
        """What is said of the night in words."""
        ...

    def close(self) -> None:
        """Nothing follows."""
        ...


class TensorBoard:
    """Event files that TensorBoard shows.

    Args:
        directory: of this night.
    """

    def __init__(self, directory: Path) -> None:
        self._writer: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(directory))

    def settings(self, values: Mapping[str, str]) -> None:
        """See `Tracker.settings`."""
        self.text("settings", "\n".join(f"    {name} = {value}" for name, value in values.items()))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.scalars`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, name: str, text: str) -> None:
        """See `Tracker.text`."""
        self._writer.add_text(name, text)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._writer.close()


class MlFlow:
    """A run of MLflow.

    Args:
        uri: of the tracking server or store, for example `sqlite:////var/lib/mlflow.db`.
        name: of the night.
    """

    def __init__(self, uri: str, name: str) -> None:
        # Not the functions of the module: they share one current run and one address among all that use it.
        client: Any = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = client.create_experiment(EXPERIMENT) if found is None else found.experiment_id
        self._client, self._run = client, client.create_run(experiment, run_name=name).info.run_id

    def settings(self, values: Mapping[str, str]) -> None:
        """See `Tracker.settings`."""
        for name, value in values.items():
            self._client.log_param(self._run, name, value[:500])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.scalars`."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def text(self, name: str, text: str) -> None:
        """See `Tracker.text`."""
        self._client.set_tag(self._run, name, text[:5000])

    def close(self) -> None:
        """See `Tracker.close`."""
        self._client.set_terminated(self._run)


class Trackio:
    """A run of trackio, or of any other module with the functions of wandb.

    Args:
        module: the module.
        project: name of the project.
        name: of the night.
    """

    def __init__(self, module: str, project: str, name: str) -> None:
        self._module: Any = importlib.import_module(module)
        self._project, self._name = project, name
        self._started = False

    def settings(self, values: Mapping[str, str]) -> None:
        """See `Tracker.settings`."""
        self._module.init(project=self._project, name=self._name, config=dict(values))
        self._started = True

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.scalars`."""
        self._module.log(dict(values), step=step)

    def text(self, name: str, text: str) -> None:
        """See `Tracker.text`."""
        self._module.log({name: text})

    def close(self) -> None:
        """See `Tracker.close`."""
        if self._started:
            self._module.finish()


def check_tracking(asked: str) -> None:
    """Refuse a tracker that there is not.

    Raises:
        SettingsError: names those that there are.
    """
    kind, _, where = asked.partition("=")
    if kind not in {OFF, DEFAULT, "mlflow", "trackio", "wandb"}:
        raise SettingsError(
            f"no tracker is called {kind!r}; there are tensorboard, mlflow=URI, trackio=PROJECT, wandb=PROJECT and off"
        )
    if kind == "mlflow" and not where:
        raise SettingsError("mlflow needs the address of its store, for example mlflow=sqlite:///mlflow.db")


def opener(asked: str, workspace: Path, name: str) -> Callable[[], Tracker] | None:
    """What opens the tracker that is asked for; None for none.

    Args:
        asked: `tensorboard`, `mlflow=URI`, `trackio=PROJECT`, `wandb=PROJECT` or `off`.
        workspace: holds the event files of TensorBoard.
        name: of the night.

    Raises:
        SettingsError: there is no such tracker.
    """
    check_tracking(asked)
    kind, _, where = asked.partition("=")
    match kind:
        case "tensorboard":
            return lambda: TensorBoard(workspace / "tensorboard" / name)
        case "mlflow":
            return lambda: MlFlow(where, name)
        case "trackio" | "wandb":
            return lambda: Trackio(kind, where or EXPERIMENT, name)
        case _:
            return None
