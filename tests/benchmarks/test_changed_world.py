"""The calendar runs fast, and what people give back is what the commands take."""

from __future__ import annotations

import csv
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.changed_world.calendar import Calendar
from benchmarks.changed_world.people import annotate, fill_audits
from benchmarks.changed_world.scenes import World, verdict
from miner.cli.harvest.label_files import read_label_file

MONDAY = datetime(2026, 3, 2, 8, tzinfo=UTC)


def world_of(directory: Path, *pictures: tuple[bytes, int]) -> World:
    """A world of some pictures, each in a file named by its hash."""
    world = World()
    directory.mkdir(parents=True)
    for content, label in pictures:
        name = hashlib.sha256(content).hexdigest()
        world.truth[name] = label
        (directory / f"{name}.jpg").write_bytes(content)
    return world


def test_a_day_passes_in_a_moment_for_every_process_that_reads_it(tmp_path: Path) -> None:
    calendar = Calendar(tmp_path / "calendar.json")
    calendar.set(MONDAY, 1e6)
    reader = Calendar(tmp_path / "calendar.json").reader()
    first = reader()
    assert MONDAY <= first < MONDAY + timedelta(days=365)
    calendar.set(MONDAY + timedelta(days=700), 1.0)
    assert abs(calendar.now() - MONDAY - timedelta(days=700)) < timedelta(minutes=5)


def test_tasks_come_back_with_what_their_pictures_show(tmp_path: Path) -> None:
    world = world_of(tmp_path / "images", (b"one", 1), (b"two", 0))
    tasks = [{"data": {"image": f"/data/local-files/?d=images/{name}.jpg"}} for name in world.truth]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    assert annotate(world, tmp_path, tmp_path / "project-1.json") == 2
    assert read_label_file(tmp_path / "project-1.json").labels == world.truth


def test_a_list_of_audits_comes_back_filled(tmp_path: Path) -> None:
    world = world_of(tmp_path / "out", (b"one", 1))
    [name] = world.truth
    (tmp_path / "out" / "audits.csv").write_text(f"certificate,number,image,label\nc,7,{name}.jpg,\n")
    assert fill_audits(world, tmp_path / "out") == 1
    with (tmp_path / "out" / "audits.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["certificate"], row["number"], row["label"]) == ("c", "7", "1")


def test_a_stage_2_is_right_about_the_share_that_it_is_said_to_be() -> None:
    pictures = [bytes([number, number]) for number in range(256)]
    world = World({hashlib.sha256(one).hexdigest(): number % 2 for number, one in enumerate(pictures)})
    for share in (0.0, 0.5, 1.0):
        right = [(verdict(world, one, share, share) > 0.5) == bool(world.shows(one)) for one in pictures]
        assert abs(sum(right) / 256 - share) < 0.1
    assert world.roadwork(pictures) == 128
