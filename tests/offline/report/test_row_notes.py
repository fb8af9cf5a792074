"""What a person is told of the rows: how many are left out, why, with an example, and where the rest stand."""

from __future__ import annotations

from typing import Any

from offline.data.checks.preflight import PreflightFinding, PreflightReport
from offline.report.row_notes import row_notes
from offline.splits.splits_file import LongChains, OtherCut, Quarantined, QuarantineKind, Splits

PLAIN = PreflightReport(rows=100, left_out=(), findings=())


def splits(**more: Any) -> Splits:
    return Splits.model_validate({"seed": 0, "data_sha256": "d", "sets": {}, "folds": ()} | more)


def out(kind: QuarantineKind | None, reason: str, *rows: str) -> list[Quarantined]:
    return [Quarantined(row=row, reason=reason, kind=kind) for row in rows]


def test_a_plain_night_tells_nothing() -> None:
    assert row_notes(PLAIN, splits()) == ()


def test_quarantined_rows_are_told_by_kind_the_commonest_reasons_first() -> None:
    tied = [
        *out("ties two sets", "joins 'a' and 'b'", "1.jpg"),
        *out("ties two sets", "joins 'c' and 'd'", "2.jpg", "3.jpg", "4.jpg"),
        *out("ties two sets", "joins 'e' and 'f'", "5.jpg"),
        *out("ties two sets", "joins 'g' and 'h'", "6.jpg"),
    ]
    spent = out("spent", "bundle x trained on '7.jpg'", "7.jpg", "8.jpg")
    others = out("only trains", "depends on 'z'", "9.jpg")
    two_sets, certified, extra = row_notes(PLAIN, splits(quarantined=[*tied, *spent, *others]))
    assert two_sets == (
        "6 rows are in no set, because they depend on rows of two sets, which never move, for example "
        "'2.jpg' and 2 more: joins 'c' and 'd'; '1.jpg': joins 'a' and 'b'; '5.jpg': joins 'e' and 'f'; "
        "`quarantined` in splits.json names them all, each with its reason"
    )
    assert certified.startswith("2 rows are in no set, because they were to certify, and a bundle of the store trained")
    assert "for example '7.jpg' and 1 more: bundle x trained on '7.jpg'; `quarantined`" in certified
    assert extra.startswith("1 rows are in no set, because they may only train, and depend on rows of an exam")


def test_what_preflight_found_is_told_and_the_file_that_names_the_rest() -> None:
    bad = PreflightFinding(
        kind="unreadable", policy="left out", rows=3, share=0.03, examples=("'x.jpg': cut short", "'y.jpg': no image")
    )
    same = PreflightFinding(
        kind="copies", policy="kept", rows=2, share=0.02, examples=("'q.jpg': the same as 'p.jpg'",)
    )
    report = PreflightReport(rows=100, left_out=("x.jpg", "y.jpg", "z.jpg"), findings=(bad, same))
    left_out, kept = row_notes(report, splits())
    assert left_out == f"{bad}; preflight.json names all that are left out"
    assert kept == "copies: 2 rows (2.0%), kept, for example 'q.jpg': the same as 'p.jpg'"


def test_chains_bundles_and_bins_are_told() -> None:
    chained, unread, cut = row_notes(
        PLAIN,
        splits(
            chains=LongChains(groups=2, rows=140),
            unread_bundles=("b1", "b2"),
            scorer="new",
            edges=(0.5,),
            other_cuts=(OtherCut(scorer="old", bins=5, at="2026-01-01T00:00:00+00:00"),),
        ),
    )
    assert chained.startswith(
        "140 rows of 2 groups only train, because they tie more than splits.roadwork_chain visits"
    )
    assert unread.startswith("2 bundles of the store do not say what they were made of, for example b1: ")
    assert "were cut anew, into 2 by 'new'; other nights cut them into 5 by 'old' on 2026-01-01. No row moved" in cut
