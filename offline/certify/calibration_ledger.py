"""The calibration ledger: which rows certifications have looked at, and what of delta that spent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from offline.data.chained_ledger import append_chain, read_chain
from offline.data.jsonl import read_records
from stage1.artifacts import append_line

LEDGER = "calibration_ledger.jsonl"
STORE_LOOKS = "looks.jsonl"


class LedgerEntry(BaseModel):
    """One line of the calibration ledger: these rows have been looked at by a certification.

    Attributes:
        schema_version: version of this record.
        key: key of the calibration stage; the same key again is the same certification, resumed.
        rows: ids of the rows, sorted.
        contents: hashes of their files, sorted; without those that nobody knows.
        groups: their groups, sorted.
        level: the part of delta that it spent; None where nobody wrote that down.
        at: UTC, ISO 8601.
        known_from: the claim of a night in this workspace, or a bundle of the store that the workspace knew nothing of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[3] = 3
    key: str
    rows: tuple[str, ...]
    contents: tuple[str, ...] = ()
    groups: tuple[str, ...]
    level: float | None = Field(default=None, gt=0, lt=1)
    at: str
    known_from: Literal["claim", "store"] = "claim"


_ENTRIES = TypeAdapter(LedgerEntry)


def read_certifications(workspace: Path) -> list[LedgerEntry]:
    """All certifications so far; a line that a crash cut short is ignored: its rows were not looked at.

    Raises:
        DatasetError: a line is not an entry of this version, or was edited.
    """
    return read_chain(workspace / LEDGER, _ENTRIES)


def earlier_than(entries: Sequence[LedgerEntry], key: str) -> tuple[list[LedgerEntry], LedgerEntry | None]:
    """The certifications before the one with this key, all of them if it is new, and its own entry if it is not.

    The same key again is the same certification, resumed: what came after it is none of its business.
    """
    for number, entry in enumerate(entries):
        if entry.key == key:
            return list(entries[:number]), entry
    return list(entries), None


def record_look(workspace: Path, entry: LedgerEntry, store: Path | None = None) -> None:
    """Write down that rows are looked at, in the workspace and in the store; to be done before it happens.

    The store outlives a workspace, and is what several have in common; a bundle that would tell of the look may be
    refused, or removed.

    Args:
        workspace: where the ledger is.
        entry: the look.
        store: root of the store; None for none.
    """
    if store is not None:
        store.mkdir(parents=True, exist_ok=True)
        append_line(store / STORE_LOOKS, entry)
    append_chain(workspace / LEDGER, [entry])


def looks_of(store: Path) -> list[LedgerEntry]:
    """The looks that a store has of all workspaces.

    Raises:
        DatasetError: a line is not an entry of this version.
    """
    return read_records(store / STORE_LOOKS, _ENTRIES)
