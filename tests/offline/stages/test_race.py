"""The race of recipes as a stage: what it may see, that it goes on where it was killed, and who follows it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from engines.store.store import Store
from offline.config import RunConfig
from offline.data.dataset import Dataset
from offline.data.sources.source import read_dataset
from offline.errors import DatasetError, TrainingError, TrainingInterrupted
from offline.learning.conformal.train import halves_of, train_conformal_risk
from offline.learning.predict import ImageSet
from offline.learning.race.outcome import RaceRecord
from offline.learning.race.units import Unit
from offline.learning.supervised.outcome import TrainingOutcome
from offline.learning.supervised.train import Trainee, train_supervised
from offline.night import stages
from offline.pipeline.choice import Choice
from offline.pipeline.progress import Silence
from offline.pipeline.runner import Pipeline
from offline.splits.splits_file import Splits
from offline.stages.common import fold_trainings
from stage1.errors import OutputsError, SettingsError
from tests.support.scenes import write_labelled_scenes
from tests.support.small_nights import small_night

SCENES = 56
NONE: dict[str, dict[str, dict[str, object]]] = {
    name: {} for name in ("adapter", "optimiser", "pooling", "adaptation", "conformal training")
}
AXES = NONE | {
    "adapter": {"lora": {"model.adapter": "lora"}, "dora": {"model.adapter": "dora"}},
    "conformal training": {
        "off": {"train_conformal_risk.enabled": False},
        "on": {"train_conformal_risk.enabled": True},
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("race")
    write_labelled_scenes(home / "data", SCENES)
    return home


def config(**changes: object) -> RunConfig:
    common: dict[str, object] = {
        "train_supervised.epochs": 4,
        "train_conformal_risk.enabled": True,
        "train_conformal_risk.steps": 3,
        "learn.recipe": "auto",
        "learn.axes": AXES,
        "learn.folds": 3,
        "learn.budget_trainings": 100.0,
        "learn.repetitions": 100,
    }
    return small_night(**common | changes)


def raced(
    home: Path, workspace: Path, chosen: RunConfig, *, data: str = "data", last: str = "race"
) -> tuple[Path, RaceRecord]:
    now: Callable[[], datetime] = lambda: datetime(2026, 1, 1, tzinfo=UTC)  # noqa: E731
    rows = read_dataset(home / data)
    run = Pipeline(stages(), workspace, Store(workspace / "store"), rows, chosen, now, Silence()).run(Choice(only=last))
    return run, RaceRecord.read(run / "race.json")


@pytest.fixture(scope="module")
def first(home: Path) -> tuple[Path, RaceRecord]:
    return raced(home, home / "workspace", config())


def test_every_recipe_is_in_the_record_with_what_it_cost(first: tuple[Path, RaceRecord]) -> None:
    record = first[1]
    assert record.entrants[0].name == record.simplest == "lora + off"
    assert {one.name for one in record.entrants} == {"lora + off", "lora + on", "dora + off", "dora + on"}
    assert all(one.rungs[0].exits is not None for one in record.entrants)
    finalists = [one for one in record.entrants if not one.dropped]
    # Two short trainings, two of half the epochs, and three whole ones.
    assert {one.trainings for one in finalists} == {0.5 + 1.0 + 3.0}
    assert all(one.gain is not None for one in finalists if one.name != record.simplest)
    assert record.winner in {one.name for one in finalists}


def test_rows_of_exams_are_never_opened_and_change_nothing(home: Path, tmp_path: Path) -> None:
    """The pictures of val_calib and test are gone before the race begins."""
    shutil.copytree(home / "data", tmp_path / "data")
    rows = read_dataset(tmp_path / "data")
    now = lambda: datetime(2026, 1, 1, tzinfo=UTC)  # noqa: E731
    pipeline = Pipeline(stages(), tmp_path / "work", Store(tmp_path / "store"), rows, config(), now, Silence())
    splits = Splits.read(pipeline.run(Choice(only="splits")) / "splits.json")
    for name in ("val_calib", "test"):
        for row in splits.sets[name].ids:
            (tmp_path / "data" / row).unlink()
    found = RaceRecord.read(pipeline.run(Choice(only="race")) / "race.json")
    assert found == raced(home, home / "workspace", config())[1]
    held_out = len(splits.sets["train"].ids) + len(splits.sets["val_select"].ids)
    assert found.rows == held_out


@pytest.mark.parametrize("at", [1, 9])
def test_a_race_that_was_killed_loses_one_unit_and_ends_as_it_would_have(
    home: Path, first: tuple[Path, RaceRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    done: list[str] = []
    train = fold_trainings.FoldTrainings._log_odds

    def killed(self: Any, unit: Any, place: Path) -> tuple[float, ...]:
        if len(done) == at:
            raise TrainingInterrupted("told to end")
        done.append(unit.key)
        return train(self, unit, place)

    monkeypatch.setattr(fold_trainings.FoldTrainings, "_log_odds", killed)
    with pytest.raises(TrainingInterrupted):
        raced(home, tmp_path, config())
    again: list[str] = []

    def counted(self: Any, unit: Any, place: Path) -> tuple[float, ...]:
        again.append(unit.key)
        return train(self, unit, place)

    monkeypatch.setattr(fold_trainings.FoldTrainings, "_log_odds", counted)
    found = raced(home, tmp_path, config())[1]
    assert found == first[1]
    assert not set(again) & set(done)


def test_a_training_that_diverges_drops_its_recipe_and_not_the_race(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = fold_trainings.FoldTrainings._log_odds

    def diverging(self: Any, unit: Any, place: Path) -> tuple[float, ...]:
        if unit.recipe == "dora + off":
            raise TrainingError("the loss is not finite")
        return train(self, unit, place)

    monkeypatch.setattr(fold_trainings.FoldTrainings, "_log_odds", diverging)
    found = raced(home, tmp_path, config())[1]
    assert [one.dropped for one in found.entrants if one.name == "dora + off"] == ["the loss is not finite"]
    monkeypatch.setattr(
        fold_trainings.FoldTrainings, "_log_odds", lambda *_: (_ for _ in ()).throw(TrainingError("no"))
    )
    with pytest.raises(TrainingError, match=r"the simplest recipe, lora \+ off, could not be trained.*: no"):
        raced(home, tmp_path / "other", config())


def test_answers_that_are_no_numbers_fail_a_recipe_and_not_the_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step of a training may be the one after which its weights are infinite."""
    told = "logits contain NaN or infinity in 4 places"
    monkeypatch.setattr(fold_trainings.FoldTrainings, "_log_odds", lambda *_: (_ for _ in ()).throw(OutputsError(told)))
    context, none = (
        SimpleNamespace(now=lambda: datetime(2026, 1, 1, tzinfo=UTC), checkpoints=tmp_path),
        Dataset(tmp_path, ()),
    )
    work = fold_trainings.FoldTrainings(cast("Any", context), none, np.zeros(1, np.intp), none, lambda *_: None)
    outcome = work(Unit("lora", {}, 1.0, 0, 0))
    assert (outcome.failed, outcome.log_odds) == (told, ())


