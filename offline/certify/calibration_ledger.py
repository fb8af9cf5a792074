"""The calibration ledger: which rows certifications have looked at, and what of delta that spent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from offline.certify.compact_look import LOOKS, FoldBook, LedgerEntry
from offline.data.chained_ledger import append_chain, chain
from offline.data.jsonl import records
from offline.errors import PipelineBusy
from stage1.artifacts import append_line

LEDGER = "calibration_ledger.jsonl"
STORE_LOOKS = "looks.jsonl"
LOCK, LOCK_WAIT_S = ".looks.lock", 60.0


def read_certifications(workspace: Path) -> list[LedgerEntry]:
    """All certifications so far; a line that a crash cut short is ignored: its rows were not looked at.

    Raises:
        DatasetError: a line is not a look, or was edited.
    """
    path = workspace / LEDGER
    return list(FoldBook().entries(chain(path, LOOKS), path))


def append_certifications(workspace: Path, entries: Sequence[LedgerEntry]) -> None:
    """Write certifications into the ledger of a workspace.

    Raises:
        DatasetError: what is there already is not a look, or was edited.
    """
    if not entries:
        return
    path, book = workspace / LEDGER, FoldBook()
    for _ in book.entries(chain(path, LOOKS), path):
        pass
    append_chain(path, [book.compact(entry) for entry in entries])


def earlier_than(entries: Sequence[LedgerEntry], key: str) -> tuple[list[LedgerEntry], LedgerEntry | None]:
    """The certifications before the one with this key, all of them if it is new, and its own entry if it is not.

    The same key again is the same certification, resumed: what came after it is none of its business.
    """
    for number, entry in enumerate(entries):
        if entry.key == key:
            return list(entries[:number]), entry
    return list(entries), None


@contextmanager
def one_look_at_a_time(store: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """From counting the looks so far to writing down the next one, for all workspaces of a store.

    Without it two certifications at the same moment would each be the first, and spend the same part of delta twice.

    Args:
        store: root of the store.
        wait_s: how long another one may take.

    Raises:
        PipelineBusy: it takes longer.
    """
    store.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(store / LOCK, timeout=wait_s):
            yield
    except Timeout as error:
        raise PipelineBusy(f"{store}: another run is about to look at val_calib; try again when it has") from error


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
        tell_store(store, entry)
    append_certifications(workspace, [entry])


def tell_store(store: Path, entry: LedgerEntry) -> None:
    """Write a look into the store alone, which keeps it whatever becomes of bundles and workspaces.

    Raises:
        DatasetError: what is there already is not a look.
    """
    store.mkdir(parents=True, exist_ok=True)
    path, book = store / STORE_LOOKS, FoldBook()
    for _ in book.entries(records(path, LOOKS), path):
        pass
    append_line(path, book.compact(entry))


def looks_of(store: Path) -> list[LedgerEntry]:
    """The looks that a store has of all workspaces.

    Raises:
        DatasetError: a line is not a look.
    """
    path = store / STORE_LOOKS
    return list(FoldBook().entries(records(path, LOOKS), path))
