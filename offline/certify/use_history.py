"""Which certifications looked at which rows, by all that remembers it: the ledger, and the bundles of the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from engines.store.bundle import Manifest
from engines.store.file_names import CALIBRATION, MANIFEST, PARAMS
from offline.certify.calibration_ledger import LEDGER, append_certifications, read_certifications
from offline.certify.calibration_record import CalibrationRecord
from offline.certify.compact_look import FoldBook, LedgerEntry
from offline.data.chained_ledger import take_over
from offline.splits.bundle_past import PastRow
from offline.splits.split_ledger import SPLIT_LEDGER, Ledger, read_split_ledger
from offline.splits.store_history import BundlePast, StoreHistory
from stage1.artifacts import sha256_json
from stage1.errors import ArtifactError

OLD_VERSION = 2
KEY_LENGTH = 16
WITHOUT_KEY = "certificate "


class _OldEntry(BaseModel):
    """A line of version 2, which knew rows by their paths alone."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[2]
    key: str
    rows: tuple[str, ...]
    groups: tuple[str, ...]
    at: str


class _Binding(BaseModel):
    val_calib_sha256: str


class _Chain(BaseModel):
    tested: int = 0


class _Certificate(BaseModel):
    """Of a `scrc_params.json` of any version: its rows, and whether their scores were looked at."""

    model_config = ConfigDict(extra="ignore")

    seal: str
    binding: _Binding
    spent: float | None = None
    chains: tuple[_Chain, ...] = ()
    evidence: tuple[object, ...] = ()

    @property
    def looked(self) -> bool:
        return bool(self.evidence) or any(chain.tested for chain in self.chains)


_OLD = TypeAdapter(_OldEntry)


def bring_up_to_date(
    workspace: Path, history: StoreHistory, at: str, looks: Sequence[LedgerEntry] = ()
) -> list[LedgerEntry]:
    """Write into the calibration ledger what it does not know, before anybody counts uses.

    A ledger of version 2 is taken over: no use is forgotten, and its rows get the contents that the split ledger knows.
    A certification of a bundle for which the ledger has no entry with the same rows is added as a use. Where one was
    computed twice, because its stage was damaged and run again, this may count it twice, and never too seldom.

    Args:
        workspace: where the ledgers are.
        history: what the bundles of the store were made of.
        at: time to write down.
        looks: what the store has of looks itself, also of bundles that are gone.

    Returns:
        The certifications that the store alone knew, now in the ledger.

    Raises:
        DatasetError: a ledger is damaged or was edited.
    """
    path, book = workspace / LEDGER, FoldBook()
    placed = read_split_ledger(workspace / SPLIT_LEDGER)
    take_over(path, _OLD, OLD_VERSION, lambda old: [book.compact(_renewed(entry, placed)) for entry in old])
    told = [entry.model_copy(update={"known_from": "store"}) for entry in looks]
    unknown = unknown_uses(read_certifications(workspace), [*told, *certifications_of(history, at)])
    append_certifications(workspace, unknown)
    return unknown


def certifications_of(history: StoreHistory, at: str) -> list[LedgerEntry]:
    """A use for each certificate of the store that was computed from scores of val_calib rows, oldest first.

    Args:
        history: what the bundles of the store were made of.
        at: time to write down.
    """
    found: dict[str, LedgerEntry] = {}
    for past in history.bundles:
        certificate = _certificate(past)
        if certificate is not None and not certificate.looked:
            continue
        # What cannot be read may have looked at all of them.
        name = past.bundle if certificate is None else certificate.seal[:KEY_LENGTH]
        record = _record(past)
        # The key under which the workspace of the certification knows it, or else one of its own.
        key = f"{WITHOUT_KEY}{name}" if record is None else record.key
        rows = _certified(past, record, None if certificate is None else certificate.binding.val_calib_sha256)
        level = None if certificate is None else certificate.spent
        found.setdefault(name, _entry(key, rows, level, at))
    return list(found.values())


def unknown_uses(known: Sequence[LedgerEntry], certified: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """The certifications for which there is no entry.

    A bundle of an earlier program does not name the key of its certification; then an entry with the same rows stands
    for it.

    Args:
        known: entries of the ledger.
        certified: certifications of the store.
    """
    told = list(certified)
    keys, named = {entry.key for entry in known}, {entry.key for entry in told}
    # A claim that a bundle names by its key stands for that one, and for no other.
    own = [entry.rows for entry in known if entry.known_from == "claim" and entry.key not in named]
    unknown: dict[str, LedgerEntry] = {}
    for entry in told:
        if entry.key in keys:
            continue
        if entry.key.startswith(WITHOUT_KEY) and entry.rows in own:
            own.remove(entry.rows)
        else:
            unknown.setdefault(entry.key, entry)
    return list(unknown.values())


def _renewed(entry: _OldEntry, placed: Ledger) -> LedgerEntry:
    rows = set(entry.rows)
    contents = sorted({sha256 for row, sha256 in placed.placed if sha256 is not None and row in rows})
    return LedgerEntry(key=entry.key, rows=entry.rows, contents=tuple(contents), groups=entry.groups, at=entry.at)


def _certificate(past: BundlePast) -> _Certificate | None:
    """The certificate of a bundle; None if it cannot be read, or was edited."""
    path = past.path / PARAMS
    try:
        if not Manifest.read(past.path / MANIFEST).holds(path):
            return None
        return _Certificate.model_validate_json(path.read_bytes())
    except (ArtifactError, OSError, ValidationError):
        return None


def _record(past: BundlePast) -> CalibrationRecord | None:
    """What the certificate of a bundle was computed from; None if the bundle does not say, or was edited."""
    path = past.path / CALIBRATION
    try:
        if not Manifest.read(past.path / MANIFEST).holds(path):
            return None
        return CalibrationRecord.read(path)
    except (ArtifactError, OSError):
        return None


def _certified(past: BundlePast, record: CalibrationRecord | None, rows_sha256: str | None) -> list[PastRow]:
    """Rows of the certificate: those that the bundle names, or the fold with this hash, or else all of val_calib."""
    if record is not None:
        looked = {row.row for row in record.val_calib}
        return [row for row in past.rows if row.row in looked]
    folds: dict[int | None, list[PastRow]] = {}
    for row in past.rows:
        if row.home.split == "val_calib":
            folds.setdefault(row.home.fold, []).append(row)
    matching = [fold for fold in folds.values() if sha256_json(sorted(row.row for row in fold)) == rows_sha256]
    return matching[0] if matching else [row for fold in folds.values() for row in fold]


def _entry(key: str, rows: Sequence[PastRow], level: float | None, at: str) -> LedgerEntry:
    return LedgerEntry(
        key=key,
        rows=tuple(sorted(row.row for row in rows)),
        contents=tuple(sorted({row.sha256 for row in rows if row.sha256 is not None})),
        groups=tuple(sorted({row.group for row in rows})),
        level=level,
        at=at,
        known_from="store",
    )
