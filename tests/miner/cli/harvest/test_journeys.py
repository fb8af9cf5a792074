"""Odd ways of a file of labels back into the harvest: each ends with a clear sentence, and with a whole state."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from miner.harvest.given_labels import read_labels
from miner.harvest.kept_image import KeptImage
from miner.harvest.store import HarvestStore
from offline.data.sources.source import read_dataset
from tests.miner.cli.harvest.test_commands import run
from tests.miner.harvest.test_harvest import kept, random_one, store_in

RANDOM, PICKED = 6, 4


def picture_of(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (20 * number % 256, 90, 10)).save(file, "PNG")
    return file.getvalue()


def with_picture(make: Callable[..., KeptImage], number: int, **changes: Any) -> KeptImage:
    content = picture_of(number)
    sha256 = hashlib.sha256(content).hexdigest()
    return make(number, sha256=sha256, size=len(content), suffix=".png", **changes)


class Home:
    """A store of some random draws of one week and some that were picked, and where things go."""

    def __init__(self, home: Path, random: int = RANDOM, picked: int = PICKED) -> None:
        self.home, self.state, self.data = home, home / "state", home / "data"
        self.store = store_in(self.state / "harvest")
        self.random = [with_picture(random_one, number) for number in range(random)]
        self.picked = [with_picture(kept, number) for number in range(random, random + picked)]
        for number, image in enumerate((*self.random, *self.picked)):
            self.store.keep(image, picture_of(number))

    @property
    def names(self) -> list[str]:
        return [one.sha256 for one in (*self.random, *self.picked)]

    def list_of(self, names: list[str], name: str = "labels.csv", end: str = "\n", head: bytes = b"") -> Path:
        """A list in which every second picture shows roadwork."""
        rows = [f"images/{one}.png,{number % 2}" for number, one in enumerate(names)]
        path = self.home / name
        path.write_bytes(head + (end.join(["image,label", *rows]) + end).encode())
        return path

    def take(self, file: Path, *more: str) -> tuple[int, str]:
        return run(self.state, "import", str(file), "--data", str(self.data), *more)

    def labels(self) -> dict[str, int]:
        return dict(read_labels(self.state / "harvest"))

    def judging(self) -> set[str]:
        """Hashes of the pictures that may be in a set that certifies."""
        if not (self.data / "sources.toml").exists():
            return set()
        return {Path(row.image).stem for row in read_dataset(self.data).rows if not row.train_only}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.mark.parametrize(("end", "head"), [("\r\n", b""), ("\n", b"\xef\xbb\xbf"), ("\r\n", b"\xef\xbb\xbf")])
def test_what_editors_do_to_a_list_changes_nothing(home: Home, end: str, head: bytes) -> None:
    status, told = home.take(home.list_of(home.names, end=end, head=head))
    assert status == 0, told
    assert "10 labels" in told
    assert home.judging() == {one.sha256 for one in home.random}


def test_what_spreadsheets_and_pandas_do_to_a_list_changes_nothing(home: Home) -> None:
    rows = [f"images\\{one}.png;{number % 2}.0" for number, one in enumerate(home.names)]
    (home.home / "labels.csv").write_text("\r\n".join(["sep=;", "Image;Label", *rows]), encoding="utf-16")
    status, told = home.take(home.home / "labels.csv")
    assert status == 0, told
    assert "10 labels" in told


def test_a_part_of_the_file_of_another_miner_is_left_out_and_all_of_it_is_refused(home: Home) -> None:
    status, told = home.take(home.list_of([*home.names, "a" * 64, "b" * 64]))
    assert status == 0, told
    assert "2 labels of pictures that are not known here were left out" in told
    assert home.labels().keys() == set(home.names)
    status, told = home.take(home.list_of(["a" * 64, "b" * 64]))
    assert status == 2
    assert "none of its 2 labelled pictures is known here" in told
    assert "another miner" in told


def test_a_picture_that_is_listed_twice_is_one_and_one_that_is_both_is_none(home: Home) -> None:
    file = home.list_of([*home.names, *home.names[:4]])
    file.write_text(file.read_text() + f"images/{home.names[0]}.png,1\n")
    status, told = home.take(file)
    assert status == 0, told
    assert "9 labels" in told
    assert "1 pictures are labelled differently by two people" in told
    assert "0 images for any set, 4 for training alone; 5 wait" in told, "a week that lacks one is no whole week"
    assert home.judging() == set()


def test_half_of_a_draw_waits_and_the_other_half_makes_it_whole(home: Home) -> None:
    half = [one.sha256 for one in home.random[:3]]
    status, told = home.take(home.list_of([*half, *(one.sha256 for one in home.picked)]))
    assert status == 0, told
    assert "3 wait" in told
    assert home.judging() == set()
    status, told = home.take(home.list_of([one.sha256 for one in home.random[3:]]))
    assert status == 0, told
    assert home.judging() == {one.sha256 for one in home.random}


def test_a_file_without_a_label_is_refused(home: Home) -> None:
    file = home.home / "labels.csv"
    file.write_text("image,label\n" + "".join(f"images/{one}.png,\n" for one in home.names))
    status, told = home.take(file)
    assert status == 2
    assert "no picture in it has a label: 10 have none" in told
    assert not home.data.exists()


def test_labels_of_pictures_that_were_removed_since_find_them_in_the_export(home: Home) -> None:
    assert run(home.state, "export", str(home.home / "out"))[0] == 0
    elsewhere = home.list_of(home.names)
    shutil.move(home.home / "out", home.home / "kept")
    store = store_in(home.state / "harvest", most_bytes=3 * home.random[0].size)
    for number in (50, 51):
        store.keep(with_picture(kept, number), picture_of(number))
    assert sum(one.gone for one in store.images.values()) >= 8
    status, told = home.take(elsewhere)
    assert status == 0, told
    assert "are of pictures that were removed to make room" in told
    status, told = home.take(elsewhere, "--pictures", str(home.home / "kept"))
    assert status == 0, told
    assert "6 images for any set, 4 for training alone" in told
    assert home.judging() == {one.sha256 for one in home.random}
    # They stay when the export is gone too.
    shutil.rmtree(home.home / "kept")
    status, told = home.take(elsewhere)
    assert "6 images for any set, 4 for training alone" in told
    assert "removed" not in told


def test_a_week_whose_pictures_are_not_all_there_certifies_nothing(home: Home) -> None:
    """Which of them had to make room depends on what they show."""
    assert run(home.state, "export", str(home.home / "kept"))[0] == 0
    lost = home.random[2]
    with (home.state / "harvest" / "index.jsonl").open("a") as index:
        index.write(lost.model_copy(update={"gone": True}).model_dump_json() + "\n")
    home.store.path(lost).unlink()
    file = home.list_of(home.names)
    status, told = home.take(file)
    assert status == 0, told
    assert "0 images for any set, 4 for training alone; 5 wait" in told
    assert "1 labels are of pictures that were removed to make room" in told
    assert home.judging() == set()
    assert "6 images for any set" in home.take(file, "--pictures", str(home.home / "kept"))[1]
    assert home.judging() == {one.sha256 for one in home.random}


def test_a_picture_of_the_place_of_a_draw_that_waits_does_not_train_before_it(home: Home) -> None:
    """It would tie the place to training, and draws of easier places would be left to certify."""
    beside = with_picture(kept, 20, site=home.random[5].site)
    home.store.keep(beside, picture_of(20))
    status, told = home.take(home.list_of([home.picked[0].sha256, beside.sha256]))
    assert status == 0, told
    assert "0 images for any set, 1 for training alone; 1 wait" in told
    status, told = home.take(home.list_of([one.sha256 for one in home.random]))
    assert status == 0, told
    assert "6 images for any set, 2 for training alone; 0 wait" in told


def test_a_picture_that_is_not_what_its_name_says_is_not_used(home: Home) -> None:
    home.store.path(home.picked[0]).write_bytes(b"cut sh")
    home.store.path(home.picked[1]).unlink()
    status, told = home.take(home.list_of(home.names))
    assert status == 0, told
    assert "6 images for any set, 2 for training alone" in told
    assert "2 labels are of pictures that were removed" in told


def test_a_directory_with_data_of_its_own_is_not_written_over(home: Home) -> None:
    home.data.mkdir()
    (home.data / "labels.csv").write_text("image,label\n")
    status, told = home.take(home.list_of(home.names))
    assert status == 2
    assert "has a labels.csv of its own" in told
    (home.data / "labels.csv").unlink()
    (home.data / "sources.toml").write_text("[[source]]\nkind = 'folder'\npath = 'mine'\n")
    status, told = home.take(home.list_of(home.names))
    assert status == 2
    assert "somebody else wrote" in told
    assert home.labels() == {}


def test_an_export_does_not_write_over_labels(home: Home) -> None:
    out = home.home / "out"
    assert run(home.state, "export", str(out))[0] == 0
    status, told = run(home.state, "export", str(out))
    assert status == 2
    assert "perhaps with labels in it" in told


def test_a_long_list_is_read(home: Home) -> None:
    many = [f"{number:064x}" for number in range(20_000)]
    status, told = home.take(home.list_of([*home.names, *many]))
    assert status == 0, told
    assert "20000 labels of pictures that are not known here" in told


class KilledError(BaseException):
    """The process ended here."""


@pytest.mark.parametrize(("fault", "step"), [("killed", 1), ("full", 3)])
def test_an_import_that_ends_anywhere_leaves_all_or_nothing_and_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, step: int
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    replace, at, ended = Path.replace, [0], 0

    def failing(self: Path, target: Path) -> Path:
        at[0] -= 1
        if at[0] == 0:
            raise KilledError if fault == "killed" else OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    for number in range(1, 100, step):
        home = Home(tmp_path / str(number), random=3, picked=2)
        assert home.take(home.list_of([one.sha256 for one in home.random[:1]]))[0] == 0
        at[0] = number
        monkeypatch.setattr(Path, "replace", failing)
        try:
            status, told = home.take(home.list_of(home.names))
        except KilledError:
            status, told = 1, "cannot be written (No space left on device); killed"
        monkeypatch.setattr(Path, "replace", replace)
        if status == 0:
            break
        ended += 1
        assert "cannot be written (No space left on device); " in " ".join(told.split())
        assert len(home.labels()) in {1, len(home.names)}, "all of them or none"
        found = home.judging()
        assert found in (set(), {one.sha256 for one in home.random}), "a whole draw or nothing of it"
        status, told = home.take(home.list_of(home.names))
        assert status == 0, told
        assert home.judging() == {one.sha256 for one in home.random}
        assert not list(home.data.rglob("*.partial"))
    assert ended >= 8 // step


def test_conflicting_people_in_two_tools_are_settled_by_the_last(home: Home) -> None:
    home.take(home.list_of(home.names))
    tasks = [
        {"data": {"image": f"/data/upload/1/abcdef12-{home.names[0]}.png"}, "annotations": [chosen("roadwork")]},
        {"data": {"image": f"/data/upload/1/abcdef12-{home.names[1]}.png"}, "annotations": [chosen("roadwork")]},
    ]
    (home.home / "p.json").write_text(json.dumps(tasks))
    status, told = home.take(home.home / "p.json")
    assert status == 0, told
    assert "2 labels, 1 of them other than before" in told
    assert home.labels()[home.names[0]] == 1


def chosen(word: str) -> dict[str, object]:
    return {"result": [{"type": "choices", "value": {"choices": [word]}}]}


def test_a_store_that_a_miner_writes_to_is_read_while_it_does(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the index and the copy, the miner makes room."""
    path_of = HarvestStore.path

    def gone(self: HarvestStore, image: KeptImage) -> Path:
        path = path_of(self, image)
        if image.sha256 == home.names[7]:
            path.unlink(missing_ok=True)
        return path

    monkeypatch.setattr(HarvestStore, "path", gone)
    status, told = run(home.state, "export", str(home.home / "out"))
    assert status == 0, told
    assert "9 pictures" in told


