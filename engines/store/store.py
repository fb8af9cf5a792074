"""The store: a directory of immutable bundles, one atomic `current` pointer, and a history."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from filelock import FileLock, Timeout
from pydantic import Field

from engines.errors import BundleRefused, PointerMoved, StoreError, UnknownBundle
from engines.store.bundle import Manifest, Provenance, bundle_files, bundle_id_of, describe_files, verify_bundle
from engines.store.bundle_record import keep_record, record_of
from engines.store.file_names import MANIFEST
from engines.store.holds import unheld
from engines.store.model_card import card_path
from engines.store.records import (
    HISTORY,
    PUBLISHED,
    REJECTED,
    REVOKED,
    ROLLBACK,
    VERDICTS,
    HistoryEntry,
    PublishedEntry,
    RejectionEntry,
    RevocationEntry,
    VerdictEntry,
    read_entries,
)
from engines.store.shared_file import share
from stage1.artifacts import Artifact, append_line, fsync_directory, fsync_tree
from stage1.tolerance import TOLERANCE

POINTER = "current.json"
LOCK_TIMEOUT_S = 30.0
ABANDONED_S = 86_400.0


class Pointer(Artifact):
    """`current.json`: which bundle is live.

    Attributes:
        bundle: id of the current bundle.
        previous: id of the bundle before it, where `rollback` goes.
        sequence: grows by one with every change.
        changed_at: when, UTC, ISO 8601.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    bundle: str = Field(pattern=r"^[0-9a-f]{16}$")
    previous: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}$")
    sequence: int = Field(ge=1)
    changed_at: str


@dataclass(frozen=True)
class Listed:
    """One row of `Store.bundles`."""

    manifest: Manifest
    path: Path
    current: bool
    previous: bool


