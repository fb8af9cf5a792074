"""What a store remembers beside its bundles: the pointer's moves, publications, rejections, revoked certificates."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from engines.errors import StoreError
from stage1.artifacts import whole_lines
from stage1.settings import first_problem

VERDICTS = "verdicts.jsonl"
HISTORY = "history.jsonl"
PUBLISHED = "published.jsonl"
REJECTED = "rejected.jsonl"
REVOKED = "revoked.jsonl"
# What the history calls a move to an earlier bundle, and one to the same model, compiled or certified anew.
ROLLBACK, COMPILE = "rollback", "compile"


class HistoryEntry(BaseModel):
    """One line of `history.jsonl`: the pointer moved."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    sequence: int
    bundle: str
    action: str
    at: str


class PublishedEntry(BaseModel):
    """One line of `published.jsonl`: a bundle came into the store, in the order of the lines."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    bundle: str


class RejectionEntry(BaseModel):
    """One line of `rejected.jsonl`; of several about one bundle the last one holds.

    Attributes:
        bundle: the bundle.
        rejected: it is; False where an operator has taken that back.
        reason: who rejected it, and when.
        at: UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    bundle: str
    rejected: bool
    reason: str
    at: str


class RevocationEntry(BaseModel):
    """One line of `revoked.jsonl`: an alarm has told, while a bundle served, that its certificate does not hold.

    Attributes:
        certificate: name of the certificate, the beginning of its seal.
        bundle: that served by it.
        reason: what was found.
        at: UTC, ISO 8601, with a time zone.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    certificate: str
    bundle: str
    reason: str
    at: AwareDatetime


class VerdictEntry(BaseModel):
    """One line of `verdicts.jsonl`: what the gate said of a challenger.

    Attributes:
        bundle: the challenger; not in the store any more if it was refused.
        verdict: PROMOTE, KEEP or REFUSE.
        reasons: why it was not promoted.
        notes: what else there is to know; none in a line of an earlier program.
        at: UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    bundle: str
    verdict: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()
    at: str


Entry = TypeVar("Entry", bound=BaseModel)


def read_entries(path: Path, kind: type[Entry]) -> list[Entry]:
    """All entries of a file in order, none if there is no file; a line that a crash cut short is no entry.

    Raises:
        StoreError: a whole line is something else; the message names it.
    """
    entries = []
    for line in whole_lines(path):
        try:
            entries.append(kind.model_validate_json(line.text))
        except ValidationError as error:
            raise StoreError(f"{path}, line {line.number}: {first_problem(error, otherwise='the line')}") from error
    return entries


def last_move(root: Path, bundle: str) -> HistoryEntry | None:
    """How a bundle became current the last time; None where nothing says so.

    Args:
        root: directory of the store.
        bundle: its id.

    Raises:
        StoreError: see `read_entries`.
    """
    moves = read_entries(root / HISTORY, HistoryEntry)
    return next((entry for entry in reversed(moves) if entry.bundle == bundle), None)


def live_since(root: Path, since: datetime) -> set[str]:
    """Bundles that have been current at any time since then.

    Args:
        root: directory of the store.
        since: with a time zone.

    Raises:
        StoreError: see `read_entries`.
    """
    moves = [(datetime.fromisoformat(entry.at), entry.bundle) for entry in read_entries(root / HISTORY, HistoryEntry)]
    before = [bundle for at, bundle in moves if at < since]
    return {bundle for at, bundle in moves if at >= since} | set(before[-1:])


def went_back_from(root: Path) -> set[str]:
    """Bundles that have been current since one last became so that was neither rolled back to nor compiled anew.

    That one is among them, and so is the current one.

    Args:
        root: directory of the store.

    Raises:
        StoreError: see `read_entries`.
    """
    found: set[str] = set()
    for entry in reversed(read_entries(root / HISTORY, HistoryEntry)):
        found.add(entry.bundle)
        if entry.action not in {ROLLBACK, COMPILE}:
            break
    return found
