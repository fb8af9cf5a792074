"""Hashes of files, taken once for each state of a file and kept over the nights.

A hash is believed as long as the file is the very same one: many programs that copy keep the time at which a file was
changed, but none can keep its inode and the time at which that was changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from engines.machine.cores import usable_cores
from offline.errors import PipelineError
from stage1.artifacts import sha256_file, write_atomic

CONTENTS = "contents.json"
VERSION = 1
KEPT_TOGETHER = 2000
# Twice as many hashes as after the last time, and so many more: it is looked whether their files are there.
SPARE = 1000
# Size, time of change, time of change of the inode, and its number.
State = list[int]


class HashedFile(Protocol):
    """A file, or a part of a larger one, such as `pathlib.Path`."""

    def read_bytes(self) -> bytes:
        """What is in it."""
        ...

    def stat(self) -> Any:  # noqa: ANN401  what `os.stat` returns, or what has the same names
        """The state of the file."""
        ...


class FileContents:
    """The hashes of files.

    Args:
        cache: the file that remembers them; its directory is made if needed. None for none.
    """

    def __init__(self, cache: Path | None) -> None:
        self._cache = cache
        self._known: dict[str, tuple[State, str]] | None = None
        self._asked: set[str] = set()
        self._left = 0

    def of(
        self, files: Mapping[str, HashedFile], told: Callable[[int, int, str], None] = lambda *_: None
    ) -> dict[str, str | None]:
        """SHA-256 of each file, 64 hex digits; None where it is not there or cannot be read.

        Args:
            files: by a name that no other file has, such as its absolute path.
            told: called with files read, files to read, and a note.
        """
        known = self._read()
        self._asked |= files.keys()
        states = {name: _state(file) for name, file in files.items()}
        found = {name: known[name][1] for name, state in states.items() if name in known and known[name][0] == state}
        missing = [name for name, state in states.items() if state is not None and name not in found]
        with ThreadPoolExecutor(usable_cores()) as pool:
            for start in range(0, len(missing), KEPT_TOGETHER):
                names = missing[start : start + KEPT_TOGETHER]
                taken = zip(names, pool.map(_sha256, [files[name] for name in names]), strict=True)
                read = {name: digest for name, digest in taken if digest is not None}
                found |= read
                known |= {name: (states[name] or [], digest) for name, digest in read.items()}
                self._write(known)
                told(start + len(names), len(missing), "contents of files")
        if self._forget(known):
            self._write(known)
        return {name: found.get(name) for name in files}

    def below(self, paths: Iterable[Path]) -> dict[str, str | None]:
        """Content of files and of all files below directories, by their path; a path where nothing is has None."""
        listed: dict[str, Path] = {}
        for path in paths:
            inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            listed |= {str(file): file for file in inside}
        by_place = {str(Path(name).absolute()): name for name in listed}
        found = self.of({place: listed[name] for place, name in by_place.items()})
        return {name: found[place] for place, name in by_place.items()}

    def _forget(self, known: dict[str, tuple[State, str]]) -> bool:
        """Forget files that are gone, once there may be many of them; whether it was looked.

        The hash of a part of a larger file is forgotten with them where nobody has asked for it; it is taken again.
        """
        if len(known) <= 2 * self._left + SPARE:
            return False
        for name in [name for name in known.keys() - self._asked if not Path(name).exists()]:
            del known[name]
        self._left = len(known)
        return True

    def _read(self) -> dict[str, tuple[State, str]]:
        if self._known is None:
            self._known = {}
            try:
                content = json.loads(self._cache.read_bytes()) if self._cache is not None else {}
                if content.get("version") == VERSION:
                    self._left = int(content.get("left", 0))
                    self._known = {name: (entry[:-1], entry[-1]) for name, entry in content["files"].items()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                # Another version, or damaged: everything is read again.
                self._known = {}
        return self._known

    def _write(self, known: Mapping[str, tuple[State, str]]) -> None:
        if self._cache is None:
            return
        files = {name: [*state, digest] for name, (state, digest) in known.items()}
        try:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._cache, json.dumps({"version": VERSION, "left": self._left, "files": files}).encode())
        except OSError as error:
            raise PipelineError(f"{self._cache}: cannot be written ({error.strerror or error})") from error


def _state(file: HashedFile) -> State | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _sha256(file: HashedFile) -> str | None:
    try:
        # Weights are larger than what one wants in memory.
        return sha256_file(file) if isinstance(file, Path) else hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None