def test_rows_that_judge_the_heads_of_a_fold_do_not_choose_its_checkpoint(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the training that ships; or the checkpoint looks better than it is, and the heads never take its place."""
    chose: list[set[str]] = []
    judged: list[set[str]] = []

    def chosen(trainee: Trainee, *given: Any, **named: Any) -> TrainingOutcome:
        chose.append(set(trainee.val_select.data.ids))
        return train_supervised(trainee, *given, **named)

    def kept(net: Any, train: Any, select: ImageSet, *given: Any, **named: Any) -> Any:
        _, judge = halves_of(select, named["seed"])
        judged.append({select.data.ids[row] for row in judge.tolist()})
        return train_conformal_risk(net, train, select, *given, **named)

    monkeypatch.setattr(fold_trainings, "train_supervised", chosen)
    monkeypatch.setattr(fold_trainings, "train_conformal_risk", kept)
    raced(home, tmp_path, config(**{"learn.axes": NONE, "train_supervised.epochs": 1}))
    assert len(chose) == len(judged) == 3
    assert all(judges and not judges & rows for rows, judges in zip(chose, judged, strict=True))


def test_the_budget_says_how_many_start(home: Path, tmp_path: Path) -> None:
    # The simplest on all rungs is 4.5, and each rival as much again where it comes far.
    short: dict[str, object] = {"train_supervised.epochs": 1, "train_conformal_risk.steps": 1}
    found = raced(home, tmp_path, config(**short, **{"learn.budget_trainings": 9.0}))[1]
    why = [one.dropped for one in found.entrants]
    assert why.count("not started: the budget was spent") == 2
    assert sum(one.trainings for one in found.entrants) <= 9.0
    alone = raced(home, tmp_path, config(**short, **{"learn.budget_trainings": 1.0}))[1]
    assert alone.winner == "lora + off"


def test_what_ships_is_trained_as_the_winner_was_on_train_alone(home: Path, tmp_path: Path) -> None:
    axes = NONE | {"adapter": {"dora": {"model.adapter": "dora"}}}
    run, found = raced(home, tmp_path, config(**{"learn.axes": axes}), last="train_supervised")
    assert found.winner == "dora"
    assert '"adapter": "dora"' in (run / "training.json").read_text()
    splits = Splits.read(run / "splits.json")
    adapter = (run / "adapter.json").read_text()
    assert all(f'"{row}"' in adapter for row in splits.sets["train"].ids)
    # The config of the run is what was asked for, and that of a bundle what was trained.
    assert RunConfig.read(run / "config.json").learn.recipe == "auto"
    # A night that is told to train so finds the training there, because the race is not in its key.
    fixed = config(**{"learn.axes": axes, "learn.recipe": "fixed", "model.adapter": "dora"})
    again, _ = raced(home, tmp_path, fixed, last="train_supervised")
    assert (again / "adapter.safetensors").samefile(run / "adapter.safetensors")


def test_an_adapted_backbone_races_against_the_one_that_came(home: Path, tmp_path: Path) -> None:
    axes = NONE | {"adaptation": {"off": {"adapt_domain.enabled": False}, "on": {"adapt_domain.enabled": True}}}
    chosen = config(
        **{
            "learn.axes": axes,
            "adapt_domain.enabled": True,
            "adapt_domain.epochs": 1,
            "adapt_domain.head_steps": 0,
            "adapt_domain.patience": None,
            "learn.repetitions": 100,
        }
    )
    run, found = raced(home, tmp_path, chosen, last="train_supervised")
    assert [one.name for one in found.entrants] == ["off", "on"]
    # The other backbone did not win, so it is not what was trained on.
    assert found.winner == "off"
    assert not (run / "backbone.safetensors").exists()


def test_a_fixed_recipe_trains_nothing_but_lists_suspects_if_asked(home: Path, tmp_path: Path) -> None:
    run, found = raced(home, tmp_path, config(**{"learn.recipe": "fixed"}))
    assert found == RaceRecord(recipe="fixed")
    assert not (run / "suspects.csv").exists()
    run, found = raced(home, tmp_path, config(**{"learn.recipe": "fixed", "learn.review": True}))
    assert found.reviewed == found.rows > 0
    assert found.entrants == ()
    assert (run / "suspects.csv").read_text().splitlines()[0] == "image,label,probability,loss,new_label"


def test_settings_that_cannot_race_are_refused_before_the_first_training(home: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="has seen them"):
        config(**{"train_supervised.warm_start": str(tmp_path)})
    with pytest.raises(SettingsError, match=r"model\.adapter"):
        raced(home, tmp_path, config(**{"learn.axes": NONE | {"adapter": {"sora": {"model.adapter": "sora"}}}}))
    with pytest.raises(DatasetError, match=r"learn\.folds asks for 99 folds"):
        raced(home, tmp_path, config(**{"learn.folds": 99}))
