"""A tracker is told of a night, and whatever goes wrong with it, the night does not."""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from offline.tracking.told import Night, epochs, track, verdict
from offline.tracking.tracker import EXPERIMENT
from stage1.errors import SettingsError


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """What a night leaves."""
    run = tmp_path / "runs" / "0123abcd"
    run.mkdir(parents=True)
    (run / "training.csv").write_text("epoch,train_loss,val_select_value\n1,0.7,0.5\n2,nan,0.6\n")
    adaptation = {"epochs": [{"epoch": 1.0, "loss": 3.0, "teacher": 0.8}]}
    (run / "adaptation.json").write_text(json.dumps(adaptation))
    published = {"verdict": "KEEP", "bundle": "b1", "reasons": ["it is worse"], "mcc": 0.4, "champion": None}
    (run / "publish.json").write_text(json.dumps(published))
    return Night(run, {"seed": 3, "train_supervised": {"epochs": 2, "fsam": {}}})


def test_every_epoch_and_the_verdict_are_told(night: Night) -> None:
    assert list(epochs(night.run)) == [
        (1, {"adapt_domain/loss": 3.0, "adapt_domain/teacher": 0.8}),
        (1, {"train_supervised/train_loss": 0.7, "train_supervised/val_select_value": 0.5}),
        (2, {"train_supervised/val_select_value": 0.6}),
        (0, {"publish/mcc": 0.4}),
    ]
    assert verdict(night.run) == {"verdict": "KEEP", "bundle": "b1", "reasons": "it is worse"}


def test_a_night_that_ended_early_has_less_to_tell(tmp_path: Path) -> None:
    assert list(epochs(tmp_path)) == []
    assert verdict(tmp_path) == {}


class Wandb(types.ModuleType):
    """A module with the functions of wandb, as trackio has them."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.calls: list[tuple[str, Any]] = []

    def init(self, project: str, name: str, config: Mapping[str, str]) -> None:
        self.calls.append(("init", (project, name, dict(config))))

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        self.calls.append(("log", (step, dict(values))))

    def finish(self) -> None:
        self.calls.append(("finish", None))


def test_trackio_is_told_as_wandb_is(night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Wandb()
    monkeypatch.setitem(sys.modules, "trackio", module)
    assert track("trackio=roads", night, tmp_path)
    started = {"seed": "3", "train_supervised.epochs": "2", "train_supervised.fsam": "{}"}
    assert module.calls[0] == ("init", ("roads", "0123abcd", started))
    assert ("log", (2, {"train_supervised/val_select_value": 0.6})) in module.calls
    assert ("log", (None, {"verdict": "KEEP"})) in module.calls
    assert module.calls[-1] == ("finish", None)


@pytest.mark.parametrize("error", [RuntimeError("no network"), KeyError("x"), ValueError("bad")])
def test_an_error_of_a_tracker_is_no_error_of_the_night(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    module = Wandb()

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(module, "log", broken)
    monkeypatch.setitem(sys.modules, "trackio", module)
    assert not track("trackio", night, tmp_path)
    # What was begun is closed.
    assert module.calls[-1] == ("finish", None)


def test_nobody_waits_for_a_tracker_that_hangs(night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, end = Wandb(), threading.Event()
    monkeypatch.setattr(module, "log", lambda *_, **__: end.wait(20))
    monkeypatch.setitem(sys.modules, "trackio", module)
    assert not track("trackio", night, tmp_path, longest_s=0.05)
    end.set()


def test_a_tracker_that_is_not_installed_is_left_out(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    assert not track("tensorboard", night, tmp_path)
    assert not track("mlflow=sqlite:///x.db", night, tmp_path)
    assert not track("off", night, tmp_path)


@pytest.mark.parametrize(
    ("asked", "message"), [("excel", "no tracker is called 'excel'; there are"), ("mlflow", "needs the address")]
)
def test_a_tracker_that_there_is_not_is_refused(night: Night, tmp_path: Path, asked: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        track(asked, night, tmp_path)


def test_tensorboard_shows_the_night(night: Night, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    events: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert track("tensorboard", night, tmp_path)
    found = events.EventAccumulator(str(tmp_path / "tensorboard" / "0123abcd"))
    found.Reload()
    values = found.Scalars("train_supervised/val_select_value")
    assert [(one.step, round(one.value, 6)) for one in values] == [(1, 0.5), (2, 0.6)]
    assert "verdict/text_summary" in found.Tags()["tensors"]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_the_night_in_its_sqlite_store(night: Night, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    assert track(f"mlflow=sqlite:///{tmp_path}/mlflow.db", night, tmp_path, longest_s=120)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        metrics = database.execute("select key, value, step from metrics order by key, step").fetchall()
        [name] = database.execute("select name from experiments where name != 'Default'").fetchone()
        parameters = dict(database.execute("select key, value from params").fetchall())
        tags = dict(database.execute("select key, value from tags").fetchall())
    assert name == EXPERIMENT
    assert ("train_supervised/val_select_value", 0.6, 2) in metrics
    assert parameters["train_supervised.epochs"] == "2"
    assert tags["verdict"] == "KEEP"
