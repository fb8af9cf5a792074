"""A plan names the stages that then run, whatever was touched: a value of any section of the settings, or any data."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.store.store import Store
from offline.config import RunConfig, load_config
from offline.data.sources.source import read_dataset
from offline.data.sources.synthetic_streets import write_scenes
from offline.night import with_contents
from offline.pipeline.choice import EVERYTHING, Choice
from offline.pipeline.plan import plan, plan_words
from offline.pipeline.progress import Silence
from offline.pipeline.runner import Pipeline
from offline.pipeline.settings_view import only
from offline.pipeline.stage import MANIFEST, StageContext
from offline.splits.splits_file import Splits
from tests.support.stand_ins import stand_in_stages

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCENES = 120
ON: dict[str, Any] = {
    "splits.hash_distance": None,
    "adapt_domain.enabled": True,
    "train_conformal_risk.enabled": True,
    "splits.train_only": [],
    "model.heads": {"day": {"column": "daytime", "classes": ["day", "night"]}},
}
ALWAYS = {"screen", "publish"}


class Ran(Silence):
    """Remembers which stages ran."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def stage(self, name: str, state: str) -> None:
        if state == "running":
            self.names.append(name)


@dataclass
class Home:
    """A workspace with a finished night."""

    place: Path
    data: Path
    splits: Splits
    ran: Ran = field(default_factory=Ran)

    def pipeline(self, changes: dict[str, Any] | None = None) -> Pipeline[RunConfig, Any]:
        config = load_config("tiny", None, ON | (changes or {}))
        data = with_contents(read_dataset(self.data), self.place / "w")
        store = Store(self.place / "s")
        return Pipeline(stand_in_stages(config), self.place / "w", store, data, config, lambda: NOW, self.ran)

    def row(self, name: str) -> str:
        return self.splits.sets[name].ids[0]  # type: ignore[index]

    def edit(self, change: Callable[[list[dict[str, str]]], None]) -> None:
        path = self.data / "labels.csv"
        with path.open() as handle:
            rows = list(csv.DictReader(handle))
        names = list(rows[0])
        change(rows)
        with path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, names)
            writer.writeheader()
            writer.writerows(rows)

    def set_cell(self, row: str, column: str, value: Callable[[str], str]) -> None:
        def change(rows: list[dict[str, str]]) -> None:
            [found] = [one for one in rows if one["image"] == row]
            found[column] = value(found[column])

        self.edit(change)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished night."""
    home = tmp_path_factory.mktemp("finished")
    list(write_scenes(home / "data", scenes=SCENES))
    Home(home, home / "data", only(Splits, {})).pipeline().run()
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Home:
    """The same night, to be changed."""
    shutil.copytree(finished, tmp_path / "home")
    [splits] = (finished / "w" / "runs").glob("*/splits.json")
    return Home(tmp_path / "home", tmp_path / "home" / "data", Splits.read(splits))


def test_a_result_of_an_older_program_is_called_so(home: Home) -> None:
    [manifest] = (home.place / "w" / "stages" / "export").glob(f"*/{MANIFEST}")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema_version": 1}))
    [export] = [one for one in plan(home.pipeline()) if one.stage == "export"]
    assert export.why == ("its last result is of an older program, or damaged",)


def agree(home: Home, changes: dict[str, Any] | None = None, choice: Choice = EVERYTHING) -> set[str]:
    """Plan, then run, and make sure that the one names what the other does; returns what ran but for every night."""
    before = sorted(path for path in (home.place / "w").rglob("*") if path.name != "contents.json")
    planned = plan(home.pipeline(changes), choice)
    assert sorted(path for path in (home.place / "w").rglob("*") if path.name != "contents.json") == before
    home.pipeline(changes).run(choice)
    assert {one.stage for one in planned if one.runs} == set(home.ran.names), plan_words(planned)
    assert all(one.why for one in planned if one.runs)
    return set(home.ran.names) - ALWAYS


CALIBRATE = {"calibrate_scrc", "eval_selective"}
COMPARE = {"compare_training"}
EXPORT = {"export", *CALIBRATE}
CONFORMAL = {"train_conformal_risk", "train_ablations", *COMPARE, *EXPORT}
TRAIN = {"train_supervised", *CONFORMAL}
ADAPT = {"adapt_domain", *TRAIN}


@pytest.mark.parametrize(
    ("changes", "follow"),
    [
        ({"seed": 5}, ADAPT),
        ({"preset": "mine"}, set()),
        ({"preprocess.size_px": 96}, ADAPT),
        ({"preflight.most_left_out": 0.2}, {"splits"}),
        ({"splits.seed": 4}, {"splits"}),
        ({"model.rank": 4}, TRAIN),
        ({"model.pooling": "mean"}, ADAPT),
        ({"adapt_domain.epochs": 3}, ADAPT),
        ({"learn.folds": 3}, set()),
        ({"train_supervised.epochs": 5}, TRAIN),
        ({"train_conformal_risk.steps": 7}, CONFORMAL),
        ({"compare_training.repetitions": 7}, COMPARE),
        ({"compare_training.baseline": False}, {"train_ablations", *COMPARE}),
        ({"engine.precision": "int8"}, EXPORT),
        ({"compile.refittable": True}, set()),
        ({"calibrate_scrc.delta": 0.2}, {*CALIBRATE, "compare_training"}),
        ({"calibrate_scrc.alpha": 0.04}, TRAIN),
        ({"eval_selective.cell_rows": 3}, {"eval_selective"}),
        ({"gate.keep": 3}, set()),
        ({"model_card.name": "mine"}, set()),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_a_setting_runs_what_reads_it_and_the_plan_says_so(
    home: Home, changes: dict[str, Any], follow: set[str]
) -> None:
    assert agree(home, changes) == follow


def test_every_section_of_the_settings_is_touched() -> None:
    touched = {
        path.partition(".")[0]
        for mark in test_a_setting_runs_what_reads_it_and_the_plan_says_so.pytestmark
        for changes, _ in mark.args[1]
        for path in changes
    }
    assert touched == set(RunConfig.model_fields) - {"schema_version"}


def test_nothing_that_changed_runs_nothing(home: Home) -> None:
    assert agree(home) == set()


@pytest.mark.parametrize(
    ("where", "column", "follow"),
    [
        ("train", "label", ADAPT),
        ("val_select", "label", ADAPT),
        ("val_calib", "label", CALIBRATE),
        ("test", "label", COMPARE | {"eval_selective"}),
        ("train", "weather", set()),
        ("val_calib", "weather", set()),
        ("test", "weather", {"eval_selective"}),
        ("train", "source", set()),
        ("test", "source", {"eval_selective"}),
    ],
)
def test_a_cell_runs_what_reads_it(home: Home, where: str, column: str, follow: set[str]) -> None:
    other = {"label": lambda old: str(1 - int(old)), "weather": lambda old: "snow" if old != "snow" else "rain"}
    home.set_cell(home.row(where), column, other.get(column, lambda _: "elsewhere"))
    ran = agree(home)
    assert "splits" in ran
    assert ran - {"splits"} == follow


@pytest.mark.parametrize("where", ["train", "val_select", "val_calib", "test"])
def test_a_picture_of_the_same_size_and_the_same_time_is_another_one(home: Home, where: str) -> None:
    path = home.data / home.row(where)
    before = path.stat()
    content = bytearray(path.read_bytes())
    # The density in the header: another file that shows the same.
    content[15] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    ran = agree(home)
    assert "splits" in ran
    # A picture that certifies or reports is looked at by an adaptation, which leaves out what looks like it.
    assert "adapt_domain" in ran


def test_a_new_row_that_trains_runs_the_trainings(home: Home) -> None:
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 160, 3), np.uint8)).save(home.data / "new.jpg")
    group = next(one.group for one in read_dataset(home.data).rows if one.image == home.row("train"))
    new = {"image": "new.jpg", "label": "0", "group": group, "daytime": "day"}
    home.edit(lambda rows: rows.append({name: new.get(name, "") for name in rows[0]}))
    assert agree(home) == {"splits", *ADAPT}


def test_a_row_of_test_that_goes_trains_no_model_again(home: Home) -> None:
    gone = home.row("test")
    home.edit(lambda rows: rows.remove(next(one for one in rows if one["image"] == gone)))
    ran = agree(home, {"adapt_domain.enabled": False})
    assert "splits" in ran


@pytest.mark.parametrize("name", ["splits", "train_conformal_risk", "export", "calibrate_scrc"])
def test_a_forced_stage_runs_and_what_does_not_change_does_not(home: Home, name: str) -> None:
    assert agree(home, choice=Choice(again=name)) == {name}


def test_from_a_stage_on_everything_that_depends_on_it_runs(home: Home) -> None:
    assert agree(home, choice=Choice(start="export")) == EXPORT
    home.ran.names.clear()
    assert agree(home, choice=Choice(start="train_supervised", until="export")) == {
        "train_supervised",
        "train_conformal_risk",
        "export",
    }


def test_what_only_follows_is_told_apart_and_spared_where_nothing_changes(home: Home) -> None:
    """Trained heads that are not kept, for example, are the heads from before."""
    changes = {"train_conformal_risk.steps": 7}
    planned = {one.stage: one for one in plan(home.pipeline(changes))}
    assert not planned["train_conformal_risk"].follows
    assert planned["export"].follows
    assert str(planned["export"]).startswith("export               follows, about 0 s: it reads what")
    same = home.pipeline(changes)
    kept = next((home.place / "w" / "stages" / "train_conformal_risk").iterdir())

    def writes_the_same(context: StageContext[Any, Any]) -> None:
        for path in kept.iterdir():
            if path.name != MANIFEST:
                shutil.copyfile(path, context.out / path.name)

    same.stages = [
        replace(one, run=writes_the_same) if one.name == "train_conformal_risk" else one for one in same.stages
    ]
    same.run()
    assert set(home.ran.names) <= {one.stage for one in planned.values() if one.runs}
    assert "export" not in home.ran.names


def test_the_first_night_runs_everything(home: Home) -> None:
    shutil.rmtree(home.place / "w")
    (home.place / "w").mkdir()
    planned = plan(home.pipeline())
    assert all(one.runs for one in planned)
    assert "never ran before" in plan_words(planned)


def test_a_plan_says_what_changed_since_which_run_and_how_long_it_took(home: Home) -> None:
    [run] = (home.place / "w" / "runs").iterdir()
    words = plan_words(plan(home.pipeline({"calibrate_scrc.delta": 0.2})))
    [line] = [line for line in words.splitlines() if line.startswith("calibrate_scrc")]
    assert "setting calibrate_scrc.delta: 0.1 -> 0.2" in line
    assert f"since run {run.name}, 2026-01-01T00:00:00+00:00" in line
    assert "about 0 s" in line
    assert words.splitlines()[-1].startswith("5 of 12 stages would run: about 0 s by past runs")
