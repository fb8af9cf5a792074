"""What somebody who sends on purpose can make of the harvest: no more than its limits, in pictures, rows and places."""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miner.answering.record import SeenImage
from miner.harvest.given_labels import add_labels
from miner.harvest.harvest import Harvest
from miner.harvest.kept_image import broken_weeks, whole_weeks
from miner.harvest.settings import HarvestSettings
from miner.harvest.store import INDEX, HarvestStore, Limits, read_index
from stage1.decisions import Action
from stage1.monitor.audit import ExitLabel
from tests.miner.harvest.test_harvest import NOON, SECRET, kept, random_one, seen, store_in

DEFERRED = Action.DEFER


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of files are written here, and no power is cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def harvest_in(home: Path, **settings: Any) -> Harvest:
    return Harvest(home, HarvestSettings(enabled=True, **settings), secret=SECRET)


def again(one: SeenImage, number: int, *, seconds: float = 1.0, other_bytes: bool = False) -> SeenImage:
    """The same picture, sent once more."""
    content = one.content + b" %d" % number if other_bytes else one.content
    changes = {"request_id": f"again{number}", "at": one.record.at + timedelta(seconds=seconds * number)}
    sha256 = hashlib.sha256(content).hexdigest()
    record = one.record.model_copy(update={**changes, "image_sha256": sha256})
    return SeenImage(record, content, one.pixels, one.params)


def lines_of(home: Path) -> int:
    return (home / INDEX).read_bytes().count(b"\n")


def append(home: Path, content: bytes) -> None:
    with (home / INDEX).open("ab") as file:
        file.write(content)


def test_one_picture_a_thousand_times_is_one_picture(tmp_path: Path) -> None:
    harvest = harvest_in(tmp_path, random_share=0.1)
    for number in range(1000):
        harvest.take(again(seen(1, DEFERRED), number))
    assert harvest.status()["pictures"] == 1
    assert lines_of(tmp_path) <= 2, "once for why it was picked, once for the draw"


def test_one_picture_in_ever_new_bytes_is_few(tmp_path: Path) -> None:
    harvest = harvest_in(tmp_path, random_share=0.1, random_per_place=5)
    for number in range(1000):
        harvest.take(again(seen(1, DEFERRED), number, other_bytes=True))
    images = harvest.store.images.values()
    assert sum(not one.week for one in images) == 1, "what shows the same is picked once"
    assert sum(bool(one.week) for one in images) == 5
    assert lines_of(tmp_path) < 120
    assert len(list((tmp_path / "images").glob("*/*"))) == 6


def test_a_place_that_floods_keeps_others_in(tmp_path: Path) -> None:
    harvest = harvest_in(tmp_path, random_share=1.0, random_per_place=4, per_place=2, max_pictures=40)
    for number in range(10):
        harvest.take(seen(number, hotkey=f"other{number}"))
    rng = np.random.default_rng(0)
    for number in range(300):
        flood = again(seen(1000, DEFERRED), number, seconds=0.1, other_bytes=True)
        pixels = rng.integers(0, 256, (3, 32, 32), dtype=np.uint8)
        harvest.take(SeenImage(flood.record, flood.content, pixels, flood.params))
    there = [one for one in harvest.store.images.values() if not one.gone]
    assert sum(one.hotkey.startswith("other") for one in there) == 10
    assert len(there) == 14


def test_the_draws_of_a_place_that_stay_are_a_random_part_of_all(tmp_path: Path) -> None:
    """Neither the first nor the last ones, and whatever they show."""
    places = []
    for seed in range(12):
        harvest = Harvest(
            tmp_path / str(seed),
            HarvestSettings(enabled=True, random_share=1.0, random_per_place=3),
            secret=bytes([seed]) * 16,
        )
        for number in range(16):
            harvest.take(again(seen(1), number, other_bytes=True))
        images = harvest.store.images.values()
        assert len(images) == 3
        places += [int(one.request_id.removeprefix("again")) for one in images]
    assert 5.5 < np.mean(places) < 9.5
    assert min(places) < 3
    assert max(places) > 12