def test_what_a_person_said_of_an_audit_is_a_label_too(home: Home) -> None:
    stream = home.state / "live_risk" / "streams" / ("c" * 16)
    stream.mkdir(parents=True)
    drawn: dict[str, object] = {
        "kind": "drawn",
        "at": "2026-03-02T12:00:00Z",
        "request_id": "r",
        "hotkey": "validator",
        "picture": None,
        "site": 1,
        "exit_label": 0,
        "score": -3.0,
        "select_score": 1.0,
        "probability": 0.1,
        "share": 0.3,
        "drawn": 0.1,
        "label_share": 0.0,
        "label_drawn": False,
        "theta": 0.0,
        "bundle": "b",
    }
    events: list[dict[str, object]] = [
        drawn | {"number": 1, "image_sha256": home.picked[0].sha256},
        drawn | {"number": 2, "image_sha256": home.picked[1].sha256},
        {"kind": "labelled", "number": 1, "at": "2026-03-02T13:00:00Z", "label": 1, "by": "person"},
        {"kind": "labelled", "number": 2, "at": "2026-03-02T13:00:00Z", "label": 1, "by": "second_model"},
    ]
    (stream / "audits.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    assert "1 are labelled" in run(home.state, "stats")[1]
    status, told = run(home.state, "import", "--data", str(home.data))
    assert status == 0, told
    assert "0 images for any set, 1 for training alone; 0 wait" in told
    # The audits of a certificate are removed one day.
    shutil.rmtree(stream)
    assert (
        "0 images for any set, 1 for training alone; 0 wait" in run(home.state, "import", "--data", str(home.data))[1]
    )
    # An import counts for more.
    status, told = home.take(home.list_of([home.picked[0].sha256]))
    assert "1 labels, 1 of them other than before" in told


def test_without_a_file_and_without_a_label_there_is_nothing_to_write(home: Home) -> None:
    status, told = run(home.state, "import", "--data", str(home.data))
    assert status == 2
    assert "there is no label yet" in told
    assert not home.data.exists()


def test_where_another_version_has_drawn_too_no_week_is_taken_for_whole(home: Home) -> None:
    with (home.state / "harvest" / "index.jsonl").open("a") as file:
        file.write(json.dumps({"sha256": "a" * 64, "week": "2026-W10", "weather": "rain"}) + "\n")
    status, told = home.take(home.list_of(home.names))
    assert status == 2
    assert "1 lines are of another version" in told
    assert home.labels() == {}
