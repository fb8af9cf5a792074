"""Uses of val_calib: none is forgotten by a workspace of the version before, or with a workspace that is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engines.store.bundle import Provenance
from engines.store.file_names import CALIBRATION
from engines.store.store import Store
from offline.certify.calibration_ledger import (
    LEDGER,
    earlier_than,
    looks_of,
    read_certifications,
    record_look,
)
from offline.certify.calibration_record import CalibrationRecord, CalibrationRow
from offline.certify.compact_look import LedgerEntry
from offline.certify.folds import folds_on_offer
from offline.certify.use_history import bring_up_to_date
from offline.errors import DatasetError
from offline.splits.split_ledger import SPLIT_LEDGER, Assignment, PlacedRow, append_events
from offline.splits.splits_file import SplitRow, Splits, SplitSet
from offline.splits.store_history import StoreHistory, ask_store, check_unspent
from stage1.artifacts import sha256_json
from stage1.certificate.params import ScrcParams
from tests.support.folds import folded

AT = "2026-01-01T00:00:00+00:00"
CONTENTS = {row: row * 64 for row in "abcdef"}
Publish = Callable[..., str]


def named(splits: Splits, **sets: str) -> Splits:
    """The same splits with further sets, each of rows that are called by one letter."""
    more = {
        name: SplitSet(
            rows=tuple(SplitRow(row=row, group=row, sha256=CONTENTS.get(row)) for row in sets.get(name, "")),
            groups=0,
            positives=0,
        )
        for name in ("train", "val_select", "test")
    }
    return splits.model_copy(update={"sets": {**splits.sets, **more}})


@pytest.fixture
def publish(
    tmp_path: Path,
    store: Store,
    tiny_engine: Path,
    write_bundle_files: Callable[..., Path],
    certificate: Callable[..., ScrcParams],
    provenance: Provenance,
) -> Publish:
    """Publishes a bundle that was certified on the rows of a fold; another note is another certification."""

    def one(
        splits: Splits,
        fold: Sequence[str],
        *,
        note: str = "",
        looked: bool = True,
        record: tuple[str, str] | None = None,
        **more: str,
    ) -> str:
        files = write_bundle_files(tmp_path / f"files {len(list(tmp_path.iterdir()))}", engine=tiny_engine, note=note)
        splits.write(files / "splits.json")
        if record is not None:
            recorded(files, *record)
        params = certificate(feasible=looked)
        binding = params.binding.model_copy(update={"val_calib_sha256": sha256_json(sorted(fold))})
        fields = {"binding": binding, "code_version": note} | ({} if looked else {"chains": (), "evidence": ()})
        made = params.model_copy(update={**fields, "seal": ""})
        ScrcParams.model_validate(made.model_dump()).write(files / "scrc_params.json")
        (files / "metrics.csv").write_text(f"{note} {more}")
        return store.publish(files, provenance)

    return one


def uses(workspace: Path, splits: Splits, key: str = "tonight") -> int:
    """Earlier looks at the least used fold, and one more is written down."""
    earlier, own = earlier_than(read_certifications(workspace), key)
    fold = min(folds_on_offer(splits, earlier, delta=0.1, enough=lambda _rows: False), key=lambda one: one.uses)
    if own is None:
        known = tuple(sorted(splits.contents[row] for row in fold.rows if row in splits.contents))
        groups = tuple(sorted(splits.groups[row] for row in fold.rows))
        record_look(
            workspace, LedgerEntry(key=key, rows=tuple(sorted(fold.rows)), contents=known, groups=groups, at=AT)
        )
    return fold.uses


def test_a_lost_workspace_has_not_lost_the_uses_that_bundles_record(
    tmp_path: Path, store: Store, publish: Publish
) -> None:
    splits = named(folded("ab", "c", contents=CONTENTS))
    for night in range(3):
        publish(splits, "ab", note=f"night {night}")
    workspace = tmp_path / "new"
    workspace.mkdir()
    added = bring_up_to_date(workspace, ask_store(store), AT)
    assert [(entry.rows, entry.contents, entry.known_from) for entry in added] == [
        (("a", "b"), ("a" * 64, "b" * 64), "store")
    ] * 3
    # Once and for all, also when the bundles are gone.
    assert bring_up_to_date(workspace, ask_store(store), AT) == []
    assert bring_up_to_date(workspace, StoreHistory(), AT) == []
    assert uses(workspace, folded("xy", contents={"x": "b" * 64, "y": "9" * 64})) == 3
    assert uses(workspace, folded("c", contents=CONTENTS), "another") == 0


def test_what_the_ledger_knows_is_not_counted_twice(tmp_path: Path, store: Store, publish: Publish) -> None:
    splits = named(folded("ab", contents=CONTENTS))
    for night in range(2):
        uses(tmp_path, splits, f"night {night}")
        publish(splits, "ab", note=f"night {night}")
    # The gate's settings were changed: the same certificate in a second bundle.
    publish(splits, "ab", note="night 1", again="yes")
    assert bring_up_to_date(tmp_path, ask_store(store), AT) == []
    assert uses(tmp_path, splits) == 2


def test_a_ledger_that_lost_its_last_lines_is_completed_from_the_store(
    tmp_path: Path, store: Store, publish: Publish
) -> None:
    splits = named(folded("ab", contents=CONTENTS))
    for night in range(4):
        uses(tmp_path, splits, f"night {night}")
        publish(splits, "ab", note=f"night {night}")
    lines = (tmp_path / LEDGER).read_text().splitlines(keepends=True)
    (tmp_path / LEDGER).write_text("".join(lines[:1]))
    assert len(bring_up_to_date(tmp_path, ask_store(store), AT)) == 3
    assert uses(tmp_path, splits) == 4


def test_a_bundle_whose_night_looked_at_no_score_is_no_use(tmp_path: Path, store: Store, publish: Publish) -> None:
    publish(named(folded("ab", contents=CONTENTS)), "ab", looked=False)
    assert bring_up_to_date(tmp_path, ask_store(store), AT) == []


def recorded(files: Path, key: str, rows: str) -> None:
    """Says what the certificate was computed from, as a night does."""
    one = tuple(CalibrationRow(row=row, label=1, group=f"drive {row}") for row in rows)
    CalibrationRecord(key=key, val_select=(), val_calib=one, calib_share=0.2).write(files / CALIBRATION)


def test_a_bundle_that_names_its_rows_and_its_key_is_taken_at_its_word(
    tmp_path: Path, store: Store, publish: Publish
) -> None:
    """A fold that was opened later holds a part of val_calib only, which no hash of a declared fold tells."""
    splits = named(folded("abcd", contents=CONTENTS))
    publish(splits, "cd", note="later fold", record=("night 7", "cd"))
    [entry] = bring_up_to_date(tmp_path, ask_store(store), AT)
    assert (entry.key, entry.rows) == ("night 7", ("c", "d"))
    assert entry.level == pytest.approx(0.1 / 6)
    [old, fresh] = folds_on_offer(splits, read_certifications(tmp_path), delta=0.1, enough=lambda rows: len(rows) > 1)
    assert (set(old.rows), old.uses) == (set("ab"), 0)
    assert (set(fresh.rows), fresh.uses, fresh.from_store) == (set("cd"), 1, 1)


def test_a_look_that_the_ledger_has_under_its_key_is_known(tmp_path: Path, store: Store, publish: Publish) -> None:
    splits = named(folded("abcd", contents=CONTENTS))
    record_look(tmp_path, LedgerEntry(key="night 7", rows=("c", "d"), groups=("drive c", "drive d"), level=0.02, at=AT))
    publish(splits, "cd", note="later fold", record=("night 7", "cd"))
    assert bring_up_to_date(tmp_path, ask_store(store), AT) == []


def test_a_certificate_that_was_edited_may_have_looked_at_all_of_val_calib(
    tmp_path: Path, store: Store, publish: Publish
) -> None:
    bundle = publish(named(folded("ab", "cd", contents=CONTENTS)), "ab")
    (store.path(bundle) / "scrc_params.json").write_text("{}")
    [entry] = bring_up_to_date(tmp_path, ask_store(store), AT)
    assert (entry.key, entry.rows) == (f"certificate {bundle}", ("a", "b", "c", "d"))


# Written by the program of version 2.
BEFORE = """\
{"schema_version":2,"key":"night 0","rows":["a","b"],"groups":["drive a","drive b"],"at":"2026-01-01T00:00:00+00:00"}
{"schema_version":2,"key":"night 1","rows":["a","b","gone"],"groups":["drive a","drive b","drive gone"],\
"at":"2026-01-02T00:00:00+00:00"}
{"schema_version":2,"key":"nig"""


def test_no_use_of_a_ledger_of_version_2_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text(BEFORE)
    rows = tuple(PlacedRow(row=row, sha256=CONTENTS[row]) for row in "abc")
    placed = Assignment(group="g", split="val_calib", fold=0, rows=rows, first_seen=AT, strata_version=1)
    append_events(tmp_path / SPLIT_LEDGER, [placed])
    assert bring_up_to_date(tmp_path, StoreHistory(), AT) == []
    entries = read_certifications(tmp_path)
    assert [(entry.key, entry.rows, entry.groups, entry.at[:10]) for entry in entries] == [
        ("night 0", ("a", "b"), ("drive a", "drive b"), "2026-01-01"),
        ("night 1", ("a", "b", "gone"), ("drive a", "drive b", "drive gone"), "2026-01-02"),
    ]
    assert {entry.contents for entry in entries} == {("a" * 64, "b" * 64)}
    assert (tmp_path / f"{LEDGER}.v2").read_text() == BEFORE
    for renamed in (folded("x", contents={"x": "b" * 64}), folded("b"), folded("y", groups={"y": "drive a"})):
        assert uses(tmp_path, renamed) == 2
    assert uses(tmp_path, folded("z", groups={"z": "drive gone"}), "other") == 1


def test_a_damaged_old_ledger_is_refused_by_its_line(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text(f"{BEFORE.splitlines()[0]}\n{json.dumps({'schema_version': 2, 'key': 'x'})}\n")
    with pytest.raises(DatasetError, match=r"calibration_ledger\.jsonl, line 2: rows"):
        bring_up_to_date(tmp_path, StoreHistory(), AT)


def test_a_bundle_that_came_after_the_split_and_trained_on_a_row_stops_its_certification(
    tmp_path: Path, store: Store, publish: Publish
) -> None:
    ours = named(folded("ab", contents=CONTENTS), train="cd")
    check_unspent(ask_store(store), ours, tmp_path)
    publish(ours, "ab", note="ours")
    check_unspent(ask_store(store), ours, tmp_path)
    bundle = publish(named(folded("cd", contents=CONTENTS), train="be"), "cd", note="theirs")
    with pytest.raises(DatasetError, match=f"bundle {bundle} of the store trained on 'b' .* delete .* and run again"):
        check_unspent(ask_store(store), ours, tmp_path)
    history = ask_store(store)
    old = tuple(replace(past, rows=tuple(replace(row, sha256=None) for row in past.rows)) for past in history.bundles)
    with pytest.raises(DatasetError, match="trained on 'b'"):
        check_unspent(replace(history, bundles=old), ours, tmp_path)


def test_looks_of_two_workspaces_are_all_counted(tmp_path: Path, store: Store, publish: Publish) -> None:
    """One claim stands for one look: it does not stand for that of another workspace at the same rows as well."""
    splits = named(folded("ab", contents=CONTENTS))
    ours = LedgerEntry(key="ours", rows=("a", "b"), groups=("drive a", "drive b"), level=0.02, at=AT)
    record_look(tmp_path, ours)
    publish(splits, "ab", note="ours", record=("ours", "ab"))
    publish(splits, "ab", note="theirs", record=("theirs", "ab"))
    assert [entry.key for entry in bring_up_to_date(tmp_path, ask_store(store), AT)] == ["theirs"]


def test_a_look_whose_bundle_was_refused_is_known_to_the_store(tmp_path: Path, store: Store) -> None:
    look = LedgerEntry(key="night 0", rows=("a",), groups=("drive a",), level=0.02, at=AT)
    lost = tmp_path / "lost"
    lost.mkdir()
    record_look(lost, look, store.root)
    assert bring_up_to_date(lost, StoreHistory(), AT, looks_of(store.root)) == []
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    for _ in range(2):
        bring_up_to_date(fresh, StoreHistory(), AT, looks_of(store.root))
    assert [(entry.key, entry.level, entry.known_from) for entry in read_certifications(fresh)] == [
        ("night 0", 0.02, "store")
    ]
