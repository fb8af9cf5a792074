"""Drives through the same streets: what of an exam is in train as well, and what the rule on roadwork leaves of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from offline.data.dataset import Dataset, Row
from offline.data.place_and_time import read_fix
from offline.errors import DatasetError
from offline.splits.assign import Looks, split
from offline.splits.dependent_groups import cells_of
from offline.splits.revisited_places import revisited
from offline.splits.settings import SPLITS, SplitSettings
from offline.splits.split_ledger import Home, Ledger
from offline.splits.splits_file import LongChains, RevisitedPlaces, Splits
from tests.support.streets import DAY_S, drives_through_the_same_streets

AT = "2026-01-01T00:00:00+00:00"
Split = Callable[..., Splits]


@pytest.fixture
def divided(dataset: Callable[..., Dataset], looks: Callable[..., Looks]) -> Split:
    def divide(rows: list[Row], ledger: Ledger | None = None, **settings: object) -> Splits:
        data = dataset(rows)
        asked = SplitSettings.model_validate(settings)
        splits, _ = split(data, looks(data), ledger or Ledger(), asked, AT)
        splits.check(data)
        return splits

    return divide


def sites_in_two_sets(splits: Splits, rows: list[Row], days: float) -> int:
    """Pairs of rows with roadwork in one cell, within so many days, and in different sets."""
    home = {row: name for name in SPLITS for row in splits.sets[name].ids}
    seen: dict[object, list[tuple[float, str]]] = {}
    for row in rows:
        fix = read_fix(row)
        if row.label and fix and fix.at is not None:
            for cell in cells_of(fix, 50.0):
                seen.setdefault(cell, []).append((fix.at, home[row.image]))
    return sum(
        first[1] != second[1] and abs(first[0] - second[0]) < days * DAY_S
        for visits in seen.values()
        for first, second in product(visits, repeat=2)
    )


def test_five_drives_through_the_same_streets_meet_the_places_of_train_again(divided: Split) -> None:
    rows = drives_through_the_same_streets()
    before = divided(rows, roadwork_days=None)
    calib = before.places["val_calib"]
    assert (calib.places, calib.in_train) == (210, 203)
    assert calib.roadwork_in_train > 0.8 * calib.roadwork_places
    assert sites_in_two_sets(before, rows, 45) > 100


def test_a_construction_site_is_in_one_set(divided: Split) -> None:
    rows = drives_through_the_same_streets()
    splits = divided(rows)
    assert sites_in_two_sets(splits, rows, 45) == 0
    for name in ("val_calib", "test"):
        found = splits.places[name]
        assert found.roadwork_in_train == 0 < found.roadwork_places
        # Places without roadwork are visited again, and this is counted.
        assert 0 < found.in_train < found.places
        assert not found.are_new
    assert (splits.places["val_calib"].places, splits.places["val_calib"].in_train) == (176, 157)


def test_a_site_that_is_seen_again_after_months_is_counted(divided: Split) -> None:
    rows = drives_through_the_same_streets(days_between=50)
    splits = divided(rows)
    assert splits.places["val_calib"].roadwork_in_train > 0
    assert sites_in_two_sets(splits, rows, 45) == 0
    assert divided(rows, roadwork_days=51).places["val_calib"].roadwork_in_train == 0


def test_a_chain_of_more_visits_than_the_cap_trains_as_a_whole(divided: Split) -> None:
    """Two drives whose rows belong together tie all sites of the street into one; other streets fill the exams."""
    tied = drives_through_the_same_streets(40, drives=12, by_drive=True)
    others = [
        row.model_copy(update={"image": f"other/{row.image}", "group": f"other/{row.image}", "metadata": {}})
        for row in drives_through_the_same_streets(40, drives=3)
    ]
    splits = divided([*tied, *others], roadwork_chain=11)
    assert {row.image for row in tied} <= set(splits.sets["train"].ids)
    assert (splits.chains.groups, splits.chains.rows) == (1, len(tied))
    # A drive is one visit, however many sites it passes: twelve are no chain of more than twelve.
    free = divided([*tied, *others], roadwork_chain=12, train=0.1, test=0.55).sets
    assert {row.image for row in tied} <= set(free["test"].ids)


def test_a_chain_is_counted_on_later_nights_too(
    divided: Split, dataset: Callable[..., Dataset], looks: Callable[..., Looks]
) -> None:
    tied = drives_through_the_same_streets(40, drives=12, by_drive=True)
    others = [
        row.model_copy(update={"image": f"other/{row.image}", "group": f"other/{row.image}", "metadata": {}})
        for row in drives_through_the_same_streets(40, drives=3)
    ]
    data = dataset([*tied, *others])
    first, events = split(data, looks(data), Ledger(), SplitSettings(roadwork_chain=11), AT)
    assert divided([*tied, *others], Ledger().after(events), roadwork_chain=11).chains == first.chains
    assert divided([*tied[1:], *others], Ledger().after(events)).chains == LongChains(groups=1, rows=len(tied) - 1)


def test_a_placed_group_stays_where_it_is_however_long_its_chain_grows(
    divided: Split, dataset: Callable[..., Dataset], looks: Callable[..., Looks]
) -> None:
    rows = drives_through_the_same_streets(80, drives=2)
    data = dataset(rows)
    settings = SplitSettings(roadwork_chain=2)
    first, events = split(data, looks(data), Ledger(), settings, AT)
    ledger = Ledger().after(events)
    grown = drives_through_the_same_streets(80, drives=6)
    after = divided(grown, ledger, roadwork_chain=2)
    home = {row: name for name in SPLITS for row in first.sets[name].ids}
    now = {row: name for name in SPLITS for row in after.sets[name].ids}
    assert {row: now[row] for row in home} == home
    # New visits of a placed site are where it is, and not torn away to train.
    calib = [
        row.image for row in grown if row.label and ledger.home_of(f"drive_0/{row.image[-8:]}") == Home("val_calib", 0)
    ]
    assert len(calib) >= 12
    assert {now[row] for row in calib} == {"val_calib"}


def test_a_city_whose_drives_tie_all_its_sites_together_is_told_what_to_set(divided: Split) -> None:
    rows = drives_through_the_same_streets(30, drives=60, days_between=1, by_drive=True)
    with pytest.raises(
        DatasetError, match=r"only train, because drives tie more than splits\.roadwork_chain = 50 visits"
    ):
        divided(rows)


def place(image: str, metres: float | None, label: int = 0) -> Row:
    about = {} if metres is None else {"gps": f"{48 + metres / 111_194.9},11.0003"}
    return Row(image=image, label=label, group=image, metadata=about)


def test_places_are_counted_once_and_across_the_borders_of_cells() -> None:
    exam = [place("a", 10, 1), place("b", 12), place("c", 510), place("d", 1010, 1), place("e", None)]
    train = [place("t", 12), place("u", 500), place("v", 1010, 1)]
    assert revisited(exam, train, 50.0) == RevisitedPlaces(
        places=3, in_train=3, roadwork_places=2, roadwork_in_train=1, rows_without_place=1
    )
    assert not revisited(exam, [], 50.0).are_new
    assert revisited(exam[:4], [], 50.0).are_new


def test_places_that_are_not_read_are_not_counted(divided: Split) -> None:
    assert divided(drives_through_the_same_streets(100), gps_cell_m=None).places == {}
