"""The store: a directory of immutable bundles, one atomic `current` pointer, and a history."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field

from engines.errors import BundleRefused, PointerMoved, StoreError, UnknownBundle
from engines.store.bundle import Manifest, Provenance, bundle_id_of, describe_files, verify_bundle
from engines.store.file_names import MANIFEST, PARITY_TOLERANCE
from stage1.artifacts import Artifact, append_line, fsync_directory, fsync_tree

POINTER = "current.json"
HISTORY = "history.jsonl"
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


class HistoryEntry(BaseModel):
    """One line of `history.jsonl`."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    sequence: int
    bundle: str
    action: str
    at: str


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
        """Every bundle, oldest first. Manifests are read, file hashes are not checked."""
        pointer = self.current()
        rows = []
        for bundle_id in self._ids():
            path = self._home / bundle_id
            is_current = pointer is not None and pointer.bundle == bundle_id
            is_previous = pointer is not None and pointer.previous == bundle_id
            rows.append(Listed(Manifest.read(path / MANIFEST), path, is_current, is_previous))
        return sorted(rows, key=lambda row: row.manifest.provenance.created_at)

    def publish(self, source: Path, provenance: Provenance, *, parity_tolerance: float = PARITY_TOLERANCE) -> str:
        """Copy the files of `source` into the store as one bundle; it does not become current.

        The bundle appears under its name in one rename, complete and flushed. Publishing the same files again changes
        nothing.

        Args:
            source: directory with the files of the bundle.
            provenance: where they come from.
            parity_tolerance: largest difference from the golden outputs that its engine may have, in logits.

        Returns:
            The id of the bundle.

        Raises:
            BundleRefused: a required file is missing.
            OSError: the disk is full or read-only; nothing is left behind.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        incoming = self._home / f".incoming-{os.getpid()}-{secrets.token_hex(4)}"
        with self._writing():
            self._sweep()
            try:
                incoming.mkdir()
                for name in describe_files(source):
                    shutil.copyfile(source / name, incoming / name)
                files = describe_files(incoming)
                bundle_id = bundle_id_of(files)
                Manifest(
                    bundle_id=bundle_id, files=files, provenance=provenance, parity_tolerance=parity_tolerance
                ).write(incoming / MANIFEST)
                fsync_tree(incoming)
                if not (self._home / bundle_id).exists():
                    incoming.rename(self._home / bundle_id)
                    fsync_directory(self._home)
            finally:
                shutil.rmtree(incoming, ignore_errors=True)
        return bundle_id

    def activate(
        self, bundle_id: str, *, now: datetime, action: str = "activate", instead_of: str | None = None
    ) -> Pointer:
        """Make a bundle current, after checking every hash of it.

        Args:
            bundle_id: id or an unambiguous beginning of one.
            now: the time to record, with a time zone.
            action: what the history calls this change.
            instead_of: id of the bundle whose place it takes; a rollback goes where it would have gone from that one.

        Raises:
            UnknownBundle: it is not in the store.
            BundleRefused: it is damaged; the pointer stays as it was.
            PointerMoved: another one than `instead_of` is current.
        """
        path = self.path(bundle_id)
        self.verify(path.name)
        with self._writing():
            before = self.current()
            if before is not None and before.bundle == path.name:
                return before
            if instead_of is not None and (before is None or before.bundle != instead_of):
                raise PointerMoved(f"{self.root}: {instead_of} is not current any more")
            sequence = 1 if before is None else before.sequence + 1
            at = now.isoformat(timespec="seconds")
            previous = None
            if before is not None:
                previous = before.previous if instead_of else before.bundle
            pointer = Pointer(bundle=path.name, previous=previous, sequence=sequence, changed_at=at)
            pointer.write(self.pointer_path)
            append_line(self.root / HISTORY, HistoryEntry(sequence=sequence, bundle=path.name, action=action, at=at))
        return pointer

    def rollback(self, *, now: datetime) -> Pointer:
        """Make the previous bundle current again.

        Raises:
            UnknownBundle: there is no previous bundle.
        """
        pointer = self.current()
        if pointer is None or pointer.previous is None:
            raise UnknownBundle(f"{self.root}: there is no previous bundle to roll back to")
        return self.activate(pointer.previous, now=now, action="rollback")

    def prune(self, keep: int) -> list[str]:
        """Remove old bundles; the current one, the one before it and the newest are kept.

        A bundle disappears under its name in one rename, so nobody ever reads half of one. Who has it loaded keeps it:
        an engine reads its files when it is made.

        Args:
            keep: bundles that stay, the current one and the one before it among them where they are among the newest.

        Returns:
            Ids of what was removed, oldest first.
        """
        with self._writing():
            self._sweep()
            rows = self.bundles()
            newest = {row.manifest.bundle_id for row in rows[max(0, len(rows) - keep) :]}
            gone = [row for row in rows if not (row.current or row.previous or row.manifest.bundle_id in newest)]
            for row in gone:
                removed = self._home / f".removed-{row.manifest.bundle_id}"
                row.path.rename(removed)
                fsync_directory(self._home)
                shutil.rmtree(removed)
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
