"""Where labels of picked pictures may go while their places may still be drawn: no place trains and certifies."""

from __future__ import annotations

import csv
from datetime import date, timedelta
from pathlib import Path

import pytest

from miner.harvest.harvest import Harvest
from miner.harvest.kept_image import KeptImage, open_places
from miner.harvest.labelled_data import write_data
from miner.harvest.settings import HarvestSettings
from miner.harvest.store import HarvestStore
from stage1.decisions import Action
from stage1.errors import SettingsError
from stage1.monitor.audit import ExitLabel
from tests.miner.harvest.test_harvest import NOON, SECRET, content_of, kept, random_one, seen, store_in

MONDAY = NOON.date()
LATER = date(2026, 4, 1)


def written(data: Path) -> dict[str, set[str]]:
    """The places of each folder."""
    found = {}
    for folder in ("random", "picked"):
        with (data / folder / "labels.csv").open(newline="") as handle:
            found[folder] = {row["group"] for row in csv.DictReader(handle)}
    return found


def keep_all(store: HarvestStore, *images: KeptImage) -> dict[str, ExitLabel]:
    for one in images:
        number = int(one.request_id.removeprefix("r"))
        assert store.keep(one, content_of(number))
    return dict.fromkeys((one.sha256 for one in images), 1)


@pytest.mark.parametrize("days", [0, 1])
def test_a_label_of_the_last_day_waits_for_draws_of_its_place(tmp_path: Path, days: int) -> None:
    """Else the place trains tonight, and a draw of it that comes this afternoon can only train, too."""
    store, data = store_in(tmp_path / "store"), tmp_path / "data"
    labels = keep_all(store, kept(1, site=5))
    going = write_data(store, labels, data, MONDAY + timedelta(days=days))
    assert going == {"any set": 0, "train": 0, "later": 1}
    labels |= keep_all(store, random_one(2, site=5), random_one(3, site=6))
    going = write_data(store, labels, data, LATER)
    assert going == {"any set": 2, "train": 1, "later": 0}
    assert written(data) == {"random": {"site-5", "site-6"}, "picked": {"site-5"}}


def test_a_label_trains_when_no_picture_of_its_place_can_come(tmp_path: Path) -> None:
    store, data = store_in(tmp_path / "store"), tmp_path / "data"
    labels = keep_all(store, kept(1, site=5))
    assert write_data(store, labels, data, MONDAY + timedelta(days=2))["train"] == 1


def drawn_after_it_has_trained(home: Path, data: Path) -> tuple[HarvestStore, dict[str, ExitLabel]]:
    """Place 5 has trained; then a picture of it is drawn, and in the same week one of place 6."""
    store, late = store_in(home), NOON + timedelta(days=3)
    labels = keep_all(store, kept(1, site=5))
    write_data(store, labels, data, MONDAY + timedelta(days=2))
    return store, labels | keep_all(store, random_one(2, site=5, at=late), random_one(3, site=6, at=late))


def test_a_week_with_a_draw_of_a_place_that_has_trained_only_trains(tmp_path: Path) -> None:
    """A camera that stands still is one place for weeks, of which nothing may have been kept for days."""
    data = tmp_path / "data"
    store, labels = drawn_after_it_has_trained(tmp_path / "store", data)
    labels |= keep_all(store, random_one(4, site=7, at=NOON + timedelta(days=8), week="2026-W11"))
    for _ in range(2):
        going = write_data(store, labels, data, LATER)
        assert going == {"any set": 1, "train": 3, "later": 0}
        assert written(data) == {"random": {"site-7"}, "picked": {"site-5", "site-6"}}


def test_a_place_that_has_trained_is_remembered_when_it_is_met_again(tmp_path: Path) -> None:
    """A picked list that leaves it out for a day forgets it, and a week that has trained would certify after all."""
    data = tmp_path / "data"
    store, labels = drawn_after_it_has_trained(tmp_path / "store", data)
    met_again = NOON + timedelta(days=8)
    labels |= keep_all(store, kept(4, site=5, at=met_again))
    for today in (met_again.date(), LATER):
        going = write_data(store, labels, data, today)
        assert going == {"any set": 0, "train": 4, "later": 0}
        assert written(data) == {"random": set(), "picked": {"site-5", "site-6"}}


@pytest.mark.parametrize(
    "edited",
    [
        b"image;label;group\nimages/a.jpg;1;site-5\n",
        b"image,label,group\nimages/a.jpg,1,site-five\n",
        b"image,label,group\nimages/a.jpg,1\n",
        b'image,label,group\nimages/a.jpg,1,"site-5\n',
        b"\xff\xfe",
    ],
    ids=["semicolons", "no number", "short row", "open quote", "no UTF-8"],
)
def test_a_list_that_somebody_changed_is_not_taken_for_one_without_places(tmp_path: Path, edited: bytes) -> None:
    data = tmp_path / "data"
    store, labels = drawn_after_it_has_trained(tmp_path / "store", data)
    (data / "picked" / "labels.csv").write_bytes(edited)
    with pytest.raises(SettingsError, match=r"picked/labels\.csv: is not as it was written here.*put it back"):
        write_data(store, labels, data, LATER)
    assert (data / "picked" / "labels.csv").read_bytes() == edited


def test_a_place_that_certifies_goes_on_to_do_so_when_it_is_picked_later(tmp_path: Path) -> None:
    store, data = store_in(tmp_path / "store"), tmp_path / "data"
    labels = keep_all(store, random_one(1, site=5), kept(2, site=5))
    for _ in range(2):
        assert write_data(store, labels, data, LATER) == {"any set": 1, "train": 1, "later": 0}
    week = NOON + timedelta(days=8)
    labels |= keep_all(store, random_one(3, site=5, at=week, week="2026-W11"))
    assert write_data(store, labels, data, LATER) == {"any set": 2, "train": 1, "later": 0}


def test_a_place_is_open_for_as_long_as_a_miner_knows_it_again(tmp_path: Path) -> None:
    harvest = Harvest(tmp_path, HarvestSettings(enabled=True, random_share=0.0), secret=SECRET)
    harvest.take(seen(1, Action.DEFER))
    [one] = harvest.store.images.values()
    a_day_later = one.at + timedelta(days=1)
    assert harvest._site(a_day_later, "another caller", one.picture) == one.site
    assert open_places([one], a_day_later.date()) == {one.site}
    late = a_day_later + timedelta(days=1, seconds=1)
    assert harvest._site(late, "another caller", one.picture) != one.site
    assert open_places([one], late.date()) == set()
    harvest.close()
