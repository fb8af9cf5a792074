"""The store remembers what a lost workspace forgot: who trained never certifies, and who is gone is counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engines.store.bundle import Provenance
from engines.store.store import Store
from offline.data.dataset import Dataset, Row
from offline.errors import DatasetError
from offline.splits.assign import Looks, split
from offline.splits.bundle_past import PastRow, read_past
from offline.splits.lost_rows import lost_rows
from offline.splits.settings import SPLITS, SplitSettings
from offline.splits.split_ledger import Assignment, Event, Home, Ledger, PlacedRow
from offline.splits.splits_file import LostRows, SplitRow, Splits, SplitSet
from offline.splits.store_history import BundlePast, StoreHistory, ask_store, restored

AT = "2026-01-01T00:00:00+00:00"
SETTINGS = SplitSettings(calibration_folds=2)
Night = Callable[..., tuple[Splits, list[Event]]]


def contents_of(rows: Sequence[Row]) -> dict[str, str]:
    """The content of a file goes with the last part of its path."""
    return {row.image: row.image.rpartition("/")[2].encode().hex().rjust(64, "0") for row in rows}


def elsewhere(rows: Sequence[Row]) -> list[Row]:
    """The same files in a directory of another name, with groups of other names."""
    return [row.model_copy(update={"image": f"moved/{row.image}", "group": f"trip {row.group}"}) for row in rows]


@pytest.fixture
def rows(drive: Callable[..., list[Row]]) -> list[Row]:
    return [row for number in range(120) for row in drive(number, frames=2)]


@pytest.fixture
def night(dataset: Callable[..., Dataset], looks: Callable[..., Looks]) -> Night:
    def run(
        rows: Sequence[Row], history: StoreHistory | None = None, ledger: Ledger | None = None, seed: int = 0
    ) -> tuple[Splits, list[Event]]:
        data = dataset(rows)
        seen = replace(looks(data), contents=contents_of(rows))
        asked = SETTINGS.model_copy(update={"seed": seed})
        splits, events = split(data, seen, ledger or Ledger(), asked, AT, history=history)
        splits.check(data)
        return splits, events

    return run


@pytest.fixture
def past(tmp_path: Path) -> Callable[..., StoreHistory]:
    """What bundles with these splits say of them."""

    def say(*nights: Splits) -> StoreHistory:
        bundles = []
        for number, splits in enumerate(nights):
            splits.write(tmp_path / "past.json")
            bundles.append(BundlePast(f"bundle {number}", tmp_path, read_past(tmp_path / "past.json")))
        return StoreHistory(tuple(bundles))

    return say


def homes(splits: Splits) -> dict[str, tuple[str, int | None]]:
    fold = {row: number for number, rows in enumerate(splits.folds) for row in rows}
    return {row: (name, fold.get(row)) for name in SPLITS for row in splits.sets[name].ids}


def test_an_empty_workspace_finds_every_row_where_the_bundles_of_the_store_had_it(
    night: Night, past: Callable[..., StoreHistory], rows: list[Row]
) -> None:
    first, _ = night(rows)
    moved = elsewhere(rows)
    forgotten, _ = night(moved, seed=9)
    trained = {f"moved/{row}" for row in first.sets["train"].ids}
    assert len(trained.intersection(forgotten.sets["val_calib"].ids)) > 10
    after, events = night(moved, past(first), seed=9)
    assert homes(after) == {f"moved/{row}": home for row, home in homes(first).items()}
    # It is in the ledger from then on, and the store has nothing to add.
    ledger = Ledger().after(events)
    assert restored(past(first), ledger, 1, AT) == []
    assert night(moved, past(first), ledger, seed=9) == (after, [])


def test_a_night_killed_while_it_restores_ends_alike(
    night: Night, past: Callable[..., StoreHistory], rows: list[Row]
) -> None:
    history = past(night(rows)[0], night(rows[:120], seed=3)[0])
    expected, events = night(rows, history)
    for kept in range(0, len(events), 7):
        assert night(rows, history, Ledger().after(events[:kept])) == (expected, events[kept:])


def test_a_row_that_any_bundle_trained_on_never_certifies(
    night: Night, past: Callable[..., StoreHistory], rows: list[Row]
) -> None:
    """Two workspaces published into one store, and each put the rows elsewhere."""
    ours, events = night(rows)
    theirs, _ = night(elsewhere(rows), seed=5)
    after, _ = night(rows, past(theirs), Ledger().after(events))
    spent = {row.removeprefix("moved/") for name in ("train", "val_select") for row in theirs.sets[name].ids}
    certified = set(ours.sets["val_calib"].ids)
    assert 20 < len(certified & spent) < len(certified)
    assert set(after.sets["val_calib"].ids) == certified - spent
    barred = {q.row: q.reason for q in after.quarantined}
    assert barred.keys() == certified & spent
    assert all("bundle bundle 0 of the store trained on" in why for why in barred.values())
    assert {q.kind for q in after.quarantined} == {"spent"}
    # Nothing else moved.
    assert {row: home for row, home in homes(ours).items() if row not in barred} == homes(after)


def test_where_all_that_certifies_was_spent_by_bundles_new_drives_help(
    night: Night, past: Callable[..., StoreHistory], rows: list[Row]
) -> None:
    ours, events = night(rows)
    calib = ours.sets["val_calib"]
    theirs = ours.model_copy(update={"sets": ours.sets | {"train": calib, "val_calib": ours.sets["train"]}})
    with pytest.raises(DatasetError, match=r"val_calib would have 0 roadwork images of 0") as refused:
        night(rows, past(theirs), Ledger().after(events))
    assert "add drives or places with roadwork and no roadwork that no night has seen" in str(refused.value)
    assert f"; {len(calib.rows)} such rows are left out, for example" in str(refused.value)
    assert "bundle 0 of the store trained on" in str(refused.value)
    assert "finer groups" not in str(refused.value)


def test_where_bundles_differ_what_trained_once_stays_in_train(
    night: Night, past: Callable[..., StoreHistory], rows: list[Row]
) -> None:
    one, other = night(rows)[0], night(rows[:80], seed=5)[0]
    after = homes(night(rows, past(one, other))[0])
    assert {row for row, (name, _) in after.items() if name == "val_calib"}.isdisjoint(
        {row for splits in (one, other) for name in ("train", "val_select") for row in splits.sets[name].ids}
    )


def test_a_bundle_that_knows_no_contents_is_believed_by_the_paths(
    night: Night, past: Callable[..., StoreHistory], rows: list[Row]
) -> None:
    first, _ = night(rows)
    [bundle] = past(first).bundles
    old = StoreHistory((replace(bundle, rows=tuple(replace(row, sha256=None, label=None) for row in bundle.rows)),))
    assert homes(night(rows, old, seed=9)[0]) == homes(first)


def test_a_group_of_another_workspace_with_the_same_name_is_another_group() -> None:
    ledger = Ledger(homes={"scene 1": Home("val_calib", 0)})
    rows = (PastRow("a", "1", 1, "scene 1", Home("train")), PastRow("b", "2", 0, "scene 1", Home("val_calib", 1)))
    found = restored(StoreHistory((BundlePast("one", Path(), rows),)), ledger, 1, AT)
    after = ledger.after(found)
    assert after.homes[after.contents["1"]] == Home("train")
    assert after.homes[after.contents["2"]] == Home("val_calib", 1)
    assert after.homes["scene 1"] == Home("val_calib", 0)


def without(rows: Sequence[Row], gone: set[str]) -> list[Row]:
    return [row for row in rows if row.image not in gone]


@pytest.mark.parametrize("remembers", ["ledger", "store"])
def test_rows_that_vanish_from_val_calib_are_counted(
    night: Night, past: Callable[..., StoreHistory], rows: list[Row], remembers: str
) -> None:
    first, events = night(rows)
    assert first.lost == LostRows()
    label: Mapping[str, int] = {row.image: row.label for row in rows}
    calib = first.sets["val_calib"].ids
    missed = {row for row in calib if label[row]}
    gone = {*sorted(missed)[:10], *[row for row in calib if not label[row]][:3]}
    memory = {"history": past(first)} if remembers == "store" else {"ledger": Ledger().after(events)}
    assert night(without(rows, gone), **memory)[0].lost == LostRows(rows=13, roadwork=10)
    # In another directory they are not gone.
    assert night(elsewhere(rows), **memory)[0].lost == LostRows()
    # What was labelled anew is there and is told.
    turned = [row.model_copy(update={"label": 0}) if row.image in sorted(missed)[:4] else row for row in rows]
    assert night(turned, **memory)[0].lost == LostRows(relabelled=4)


def test_rows_that_are_tied_to_another_set_are_gone_from_val_calib(night: Night, rows: list[Row]) -> None:
    first, events = night(rows)
    train, calib = first.sets["train"].rows[0], first.sets["val_calib"].rows[0]
    tied = [row.model_copy(update={"group": train.group}) if row.image == calib.row else row for row in rows]
    after, _ = night(tied, ledger=Ledger().after(events))
    assert calib.row in {q.row for q in after.quarantined}
    assert after.lost.rows >= 1


def test_a_row_of_an_old_ledger_that_is_gone_has_no_label() -> None:
    old = (PlacedRow(row="a"), PlacedRow(row="b"))
    known = (PlacedRow(row="b", sha256="b" * 64, label=1),)
    fields = {"group": "g", "split": "val_calib", "fold": 0, "first_seen": AT, "strata_version": 1}
    ledger = Ledger().after([Assignment.model_validate({**fields, "rows": rows}) for rows in (old, known)])
    now = SplitSet(rows=(SplitRow(row="b", group="g", sha256="b" * 64, label=1),), groups=1, positives=1)
    assert lost_rows(ledger, now) == LostRows(rows=1, unknown=1)


def test_the_store_is_asked_and_a_file_that_was_edited_says_nothing(
    night: Night,
    rows: list[Row],
    tmp_path: Path,
    store: Store,
    tiny_engine: Path,
    write_bundle_files: Callable[..., Path],
    provenance: Provenance,
) -> None:
    assert ask_store(store) == StoreHistory()
    splits, _ = night(rows)
    bundles = []
    for name in ("good", "edited", "no splits"):
        files = write_bundle_files(tmp_path / name, engine=tiny_engine, note=name)
        if name != "no splits":
            splits.write(files / "splits.json")
        bundles.append(store.publish(files, provenance))
    edited = store.path(bundles[1]) / "splits.json"
    edited.write_text(edited.read_text().replace("drive 00001", "drive 99999"))
    history = ask_store(store)
    assert [past.bundle for past in history.bundles] == [bundles[0]]
    assert {row.row for row in history.bundles[0].rows} == splits.groups.keys()
    assert set(history.unread) == set(bundles[1:])
    assert set(night(rows, history)[0].unread_bundles) == set(bundles[1:])
