"""Splitting: placed groups stay, new ones keep the shares, and what would join two sets is in none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from offline.config import PRESETS
from offline.data.dataset import Dataset, Row
from offline.errors import DatasetError
from offline.splits.assign import Looks, split
from offline.splits.settings import SPLITS, SplitSettings
from offline.splits.split_ledger import Assignment, Event, Ledger, PlacedRow
from offline.splits.splits_file import Splits

Drive = Callable[..., list[Row]]
Make = Callable[[list[Row]], Dataset]
LooksOf = Callable[..., Looks]
AT = "2026-01-01T00:00:00+00:00"
SETTINGS = SplitSettings(calibration_folds=2)


class Nights:
    """Splits night after night with one ledger, and checks each."""

    def __init__(self, dataset: Make, looks: LooksOf, settings: SplitSettings = SETTINGS) -> None:
        self.dataset, self.looks, self.settings = dataset, looks, settings
        self.ledger = Ledger()
        self.events: list[Event] = []

    def night(
        self, rows: list[Row], same: Sequence[Sequence[str]] = (), contents: Mapping[str, str] | None = None
    ) -> Splits:
        data = self.dataset(rows)
        seen = replace(self.looks(data, same), contents=contents or {})
        splits, events = split(data, seen, self.ledger, self.settings, AT)
        splits.check(data)
        self.events += events
        self.ledger = self.ledger.after(events)
        return splits


@pytest.fixture
def nights(dataset: Make, looks: LooksOf) -> Callable[..., Nights]:
    return lambda **settings: Nights(dataset, looks, SETTINGS.model_copy(update=settings))


def homes(splits: Splits) -> dict[str, tuple[str, int | None]]:
    """Set and fold of every row."""
    fold = {row: number for number, rows in enumerate(splits.folds) for row in rows}
    return {row: (name, fold.get(row)) for name, described in splits.sets.items() for row in described.ids}


def in_set(splits: Splits, name: str, *, fold: int = 0) -> str:
    """A row of a set, or of a fold of val_calib."""
    return next(row for row, home in homes(splits).items() if home == (name, fold if name == "val_calib" else None))


def drives(drive: Drive, count: int, *, first: int = 0) -> list[Row]:
    return [row for number in range(first, first + count) for row in drive(number)]


def test_every_row_is_in_one_set_and_no_group_in_two(nights: Callable[..., Nights], drive: Drive) -> None:
    rows = drives(drive, 200)
    splits = nights().night(rows)
    assert sorted(homes(splits)) == sorted(row.image for row in rows)
    assert splits.quarantined == ()
    groups = [{row.group for row in splits.sets[name].rows} for name in SPLITS]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 200


def test_shares_and_prevalence_are_kept(nights: Callable[..., Nights], drive: Drive) -> None:
    rows = drives(drive, 600)
    prevalence = float(np.mean([row.label for row in rows]))
    for name, described in nights().night(rows).sets.items():
        assert len(described.rows) / len(rows) == pytest.approx(SETTINGS.shares[name], abs=0.01)
        assert described.class_balance == pytest.approx(prevalence, abs=0.02)


def worst_variation(splits: Splits) -> float:
    """Largest total variation between the strata of a set and those of everything."""
    everything = Counter[str]()
    for described in splits.sets.values():
        everything.update(described.strata)
    total = everything.total()
    return max(
        sum(abs(s.strata.get(k, 0) / len(s.rows) - n / total) for k, n in everything.items()) / 2
        for s in splits.sets.values()
    )


def test_thirty_nights_of_new_drives_move_nothing_and_keep_the_strata(
    nights: Callable[..., Nights], drive: Drive
) -> None:
    house, count = nights(), 60
    rows = drives(drive, count)
    before = homes(house.night(rows))
    for _ in range(30):
        new = max(1, count // 10)
        rows += drives(drive, new, first=count)
        count += new
        splits = house.night(rows)
        after = homes(splits)
        assert {row: after[row] for row in before} == before
        before = after
    assert count > 900
    assert worst_variation(splits) < 0.02
    fresh = Nights(house.dataset, house.looks).night(rows)
    assert worst_variation(splits) < worst_variation(fresh) + 0.01


def test_the_order_of_rows_does_not_matter(nights: Callable[..., Nights], drive: Drive) -> None:
    rows = drives(drive, 120)
    turned = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    one, other = nights(), nights()
    assert one.night(rows) == other.night(turned)
    assert one.events == other.events


def test_another_seed_is_another_draw(nights: Callable[..., Nights], drive: Drive) -> None:
    rows = drives(drive, 120)
    assert homes(nights(seed=1).night(rows)) != homes(nights(seed=2).night(rows))


def test_the_same_data_again_are_the_same_splits_and_nothing_is_written(
    nights: Callable[..., Nights], drive: Drive
) -> None:
    house, rows = nights(), drives(drive, 90)
    first, written = house.night(rows), len(house.events)
    assert house.night(rows) == first
    assert len(house.events) == written


def test_a_run_killed_after_any_line_of_the_ledger_ends_alike(
    nights: Callable[..., Nights], drive: Drive, dataset: Make, looks: LooksOf
) -> None:
    """Two nights, the second with grown groups, extra data and a row that joins two groups of one set."""
    house = nights(train_only=("extra",))
    first = drives(drive, 40)
    old = house.night(first)
    known = len(house.events)
    one, two = [row for row, home in homes(old).items() if home == ("train", None)][:2]
    second = [*first, *drives(drive, 30, first=40), *(r for n in (90, 91, 92) for r in drive(n, source="extra"))]
    second += [Row(image="bridge.jpg", label=0, group="bridge"), Row(image="later.jpg", label=1, group=first[0].group)]
    same = [(one, "bridge.jpg"), (two, "00091_0.jpg"), ("00092_0.jpg", "bridge.jpg")]
    splits = house.night(second, same)
    data = dataset(second)
    assert len(house.events) - known > 30
    for kept in range(known, len(house.events) + 1):
        ledger = Ledger().after(house.events[:kept])
        assert split(data, looks(data, same), ledger, house.settings, AT) == (splits, house.events[kept:])


def test_a_row_that_would_join_two_sets_is_in_none(nights: Callable[..., Nights], drive: Drive) -> None:
    house, rows = nights(), drives(drive, 90)
    splits = house.night(rows)
    train, calib = in_set(splits, "train"), in_set(splits, "val_calib")
    group = {row.image: row.group for row in rows}[train]
    bridge = [Row(image="bridge_0.jpg", label=1, group=group), Row(image="bridge_1.jpg", label=0, group=group)]
    after = house.night([*rows, *bridge], [(calib, "bridge_1.jpg")])
    assert homes(after) == homes(splits)
    assert [q.row for q in after.quarantined] == ["bridge_0.jpg", "bridge_1.jpg"]
    assert "joins a row of" in after.quarantined[0].reason
    assert "which never move" in after.quarantined[0].reason
    assert after.quarantined[0].kind == "ties two sets"
    # What is left out is not in the ledger, and free when what held it is gone.
    assert house.ledger.home_of("bridge_0.jpg") is None
    assert house.night([*rows, bridge[0]]).quarantined == ()


def test_rows_that_would_join_two_folds_are_in_neither(nights: Callable[..., Nights], drive: Drive) -> None:
    house, rows = nights(), drives(drive, 90)
    splits = house.night(rows)
    one, other = in_set(splits, "val_calib"), in_set(splits, "val_calib", fold=1)
    bridge = [Row(image=f"bridge_{n}.jpg", label=1, group="bridge") for n in range(2)]
    after = house.night([*rows, *bridge], [(one, "bridge_0.jpg"), (other, "bridge_1.jpg")])
    assert [q.row for q in after.quarantined] == ["bridge_0.jpg", "bridge_1.jpg"]
    assert "fold 1 of val_calib" in after.quarantined[0].reason
    assert homes(house.night([*rows, bridge[0]], [(one, "bridge_0.jpg")]))["bridge_0.jpg"] == ("val_calib", 0)


@pytest.mark.parametrize("name", SPLITS)
def test_a_known_group_that_grows_keeps_its_home_and_its_name(
    nights: Callable[..., Nights], drive: Drive, name: str
) -> None:
    house, rows = nights(), drives(drive, 90)
    splits = house.night(rows)
    old = in_set(splits, name)
    new = [Row(image=f"more_{n}.jpg", label=1, group=splits.groups[old]) for n in range(30)]
    after = house.night([*rows, *new])
    assert {after.groups[row.image] for row in new} == {splits.groups[old]}
    assert {homes(after)[row.image] for row in new} == {homes(after)[old]}


def test_groups_of_one_set_that_are_joined_are_one_group_from_then_on(
    nights: Callable[..., Nights], drive: Drive
) -> None:
    house, rows = nights(), drives(drive, 90)
    splits = house.night(rows)
    tested = [row for row, home in homes(splits).items() if home == ("test", None)]
    one, other = tested[0], next(row for row in tested if splits.groups[row] != splits.groups[tested[0]])
    between = Row(image="between.jpg", label=0, group=splits.groups[other])
    after = house.night([*rows, between], [(one, "between.jpg")])
    assert after.groups[one] == after.groups[other] == after.groups["between.jpg"]
    assert after.sets["test"].groups == splits.sets["test"].groups - 1


def test_a_row_that_comes_back_is_where_it_was(nights: Callable[..., Nights], drive: Drive) -> None:
    house, rows = nights(), drives(drive, 90)
    first = homes(house.night(rows))
    gone = set(sorted(first)[::4])
    house.night([row for row in rows if row.image not in gone])
    assert homes(house.night(rows)) == first


def single(count: int) -> list[Row]:
    """Rows that no column groups: each is its own, under the name of its file."""
    return [Row(image=f"cam/{n:04d}.jpg", label=int(n % 3 == 0), group=f"cam/{n:04d}.jpg") for n in range(count)]


def files(rows: Sequence[Row]) -> dict[str, str]:
    """A content for each row: its number."""
    return {row.image: f"{number:064x}" for number, row in enumerate(rows)}


def moved_to(row: Row, image: str) -> Row:
    return row.model_copy(update={"image": image, "group": image if row.group == row.image else row.group})


@pytest.mark.parametrize("grouped", [True, False], ids=["with a group column", "without"])
def test_a_directory_that_is_renamed_moves_no_row(nights: Callable[..., Nights], drive: Drive, grouped: bool) -> None:
    house, rows = nights(), drives(drive, 90) if grouped else single(150)
    first = homes(house.night(rows, contents=files(rows)))
    renamed = [moved_to(row, f"other/{row.image}") for row in rows]
    # New groups beside them, so that a row without a home would be placed anew.
    new = [row.model_copy(update={"image": f"new/{row.image}", "group": f"new/{row.group}"}) for row in rows]
    after = homes(house.night([*renamed, *new], contents=files([*renamed, *new])))
    assert {f"other/{row}": home for row, home in first.items()}.items() <= after.items()


def test_a_group_column_that_is_renamed_with_its_files_moves_no_row(
    nights: Callable[..., Nights], drive: Drive
) -> None:
    house, rows = nights(), drives(drive, 90)
    first = house.night(rows, contents=files(rows))
    renamed = [row.model_copy(update={"image": f"x/{row.image}", "group": f"trip {row.group}"}) for row in rows]
    after = house.night(renamed, contents=files(renamed))
    assert {f"x/{row}": home for row, home in homes(first).items()} == homes(after)
    assert {f"x/{row}": group for row, group in first.groups.items()} == after.groups


def test_files_that_swap_their_names_stay_where_their_pictures_were(nights: Callable[..., Nights]) -> None:
    house, rows = nights(), single(120)
    splits = house.night(rows, contents=files(rows))
    train, calib = in_set(splits, "train"), in_set(splits, "val_calib")
    swapped = {train: calib, calib: train}
    contents = files(rows)
    turned = contents | {row: contents[other] for row, other in swapped.items()}
    label = {row.image: row.label for row in rows}
    now = [row.model_copy(update={"label": label[swapped.get(row.image, row.image)]}) for row in rows]
    after = house.night(now, contents=turned)
    assert after.quarantined == ()
    assert homes(after) == homes(splits) | {row: homes(splits)[other] for row, other in swapped.items()}


@pytest.mark.parametrize("train_only", [False, True])
def test_a_drive_that_is_called_like_its_first_picture_stays_one_group(
    nights: Callable[..., Nights], train_only: bool
) -> None:
    house, rows = nights(), single(120)
    # What ties it to another drive gives the group of both the other name.
    first = [rows[0].model_copy(update={"metadata": {"vid_id": "7"}}), *rows[1:]]
    first += [rows[0].model_copy(update={"image": "a", "group": "a", "metadata": {"vid_id": "7"}})]
    before = homes(house.night(first, contents=files(first)))
    drive = rows[0].image
    # `night` makes sure that no declared group is in two sets.
    more = [rows[0].model_copy(update={"image": f"{drive} {n}", "train_only": train_only}) for n in range(8)]
    after = house.night([*first, *more], contents=files([*first, *more]))
    assert {row: homes(after)[row] for row in before} == before
    assert {after.groups.get(row.image, "left out") for row in more} <= {after.groups[drive], "left out"}
    assert train_only or {row.image for row in more} <= after.groups.keys()


def test_a_picture_that_is_exported_again_is_where_its_path_was(nights: Callable[..., Nights]) -> None:
    house, rows = nights(), single(120)
    first = house.night(rows, contents=files(rows))
    again = {row.image: f"{number + 500:064x}" for number, row in enumerate(rows)}
    assert homes(house.night(rows, contents=again)) == homes(first)
    # From then on its new content is known under any name.
    renamed = [moved_to(row, f"x/{row.image}") for row in rows]
    after = house.night(renamed, contents={f"x/{row}": content for row, content in again.items()})
    assert homes(after) == {f"x/{row}": home for row, home in homes(first).items()}


def test_two_rows_with_the_same_file_are_one_group_whatever_they_look_like(nights: Callable[..., Nights]) -> None:
    rows = single(120)
    contents = files(rows) | {"cam/0003.jpg": files(rows)["cam/0000.jpg"]}
    splits = nights(hash_distance=None).night(rows, contents=contents)
    assert splits.groups["cam/0000.jpg"] == splits.groups["cam/0003.jpg"]
    # A copy of a known picture that comes later is where that one is.
    house = nights()
    house.night(rows, contents=files(rows))
    copy = Row(image="copy.jpg", label=1, group="copy.jpg")
    after = house.night([*rows, copy], contents=files(rows) | {"copy.jpg": files(rows)["cam/0000.jpg"]})
    assert homes(after)["copy.jpg"] == homes(after)["cam/0000.jpg"]


def test_copies_that_an_older_ledger_put_into_two_sets_never_certify(nights: Callable[..., Nights]) -> None:
    house, rows = nights(hash_distance=None), single(120)
    splits = house.night(rows)
    train, calib = in_set(splits, "train"), in_set(splits, "val_calib")
    contents = files(rows) | {calib: files(rows)[train]}
    after = house.night(rows, contents=contents)
    assert [(q.row, homes(after).get(q.row)) for q in after.quarantined] == [(calib, None)]
    # With both paths gone, the content alone is left, and it has trained.
    rest = [row for row in rows if row.image not in {train, calib}]
    other = Row(image="other.jpg", label=1, group="other.jpg")
    house.ledger = house.ledger.after(
        [
            Assignment(
                group=house.ledger.groups[row],
                split=house.ledger.homes[house.ledger.groups[row]].split,
                fold=house.ledger.homes[house.ledger.groups[row]].fold,
                rows=(PlacedRow(row=row, sha256=contents[row]),),
                first_seen=AT,
                strata_version=1,
            )
            for row in (calib, train)
        ]
    )
    last = house.night([*rest, other], contents=contents | {"other.jpg": contents[train]})
    assert homes(last)["other.jpg"] == ("train", None)


def test_another_row_of_a_drive_that_is_gone_is_where_the_drive_was(
    nights: Callable[..., Nights], drive: Drive
) -> None:
    house, rows = nights(), drives(drive, 90)
    splits = house.night(rows)
    gone = splits.groups[in_set(splits, "val_calib")]
    rest = [row for row in rows if row.group != gone]
    after = house.night([*rest, Row(image="new.jpg", label=1, group=gone)])
    assert homes(after)["new.jpg"][0] == "val_calib"


def test_other_shares_move_no_group(nights: Callable[..., Nights], drive: Drive) -> None:
    house, rows = nights(), drives(drive, 90)
    first = homes(house.night(rows))
    house.settings = SplitSettings(train=0.1, val_select=0.1, val_calib=0.1, test=0.7, calibration_folds=4)
    after = homes(house.night([*rows, *drives(drive, 60, first=90)]))
    assert {row: after[row][0] for row in first} == {row: home for row, (home, _) in first.items()}
    new = Counter(home for row, (home, _) in after.items() if row not in first)
    assert new["test"] > 0.8 * new.total()


def test_extra_data_only_train(nights: Callable[..., Nights], drive: Drive) -> None:
    rows = drives(drive, 90)
    extra = [row for n in range(200, 260) for row in drive(n, source="extra")]
    house = nights(train_only=("extra",))
    splits = house.night([*rows, *extra])
    assert {homes(splits)[row.image] for row in extra} == {("train", None)}
    # They change nothing for the others, whose shares they do not count in.
    without = nights().night(rows)
    for name in SPLITS[1:]:
        assert splits.sets[name] == without.sets[name]


def test_extra_data_only_train_however_their_source_is_spelled(nights: Callable[..., Nights], drive: Drive) -> None:
    spellings = ("Extra", "extra", "EXTRA ")
    extra = [row for n in range(200, 260) for row in drive(n, source=spellings[n % 3])]
    splits = nights(train_only=("eXtra",)).night([*drives(drive, 90), *extra])
    assert {homes(splits)[row.image] for row in extra} == {("train", None)}


def test_a_stratum_is_the_same_however_it_is_spelled(nights: Callable[..., Nights], drive: Drive) -> None:
    rows = drives(drive, 90)
    turned = [
        row.model_copy(update={"metadata": {name: value.upper() for name, value in row.metadata.items()}})
        if number % 2
        else row
        for number, row in enumerate(rows)
    ]
    assert homes(nights().night(turned)) == homes(nights().night(rows))


def test_extra_data_that_look_like_an_exam_are_left_out(nights: Callable[..., Nights], drive: Drive) -> None:
    rows, house = drives(drive, 90), nights(train_only=("extra",))
    splits = house.night(rows)
    exam, train = in_set(splits, "test"), in_set(splits, "train")
    extra = [*drive(300, source="extra", frames=2), *drive(301, source="extra", frames=2)]
    after = house.night([*rows, *extra], [(exam, "00300_0.jpg"), (train, "00301_1.jpg")])
    assert [q.row for q in after.quarantined] == ["00300_0.jpg", "00300_1.jpg"]
    assert f"may only train, but depends on a row of test, {exam!r}" in after.quarantined[0].reason
    assert after.quarantined[0].kind == "only trains"
    assert {row: homes(after)[row] for row in homes(splits)} == homes(splits)
    assert after.groups["00301_0.jpg"] == after.groups[train]


def test_a_source_that_becomes_train_only_leaves_the_exams(nights: Callable[..., Nights], drive: Drive) -> None:
    house = nights()
    rows = [*drives(drive, 90), *(r for n in range(200, 230) for r in drive(n, source="extra"))]
    before = homes(house.night(rows))
    house.settings = house.settings.model_copy(update={"train_only": ("extra",)})
    after = house.night(rows)
    examined = {row.image for row in rows if row.source == "extra" and before[row.image][0] != "train"}
    assert examined == {q.row for q in after.quarantined}


def test_drives_that_turn_out_to_be_one_stay_only_where_most_of_them_is(
    nights: Callable[..., Nights], drive: Drive
) -> None:
    house = nights()
    rows = [row for n in range(90) for row in drive(n, frames=2)]
    splits = house.night(rows)
    train, test = in_set(splits, "train"), in_set(splits, "test")
    renamed = [row.model_copy(update={"group": splits.groups[train]}) if row.image == test else row for row in rows]
    after = house.night(renamed)
    assert {q.row for q in after.quarantined} <= {row.image for row in rows} - set(homes(after))
    assert len(after.quarantined) == 2
    moved = {row for row, home in homes(after).items() if home[0] != homes(splits)[row][0]}
    assert not moved


def test_copies_that_another_kind_of_hash_recognises_leave_the_sets_and_move_nothing(
    nights: Callable[..., Nights], drive: Drive
) -> None:
    """Turned copies were placed in two sets before the hash saw that they are copies."""
    rows = [row for number in range(200) for row in drive(number, frames=1)]
    known = nights()
    before = homes(known.night(rows))
    copies = [(f"{n:05d}_0.jpg", f"{n + 1:05d}_0.jpg") for n in range(0, 120, 2)]
    crossing = {pair for pair in copies if len({before[row] for row in pair}) > 1}
    assert crossing
    after = known.night(rows, same=copies)
    assert homes(after).items() <= before.items()
    left_out = {row.row: row.reason for row in after.quarantined}
    assert set(before) - set(homes(after)) == set(left_out)
    assert all(len(left_out.keys() & set(pair)) == 1 for pair in crossing)
    assert all("which never move" in reason for reason in left_out.values())


def test_a_fold_without_roadwork_is_used_together_with_another(nights: Callable[..., Nights], drive: Drive) -> None:
    rows = drives(drive, 40)
    splits = nights(calibration_folds=40).night(rows)
    label = {row.image: row.label for row in rows}
    assert 1 <= len(splits.folds) < 8
    assert all({label[row] for row in fold} == {0, 1} for fold in splits.folds)


def test_too_few_groups_is_an_error_that_says_what_to_do(nights: Callable[..., Nights], drive: Drive) -> None:
    house = nights()
    with pytest.raises(DatasetError, match="too few groups"):
        house.night(drives(drive, 9))
    assert house.events == []


class TestWhatHelpsASetThatLacksAClass:
    """It depends on why: a group that was placed never moves, whatever a labels file calls it."""

    def test_new_drives_where_everything_was_placed_by_earlier_nights(
        self, nights: Callable[..., Nights], drive: Drive
    ) -> None:
        house, rows = nights(), drives(drive, 90)
        splits = house.night(rows)
        tested = set(splits.sets["test"].ids)
        rest = [row for row in rows if row.image not in tested or row.label == 0]
        with pytest.raises(DatasetError) as refused:
            house.night(rest)
        placed = len({row.group for row in rest})
        assert str(refused.value) == (
            f"test would have 0 roadwork images of {len(tested) - len(rows) + len(rest)}: {placed} of {placed} groups "
            "were placed by earlier nights and never move, whatever the group column calls them: add drives or places "
            f"with roadwork that no night has seen; {len(rows) - len(rest)} rows with roadwork that earlier nights put "
            "there are gone or cannot be used: bring them back"
        )

    def test_rows_that_tie_two_sets_are_named_with_what_ties_them(
        self, nights: Callable[..., Nights], drive: Drive
    ) -> None:
        house, rows = nights(), drives(drive, 90)
        splits = house.night(rows)
        train = in_set(splits, "train")
        group = {row.image: row.group for row in rows}[train]
        tested = {row.row for row in splits.sets["test"].rows if row.label}
        joined = [row.model_copy(update={"group": group}) if row.image in tested else row for row in rows]
        # As many as train has, so that they are not the majority.
        more = [Row(image=f"more_{n}.jpg", label=1, group=group) for n in range(len(tested))]
        house.ledger = house.ledger.after(
            [
                Assignment(
                    group=group,
                    split="train",
                    rows=tuple(PlacedRow(row=row.image) for row in more),
                    first_seen=AT,
                    strata_version=1,
                )
            ]
        )
        with pytest.raises(
            DatasetError,
            match=rf"test would have 0 roadwork .*; {len(tested)} such rows are left out, for example '.*': joins a "
            r"row of .*, which never move; mend what ties them",
        ) as refused:
            house.night([*joined, *more])
        assert "too few groups" not in str(refused.value)

    def test_rows_that_may_only_train_are_counted_with_the_setting(
        self, nights: Callable[..., Nights], drive: Drive
    ) -> None:
        rows = [*drives(drive, 9), *(row for n in range(200, 260) for row in drive(n, source="extra"))]
        extra = sum(row.label for row in rows if row.source == "extra")
        with pytest.raises(
            DatasetError, match=rf"too few groups.*; {extra} rows with roadwork may only train, .* extra;"
        ):
            nights(train_only=("extra",)).night(rows)


def test_four_groups_of_each_class_are_enough(nights: Callable[..., Nights], drive: Drive) -> None:
    rows = [row for n in range(8) for row in drive(n, label=n % 2)]
    assert all(0 < s.positives < len(s.rows) for s in nights().night(rows).sets.values())


def test_the_bins_of_difficulty_are_cut_once(nights: Callable[..., Nights], drive: Drive) -> None:
    house, rows = nights(), drives(drive, 90)
    first = house.night(rows)
    later = house.night([*rows, *drives(drive, 90, first=90)])
    assert later.edges == first.edges
    assert len(first.edges) == 4
    house.settings = house.settings.model_copy(update={"strata_version": 2})
    again = house.night([*rows, *drives(drive, 90, first=90)])
    assert (again.strata_version, again.edges == first.edges) == (2, False)
    assert homes(again) == homes(later)


@pytest.mark.parametrize("change", [{"difficulty_bins": 3}, {"scorer": "another"}])
def test_another_scorer_or_number_of_bins_cuts_the_strata_anew_and_moves_nothing(
    nights: Callable[..., Nights], drive: Drive, looks: LooksOf, change: dict[str, object]
) -> None:
    house, rows = nights(), drives(drive, 90)
    first = house.night(rows)
    assert first.other_cuts == ()
    bins, scorer = int(str(change.get("difficulty_bins", 5))), str(change.get("scorer", "uniform"))
    house.settings = house.settings.model_copy(update={"difficulty_bins": bins})
    house.looks = lambda *given: replace(looks(*given), scorer=scorer)
    more = [*rows, *drives(drive, 30, first=90)]
    second = house.night(more)
    assert (second.strata_version, second.scorer, len(second.edges)) == (1, scorer, bins - 1)
    assert [(cut.scorer, cut.bins) for cut in second.other_cuts] == [("uniform", 5)]
    assert homes(first).items() <= homes(second).items()
    # They are kept as the first ones were, and so are those when a person takes the change back.
    assert house.night(more) == second
    house.settings, house.looks = SETTINGS, looks
    assert house.night(more).edges == first.edges
    assert len([event for event in house.events if event.event == "strata"]) == 2


def test_a_run_killed_after_the_strata_were_cut_anew_ends_alike(
    nights: Callable[..., Nights], drive: Drive, dataset: Make, looks: LooksOf
) -> None:
    house, rows = nights(), drives(drive, 90)
    house.night(rows)
    known = len(house.events)
    house.settings = house.settings.model_copy(update={"difficulty_bins": 3})
    rows += drives(drive, 20, first=90)
    splits, data = house.night(rows), dataset(rows)
    for kept in range(known, len(house.events) + 1):
        ledger = Ledger().after(house.events[:kept])
        assert split(data, looks(data), ledger, house.settings, AT) == (splits, house.events[kept:])


def test_strata_are_class_difficulty_and_the_metadata_that_are_asked_for(
    nights: Callable[..., Nights], drive: Drive
) -> None:
    rows = drives(drive, 200)
    splits = nights(strata=("daytime", "weather"), difficulty_bins=2).night(rows)
    assert set(splits.sets["train"].strata) == {
        f"{label}/{level}/{daytime}/unknown"
        for label in ("roadwork", "no roadwork")
        for level in (0, 1)
        for daytime in ("day", "night")
    }
    quartiles = splits.sets["test"].difficulty
    assert list(quartiles) == sorted(quartiles)
    assert quartiles[2] == pytest.approx(splits.edges[0], abs=0.15)


def test_what_the_ledger_says_of_a_night(nights: Callable[..., Nights], drive: Drive) -> None:
    house = nights()
    rows = drives(drive, 90)
    splits = house.night(rows)
    cut, *placed = house.events
    assert cut.event == "strata"
    assert {row: (e.split, e.fold) for e in placed if isinstance(e, Assignment) for row in e.rows} == {
        PlacedRow(row=row.image, label=row.label): homes(splits)[row.image] for row in rows
    }


@pytest.mark.parametrize("seed", range(4))
def test_thirteen_cities_are_enough_for_the_tiny_preset(nights: Callable[..., Nights], drive: Drive, seed: int) -> None:
    """Few, large groups with both classes, many small ones without roadwork."""
    rng = np.random.default_rng(seed)
    cities = [
        Row(image=f"city {n:02d} {k:02d}.jpg", label=int(rng.random() < 0.8), group=f"city {n:02d}")
        for n in range(13)
        for k in range(int(rng.integers(20, 50)))
    ]
    rest = [row for n in range(300) for row in drive(n, label=0)]
    preset = PRESETS["tiny"].splits.model_dump() | {"seed": seed, "calibration_folds": 2}
    splits = nights(**{name: getattr(SplitSettings(**preset), name) for name in preset}).night([*cities, *rest])
    assert len(splits.folds) == 2


def test_a_group_that_was_placed_in_another_spelling_keeps_its_home(
    nights: Callable[..., Nights], drive: Drive
) -> None:
    """Ids such as 007 were names once, and are 7 now; the rows that were placed may be gone from an export."""

    def spelled(rows: list[Row], form: str) -> list[Row]:
        return [row.model_copy(update={"group": form.format(int(row.group.split()[1]))}) for row in rows]

    house = nights()
    first = [row for number in range(120) for row in drive(number, frames=2)]
    placed = homes(house.night(spelled(first[::2], "{:05d}")))
    later = homes(house.night(spelled(first[1::2], "{}")))
    assert {row.replace("_1", "_0"): home for row, home in later.items()} == placed