class Store:
    """Bundles under `root/bundles/<id>/`.

    Several processes may publish, activate and read at the same time: writers take a file lock, and readers only ever
    see complete bundles and a complete pointer.

    Args:
        root: created on first publish.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._home = root / "bundles"

    @property
    def pointer_path(self) -> Path:
        """The file that a running miner watches."""
        return self.root / POINTER

    def path(self, bundle_id: str) -> Path:
        """Directory of a bundle.

        Raises:
            UnknownBundle: it is not in the store; the message names those that are.
        """
        if bundle_id in self._ids():
            return self._home / bundle_id
        matches = [b for b in self._ids() if b.startswith(bundle_id)] if bundle_id else []
        if len(matches) == 1:
            return self._home / matches[0]
        if bundle_id and not matches and (record := record_of(self.root, bundle_id)) is not None:
            raise UnknownBundle(f"{self.root}: the weights of {bundle_id} were removed; its record is in {record}")
        known = ", ".join(self._ids()) or "none"
        problem = f"{len(matches)} bundles begin with" if matches else "no bundle is called"
        raise UnknownBundle(f"{self.root}: {problem} {bundle_id!r}; bundles there: {known}")

    def current(self) -> Pointer | None:
        """The pointer, or None before the first activation.

        Raises:
            stage1.errors.ArtifactError: the pointer file is damaged.
        """
        return Pointer.read(self.pointer_path) if self.pointer_path.exists() else None

    def bundles(self) -> list[Listed]:
        """Every bundle in the order of publication. Manifests are read, file hashes are not checked."""
        pointer = self.current()
        rows = []
        for bundle_id in self._ids():
            path = self._home / bundle_id
            is_current = pointer is not None and pointer.bundle == bundle_id
            is_previous = pointer is not None and pointer.previous == bundle_id
            rows.append(Listed(Manifest.read(path / MANIFEST), path, is_current, is_previous))
        # Not by the time of publication: a clock may have been set back.
        published = read_entries(self.root / PUBLISHED, PublishedEntry)
        order = {entry.bundle: place for place, entry in enumerate(published)}
        # One that is not listed was there before there was a list.
        return sorted(rows, key=lambda row: (order.get(row.manifest.bundle_id, -1), row.manifest.provenance.created_at))

    def publish(
        self,
        source: Path | Mapping[str, Path],
        provenance: Provenance,
        *,
        parity_tolerance: float = TOLERANCE,
        unchanging: bool = False,
    ) -> str:
        """Copy files into the store as one bundle; it does not become current.

        The bundle appears under its name in one rename, complete and flushed. Publishing the same files again changes
        nothing.

        Args:
            source: directory with the files of the bundle, or the files by the names that they get.
            provenance: where they come from.
            parity_tolerance: largest difference from the golden outputs that its engine may have, in logits.
            unchanging: nobody writes into these files any more, so that the bundle may share their bytes on the disk.

        Returns:
            The id of the bundle.

        Raises:
            BundleRefused: a required file is missing.
            OSError: the disk is full or read-only; nothing is left behind.
        """
        files = source if isinstance(source, Mapping) else {path.name: path for path in bundle_files(source)}
        bring = share if unchanging else shutil.copyfile
        self._home.mkdir(parents=True, exist_ok=True)
        incoming = self._home / f".incoming-{os.getpid()}-{secrets.token_hex(4)}"
        with self._writing():
            self._sweep()
            try:
                incoming.mkdir()
                for name, path in files.items():
                    bring(path, incoming / name)
                described = describe_files(incoming)
                bundle_id = bundle_id_of(described)
                Manifest(
                    bundle_id=bundle_id, files=described, provenance=provenance, parity_tolerance=parity_tolerance
                ).write(incoming / MANIFEST)
                if not (self._home / bundle_id).exists():
                    # Before it has its name: a line about one that never came does no harm.
                    append_line(self.root / PUBLISHED, PublishedEntry(bundle=bundle_id))
                fsync_tree(incoming)
                if not (self._home / bundle_id).exists():
                    incoming.rename(self._home / bundle_id)
                    fsync_directory(self._home)
            finally:
                shutil.rmtree(incoming, ignore_errors=True)
        return bundle_id

    def activate(
        self,
        bundle_id: str,
        *,
        now: datetime,
        action: str = "activate",
        instead_of: str | None = None,
        after: int | None = None,
        although_rejected: bool = False,
    ) -> Pointer:
        """Make a bundle current, after checking every hash of it.

        Args:
            bundle_id: id or an unambiguous beginning of one.
            now: the time to record, with a time zone.
            action: what the history calls this change.
            instead_of: id of the bundle whose place it takes; a rollback goes where it would have gone from that one.
            after: sequence of the pointer by which that was decided, 0 where there was none; None for any.
            although_rejected: it may have been rejected, and is not any more.

        Raises:
            UnknownBundle: it is not in the store.
            BundleRefused: it is damaged, or was rejected; the pointer stays as it was.
            PointerMoved: another one than `instead_of` is current, or the pointer has moved after `after`.
        """
        path = self.path(bundle_id)
        self.verify(path.name)
        with self._writing():
            self._check_rejection(path.name, now, although_rejected=although_rejected)
            before = self.current()
            if before is not None and before.bundle == path.name:
                return before
            if instead_of is not None and (before is None or before.bundle != instead_of):
                raise PointerMoved(f"{self.root}: {instead_of} is not current any more")
            sequence = 1 if before is None else before.sequence + 1
            if after is not None and sequence != after + 1:
                raise PointerMoved(f"{self.root}: another bundle has become current since that was decided")
            at = now.isoformat(timespec="seconds")
            previous = None if before is None else before.previous if instead_of else before.bundle
            pointer = Pointer(bundle=path.name, previous=previous, sequence=sequence, changed_at=at)
            pointer.write(self.pointer_path)
            append_line(self.root / HISTORY, HistoryEntry(sequence=sequence, bundle=path.name, action=action, at=at))
        return pointer

    def rollback(self, *, now: datetime, to: str | None = None, why: str = "") -> Pointer:
        """Make the previous bundle current again, and remember that the one which was current is rejected.

        Args:
            now: the time to record, with a time zone.
            to: id of the bundle to go back to; None for the previous one.
            why: the other one is rejected; empty where nobody says.

        Raises:
            UnknownBundle: there is no previous bundle.
            BundleRefused: the one to go back to is damaged.
        """
        pointer = self.current()
        wanted = to or (pointer and pointer.previous)
        if pointer is None or not wanted:
            raise UnknownBundle(f"{self.root}: there is no previous bundle to roll back to")
        if pointer.bundle != wanted:
            self.verify(wanted)
            with self._writing():
                self._say(pointer.bundle, now, rejected=True, why=why)
        # The operator wants this one, whatever was said of it earlier.
        return self.activate(wanted, now=now, action=ROLLBACK, although_rejected=True)

    def rejected(self) -> dict[str, str]:
        """Bundles that an operator has rolled back, each with who did it and when; no night makes one current."""
        entries = read_entries(self.root / REJECTED, RejectionEntry)
        return {bundle: entry.reason for bundle, entry in {e.bundle: e for e in entries}.items() if entry.rejected}

    def revoke(self, entry: RevocationEntry) -> None:
        """Remember that an alarm has revoked a certificate; the first time is what counts."""
        with self._writing():
            if entry.certificate not in self.revoked():
                append_line(self.root / REVOKED, entry)

    def revoked(self) -> dict[str, RevocationEntry]:
        """Certificates that an alarm has revoked, by name; nothing gives one back."""
        return {entry.certificate: entry for entry in reversed(read_entries(self.root / REVOKED, RevocationEntry))}

    def judged(self, verdict: VerdictEntry) -> None:
        """Remember what the gate said of a challenger."""
        with self._writing():
            append_line(self.root / VERDICTS, verdict)

    def last_verdict(self) -> VerdictEntry | None:
        """What the gate said last, None if it has said nothing yet."""
        # Told to people, and nothing depends on it: a damaged file must not keep a miner from saying how it is.
        with contextlib.suppress(StoreError, OSError):
            entries = read_entries(self.root / VERDICTS, VerdictEntry)
            return entries[-1] if entries else None
        return None

    def discard(self, bundle_id: str) -> None:
        """Remove a bundle that is neither current nor the one before it; its record stays.

        Raises:
            UnknownBundle: it is not in the store.
            StoreError: it is current, or the one before it, or some process uses it.
        """
        path = self.path(bundle_id)
        with self._writing():
            pointer = self.current()
            if pointer is not None and path.name in {pointer.bundle, pointer.previous}:
                raise StoreError(f"{self.root}: {path.name} is current, or was before: it stays")
            if not self._remove(path):
                raise StoreError(f"{self.root}: a process loads, serves or copies {path.name}: it stays")

    def superfluous(self, keep: int, *, protected: Collection[str] = ()) -> list[Listed]:
        """What `prune` would remove, oldest first, were no process to use it.

        The current bundle, the one before it and the newest are kept. One that was rejected only stays while it is
        current or the one before it.

        Args:
            keep: bundles that stay, the current one and the one before it among them where they are among the newest.
            protected: ids of others that stay too.
        """
        rows, rejected = self.bundles(), self.rejected().keys()
        newest = [row.manifest.bundle_id for row in rows if row.manifest.bundle_id not in rejected][-keep:]
        staying = {*newest, *protected} - rejected
        return [row for row in rows if not (row.current or row.previous or row.manifest.bundle_id in staying)]

    def prune(self, keep: int, *, protected: Collection[str] = ()) -> list[str]:
        """Remove old bundles; see `superfluous`. What a process loads, serves or copies stays, and so does each record.

        A bundle disappears under its name in one rename, so nobody ever reads half of one.

        Args:
            keep: see `superfluous`.
            protected: see `superfluous`.

        Returns:
            Ids of what was removed, oldest first.
        """
        with self._writing():
            self._sweep()
            gone = [row for row in self.superfluous(keep, protected=protected) if self._remove(row.path)]
        return [row.manifest.bundle_id for row in gone]

    def verify(self, bundle_id: str) -> Manifest:
        """Check every hash of a bundle.

        Raises:
            UnknownBundle: it is not in the store.
            BundleRefused: a file is missing, changed or extra.
        """
        path = self.path(bundle_id)
        manifest = verify_bundle(path)
        if manifest.bundle_id != path.name:
            raise BundleRefused(f"{path}: the directory holds bundle {manifest.bundle_id}")
        return manifest

    def _remove(self, path: Path) -> bool:
        """Remove a bundle but for its record, unless a process holds it; says whether it did."""
        with unheld(self.root, path.name) as free:
            if not free:
                return False
            keep_record(self.root, path)
            removed = self._home / f".removed-{path.name}"
            path.rename(removed)
            fsync_directory(self._home)
            shutil.rmtree(removed)
            card_path(self.root, path.name).unlink(missing_ok=True)
        return True

    def _check_rejection(self, bundle: str, now: datetime, *, although_rejected: bool) -> None:
        reason = self.rejected().get(bundle)
        if reason is None:
            return
        if not although_rejected:
            raise BundleRefused(f"{self.root}: {bundle} {reason}; with --although-rejected it becomes current")
        self._say(bundle, now, rejected=False)

    def _say(self, bundle: str, now: datetime, *, rejected: bool, why: str = "") -> None:
        at = now.isoformat(timespec="seconds")
        reason = f"was rolled back at {at}" if rejected else "was made current all the same"
        reason += f" because {why}" if why else ""
        append_line(self.root / REJECTED, RejectionEntry(bundle=bundle, rejected=rejected, reason=reason, at=at))

    def _ids(self) -> list[str]:
        if not self._home.is_dir():
            return []
        return sorted(p.name for p in self._home.iterdir() if not p.name.startswith(".") and (p / MANIFEST).is_file())

    def _sweep(self) -> None:
        """Remove what a process that was killed left here; the lock is held, so none publishes or prunes."""
        for kind in (".incoming-*", ".removed-*"):
            for leftover in self._home.glob(kind):
                shutil.rmtree(leftover, ignore_errors=True)
        # Whoever imports or measures does not hold the lock, and takes minutes.
        before = time.time() - ABANDONED_S
        for kind in (".import-*", ".bench-*"):
            for leftover in self.root.glob(kind):
                with contextlib.suppress(FileNotFoundError):
                    if leftover.stat().st_mtime < before:
                        shutil.rmtree(leftover, ignore_errors=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / ".lock", timeout=LOCK_TIMEOUT_S):
                yield
        except Timeout as error:
            raise StoreError(f"{self.root}: another process has held the store for {LOCK_TIMEOUT_S:.0f} s") from error
