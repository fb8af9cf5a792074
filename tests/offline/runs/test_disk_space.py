"""Room on the disk: counted once however many names a file has, and asked for before a night."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from offline.errors import DiskFull
from offline.runs.disk_space import _files, allocated, check_room, free_bytes, freed, night_bytes

SIZE = 100_000


@pytest.fixture
def linked(tmp_path: Path) -> tuple[Path, Path]:
    one, two = tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        directory.mkdir()
    (one / "weights").write_bytes(b"w" * SIZE)
    os.link(one / "weights", two / "weights")
    return one, two


def test_a_file_with_two_names_takes_its_room_once_and_gives_it_back_with_the_last(linked: tuple[Path, Path]) -> None:
    one, two = linked
    assert SIZE <= allocated([one, two]) == allocated([one]) < 2 * SIZE
    assert allocated([two], without=[one]) == 0
    assert (freed([one]), freed([two])) == (0, 0)
    assert freed([one, two]) == allocated([one])


def test_a_night_needs_what_the_largest_of_late_took_and_a_margin() -> None:
    assert night_bytes([9_000_000_000, 0, *[1_000_000_000] * 7, 2_000_000_000], None)[0] == 3_000_000_000
    assert night_bytes([1_000_000_000], None) == (1_500_000_000, "the last run took 1.0 GB")
    assert night_bytes([1_000_000_000] * 2, None)[1] == "the largest of the last 2 runs took 1.0 GB"
    need, reason = night_bytes([], 840_000_000)
    assert need == 13_440_000_000
    assert reason == "the backbone has 840 million parameters"
    assert night_bytes([], None) == (0, "")


def test_a_night_for_which_there_is_room_removes_nothing(tmp_path: Path) -> None:
    check_room(tmp_path, 10, "a reason", collect=lambda: pytest.fail("there is room"), free=lambda _: 10)


def test_what_nobody_needs_goes_before_a_night_is_refused(tmp_path: Path) -> None:
    room = [5_000_000_000]

    def collect() -> None:
        room[0] += 2_000_000_000

    check_room(tmp_path, 6_000_000_000, "a reason", collect=collect, free=lambda _: room[0])
    with pytest.raises(
        DiskFull, match=r"needs about 20\.0 GB \(a reason\), and 9\.0 GB are free there: free 11\.0 GB, keep fewer runs"
    ):
        check_room(tmp_path, 20_000_000_000, "a reason", collect=collect, free=lambda _: room[0])


def test_the_room_of_a_directory_that_is_not_there_yet_is_that_of_its_disk(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "there") > 0


def test_a_directory_that_goes_meanwhile_takes_nothing(tmp_path: Path) -> None:
    """Another process collects, or ends a night, while this one counts."""
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"x" * 5000)
    found = _files([tmp_path])
    next(found)
    for name in "abc":
        shutil.rmtree(tmp_path / name)
    assert list(found) == []
