"""The store at its cap: what it knows in memory is what its files say, after any kill."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from miner.harvest import store as harvest_store
from miner.harvest.given_labels import LABELS, add_labels
from miner.harvest.kept_image import KeptImage, broken_weeks
from miner.harvest.store import INDEX, HarvestStore, by_content, read_index
from tests.miner.harvest.test_harvest import NOON, kept, random_one, store_in


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of files are written here, and no power is cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def known_of(store: HarvestStore) -> tuple[object, ...]:
    places: dict[int, set[str]] = {}
    for one in store.images.values():
        if not one.gone:
            places.setdefault(one.site, set()).add(one.sha256)
    found = {site: set(there) for site, there in store._places.items()}
    assert found == places
    reasons = {reason: number for reason, number in store.reasons.items() if number}
    return list(store.images.values()), store.size, store.number, reasons


def offered(number: int) -> KeptImage:
    if number % 3 == 0:
        return random_one(number, site=number % 40, week=f"2026-W{10 + number // 100:02d}")
    return kept(number, site=number % 40, reasons=("deferred", "audited") if number % 2 else ("ambiguous",))


def test_what_is_known_in_memory_is_what_a_start_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store = store_in(tmp_path, pictures=30, random_per_place=2)
    for number in range(400):
        store.keep(offered(int(rng.integers(number + 1))), b"x")
        if number % 50 == 0:
            add_labels(tmp_path, {offered(number).sha256: 1}, NOON)
        if number % 25 == 0:
            assert known_of(store_in(tmp_path, pictures=30, random_per_place=2)) == known_of(store)
    assert store.number <= 30


def test_a_process_that_is_killed_while_it_forgets_makes_no_week_whole(tmp_path: Path) -> None:
    """Whichever of the lines are there, a week of which a draw was forgotten is known to have lost one."""
    store = store_in(tmp_path, pictures=20)
    for number in range(39):
        store.keep(random_one(number, week=f"2026-W{10 + number // 10}"), b"x")
    before = (tmp_path / INDEX).read_bytes()
    drawn = {one.week for one in store.images.values()}
    for number in range(39, 60):
        store.keep(kept(number, site=number), b"x")
    written = (tmp_path / INDEX).read_bytes()
    assert written.startswith(before)
    assert b'"size":0' in written
    lines = written[len(before) :].splitlines(keepends=True)
    gone_once: set[str] = set()
    for cut in range(len(lines) + 1):
        (tmp_path / INDEX).write_bytes(before + b"".join(lines[:cut]))
        images = list(read_index(tmp_path).values())
        broken = broken_weeks(images, {})
        assert gone_once <= broken
        gone_once |= broken
    assert gone_once
    assert gone_once <= drawn


def test_labels_that_are_removed_by_hand_cost_no_picture(tmp_path: Path) -> None:
    """What stayed for its label alone is forgotten at once when it makes room."""
    store = store_in(tmp_path, pictures=8, random_per_place=1)
    late, early = sorted((random_one(number, site=1) for number in (1, 2)), key=by_content)
    assert store.keep(early, b"x")
    add_labels(tmp_path, {early.sha256: 1}, NOON)
    assert store.keep(late, b"x")
    shutil.rmtree(tmp_path / LABELS)
    for number in range(10, 30):
        assert store.keep(kept(number), b"x")
    for number in range(30, 40):
        assert store.keep(random_one(number), b"x")
    assert early.sha256 not in store.images


def test_an_index_that_cannot_be_written_anew_costs_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture whose line is written and whose file is removed makes its week one that can only train."""
    store = store_in(tmp_path)
    store.keep(random_one(1), b"x")
    monkeypatch.setattr(harvest_store, "MOST_STALE", -10)
    with monkeypatch.context() as full:
        full.setattr(harvest_store, "write_parts", _no_space)
        assert store.keep(random_one(2), b"x")
    assert broken_weeks(store_in(tmp_path).images.values(), {}) == set()
    assert store.keep(random_one(3), b"x")
    assert len(read_index(tmp_path)) == 3


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