def test_a_label_keeps_no_draw_in_the_place_of_one_with_a_lower_number(tmp_path: Path) -> None:
    """People label in the week itself what an audit or Stage-2 has told of, so it is no random part of the draws."""
    number_of = {random_one(number).sha256: float(number) for number in range(3)}
    limits = Limits(size=1000, random_per_place=1)
    store = HarvestStore(tmp_path, limits, rank=lambda image: number_of[image.sha256])
    store.keep(random_one(1, site=1).model_copy(update={"reasons": ("random", "audited")}), b"x")
    add_labels(tmp_path, {random_one(1).sha256: 1}, NOON)
    assert store.keep(random_one(0, site=1), b"x")
    assert not store.keep(random_one(2, site=1), b"x")
    there = {one.request_id: (one.week, one.reasons, one.gone) for one in read_index(tmp_path).values()}
    assert there == {"r0": ("2026-W10", ("random",), False), "r1": ("", ("audited",), False)}


def test_tiny_pictures_are_bounded_by_their_number_and_the_index_by_its_lines(tmp_path: Path) -> None:
    home = tmp_path / "store"
    store = store_in(home, pictures=20)
    for number in range(40):
        store.keep(kept(number, site=number), b"x")
        store.keep(random_one(1000 + number, site=number), b"x")
    assert store.number <= 20
    assert len(store.images) <= 20 + 20 + 1
    assert len(store_in(home, pictures=20).images) == len(store.images)
    assert lines_of(home) == len(store.images), "a start writes it anew"


def test_lines_of_what_is_gone_are_written_anew_while_the_miner_runs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("miner.harvest.store.MOST_STALE", 20)
    store = store_in(tmp_path, pictures=10)
    for number in range(60):
        store.keep(kept(number, site=number), b"x")
    assert lines_of(tmp_path) < 50


def test_a_week_whose_draws_are_forgotten_is_never_whole(tmp_path: Path) -> None:
    store = store_in(tmp_path, pictures=5)
    for number in range(30):
        store.keep(random_one(number, week="2026-W10" if number < 15 else "2026-W11"), b"x")
    images = read_index(tmp_path).values()
    labels: dict[str, ExitLabel] = {one.sha256: 1 for one in images if one.size}
    late = (NOON + timedelta(days=30)).date()
    assert "2026-W10" in broken_weeks(images, labels)
    assert whole_weeks(images, labels, late) == set()


def test_what_has_a_label_stays_known_when_its_picture_is_gone(tmp_path: Path) -> None:
    store = store_in(tmp_path, pictures=5)
    store.keep(random_one(0), b"x")
    store.keep(kept(1), b"x")
    labels: dict[str, ExitLabel] = {random_one(0).sha256: 1, kept(1).sha256: 0}
    add_labels(tmp_path, labels, NOON)
    for number in range(2, 30):
        store.keep(kept(number, site=number), b"x")
    assert labels.keys() <= read_index(tmp_path).keys()


def test_places_go_on_where_they_were_after_a_restart(tmp_path: Path) -> None:
    first = harvest_in(tmp_path, random_share=0.0)
    first.take(seen(1, DEFERRED))
    second = harvest_in(tmp_path, random_share=0.0)
    assert not second.take(again(seen(1, DEFERRED), 1, seconds=3600, other_bytes=True)), "it shows the same"
    second.take(again(seen(2, DEFERRED), 1, seconds=86_400))
    assert [one.site for one in second.store.images.values()] == [1, 2]


def test_a_draw_whose_picture_a_failing_disk_has_lost_is_gone_and_its_week_only_trains(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.keep(random_one(1), b"x")
    store.keep(random_one(2), b"x")
    store.path(random_one(1)).unlink()
    again = store_in(tmp_path)
    assert again.number == 1
    assert broken_weeks(read_index(tmp_path).values(), {random_one(2).sha256: 1}) == {"2026-W10"}


def test_what_a_killed_process_left_is_removed_and_what_another_version_wrote_is_not(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.keep(kept(1), b"x")
    stray = store.path(kept(2))
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"no line was written for it")
    append(tmp_path, b'{"sha256": "cut sho')
    store_in(tmp_path)
    assert not stray.exists()
    assert store.path(kept(1)).exists()
    stray.write_bytes(b"of another version")
    append(tmp_path, b'{"sha256": "%s", "colour": "blue"}\n' % (b"a" * 64))
    store_in(tmp_path)
    assert stray.exists()
    assert b"colour" in (tmp_path / INDEX).read_bytes()
    assert len(read_index(tmp_path)) == 1
