"""Holds on bundles: who loads, serves or copies one says so, and nobody removes it meanwhile.

A hold is a shared lock on a small file, which the system gives back when its process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOLDS = "holds"
TRIES, PAUSE_S = 10, 0.005


class Hold:
    """A shared lock on a bundle; `release` ends it, and so does the end of the process.

    Where the store cannot be written or its file system has no locks, it holds nothing: there the removal of bundles is
    up to whoever can write.

    Args:
        root: of the store.
        bundle: whole id.
    """

    def __init__(self, root: Path, bundle: str) -> None:
        self._descriptor = _locked(root / HOLDS / bundle)

    def release(self) -> None:
        """End the hold; again does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class Holds:
    """The holds of one process, counted by bundle: one may be loaded while it stands by.

    Args:
        root: of the store.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._of: dict[str, list[Hold]] = defaultdict(list)
        self._lock = threading.Lock()

    def begin(self, bundle: str) -> None:
        """Hold a bundle, once more."""
        hold = Hold(self._root, bundle)
        with self._lock:
            self._of[bundle].append(hold)

    def end(self, bundle: str) -> None:
        """End one hold of a bundle; nothing if there is none."""
        with self._lock:
            hold = self._of[bundle].pop() if self._of[bundle] else None
            if not self._of[bundle]:
                del self._of[bundle]
        if hold is not None:
            hold.release()


@contextmanager
def held(root: Path, bundle: str) -> Iterator[None]:
    """Hold a bundle within a `with` block."""
    hold = Hold(root, bundle)
    try:
        yield
    finally:
        hold.release()


def is_held(root: Path, bundle: str) -> bool:
    """Whether some process holds a bundle now."""
    path = root / HOLDS / bundle
    if not path.exists():
        return False
    with contextlib.suppress(OSError):
        descriptor = _opened(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


@contextmanager
def unheld(root: Path, bundle: str) -> Iterator[bool]:
    """Keep everybody from a bundle within a `with` block; false if somebody holds it, and then nobody is kept.

    Whoever comes meanwhile gets no hold, and finds the bundle gone or whole.
    """
    path = root / HOLDS / bundle
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _opened(path)
    except OSError:
        yield True
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            # A file system without locks.
            yield True
            return
        yield True
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Who asks whether it is held has it for a moment. A removal takes longer, and nobody waits for that here: it
        # would hold up whoever serves.
        for _ in range(TRIES):
            descriptor = _opened(path)
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                # The file may have been removed, with its bundle, before the lock came.
                if path.stat().st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
            os.close(descriptor)
            time.sleep(PAUSE_S)
    return None


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
