"""A night that was not finished is finished on the rows that it began with, before new rows are looked at."""

from __future__ import annotations

import errno
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

import offline.night
from engines.errors import StoreError
from offline.config import RunConfig, load_config
from offline.data.sources.synthetic_streets import write_scenes
from offline.errors import DatasetError, TrainingError, TrainingInterrupted
from offline.night import NightOutcome, plan_night
from offline.pipeline.choice import EVERYTHING, Choice
from offline.pipeline.progress import Silence
from offline.unfinished_night import FILE, MOST_STARTS, read_unfinished
from stage1.settings import override
from tests.support.stand_ins import stand_in_stages

NOW = datetime(2026, 1, 1, 3, 30, tzinfo=UTC)
CONFIG = load_config("tiny", None, {"splits.hash_distance": None})


class Stops(Silence):
    """Ends the process, as it were, in a stage; remembers which stages ran on how many rows."""

    def __init__(self, at: str = "", error: type[BaseException] = TrainingInterrupted) -> None:
        self.at, self.error = at, error
        self.ran: list[str] = []

    def stage(self, name: str, state: str) -> None:
        if state == "running":
            self.ran.append(name)
            if name == self.at:
                raise self.error("the night is over")


class Home:
    """Data that grow, and a workspace."""

    def __init__(self, place: Path, scenes: Path) -> None:
        self.place, self.data = place, place / "data"
        shutil.copytree(scenes, self.data)
        self.notes: list[str] = []

    def night(self, told: Stops, config: RunConfig = CONFIG, choice: Choice = EVERYTHING) -> list[str]:
        self.notes.clear()
        offline.night.run_night(
            self.data,
            workspace=self.place / "w",
            store=self.place / "s",
            config=config,
            progress=told,
            now=lambda: NOW,
            on_note=self.notes.append,
            choice=choice,
        )
        return told.ran

    def killed(self, at: str = "train_supervised", error: type[BaseException] = TrainingInterrupted) -> None:
        with pytest.raises(error, match="the night is over"):
            self.night(Stops(at, error))

    def grow(self) -> None:
        path = self.data / "labels.csv"
        head, first, *rest = path.read_text().splitlines()
        old = first.split(",")[head.split(",").index("image")]
        new = f"new{len(rest)}.jpg"
        shutil.copyfile(self.data / old, self.data / new)
        with (self.data / new).open("ab") as handle:
            handle.write(b"\0")
        path.write_text("\n".join([head, first, *rest, first.replace(old, new)]) + "\n")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scenes") / "data"
    list(write_scenes(place, scenes=120))
    return place


@pytest.fixture
def home(tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(offline.night, "stages", lambda: stand_in_stages(CONFIG))
    # Stand-ins publish nothing that could be read.
    monkeypatch.setattr(offline.night._Night, "outcome", lambda _, run: NightOutcome(run, "publish"))
    monkeypatch.setattr(offline.night._Night, "_on_done", lambda *_: None)
    return Home(tmp_path, scenes)


def test_a_row_every_day_does_not_keep_a_long_training_from_its_end(home: Home) -> None:
    home.killed()
    before = read_unfinished(home.place / "w")
    assert before is not None
    home.grow()
    ran = home.night(Stops())
    # The training that was under way goes on under its own key, and then the new row has a night of its own.
    assert ran[0] == "train_supervised"
    assert ran.count("train_supervised") == ran.count("publish") == 2
    assert ran.index("publish") < ran.index("splits")
    [note] = home.notes
    assert "the night of 2026-01-01T03:30:00+00:00, which was begun once and not finished, is finished first" in note
    assert f"on the {len(before.rows)} rows that it began with" in note
    assert f"then come the {len(before.rows) + 1} rows" in note
    assert not (home.place / "w" / FILE).exists()
    assert home.night(Stops()) == ["screen", "publish"]


def test_one_with_a_missing_image_is_finished_as_the_night_that_it_was(home: Home) -> None:
    max((home.data / "images").glob("*.jpg")).unlink()
    home.killed()
    before = read_unfinished(home.place / "w")
    home.grow()
    home.killed()
    after = read_unfinished(home.place / "w")
    assert before is not None
    assert after is not None
    assert (after.data_sha256, after.starts) == (before.data_sha256, 2)


def test_the_plan_names_both(home: Home) -> None:
    home.killed()
    home.grow()
    notes: list[str] = []
    planned = plan_night(
        home.data, workspace=home.place / "w", store=home.place / "s", config=CONFIG, on_note=notes.append
    )
    assert [one.stage for one in planned].count("train_supervised") == 2
    assert [one.runs for one in planned if one.stage == "splits"] == [False, True]
    assert "is finished first" in notes[0]


def test_a_night_that_is_begun_too_often_is_given_up(home: Home) -> None:
    home.killed()
    for _ in range(MOST_STARTS - 1):
        home.grow()
        home.killed()
    night = read_unfinished(home.place / "w")
    assert night is not None
    assert night.starts == MOST_STARTS
    home.grow()
    ran = home.night(Stops())
    assert "which was begun 7 times and not finished, is given up, and this night begins with new rows" in home.notes[0]
    assert ran[0] == "splits"
    assert ran.count("train_supervised") == 1


@pytest.mark.parametrize("what", ["settings", "picture"])
def test_a_night_that_cannot_be_finished_is_given_up_with_its_reason(home: Home, what: str) -> None:
    home.killed()
    home.grow()
    config = CONFIG
    if what == "settings":
        config = override(CONFIG, {"train_supervised.epochs": 2})
    else:
        min((home.data / "images").glob("*.jpg")).unlink()
    home.night(Stops(), config)
    told = "the settings are others now" if what == "settings" else "1 of its pictures are gone or others now"
    assert f"is given up, because {told}" in home.notes[0]


def test_a_mistake_in_the_data_is_not_met_again(home: Home) -> None:
    home.killed(error=DatasetError)
    home.grow()
    assert home.night(Stops()).count("train_supervised") == 1
    assert home.notes == []


class NoRoom(TrainingError):
    """As whoever cannot write says it."""

    def __init__(self, told: str) -> None:
        super().__init__(told)
        self.__cause__ = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [NoRoom, StoreError])
def test_a_full_disk_or_a_store_that_is_in_use_is_no_mistake_in_the_data(
    home: Home, error: type[BaseException]
) -> None:
    home.killed("publish", error=error)
    home.grow()
    assert home.night(Stops())[:2] == ["screen", "publish"]
    assert "is finished first" in home.notes[0]


def test_a_night_that_had_only_begun_is_not_finished_first(home: Home) -> None:
    home.killed("splits")
    home.grow()
    assert home.night(Stops()).count("splits") == 1


def test_a_part_of_a_night_ends_nothing(home: Home) -> None:
    home.killed()
    home.grow()
    assert home.night(Stops(), choice=Choice(until="splits")) == ["splits"]
    assert (home.place / "w" / FILE).exists()
