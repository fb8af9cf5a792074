"""Records of equal length by their keys: one file of records, mapped into memory, and one of keys.

The keys, 16 bytes each in the order of the records, are appended after the records have reached the disk, so a key
always has its record. Whoever adds many adds them in groups, because reaching the disk takes as long for one as for a
hundred. What is read takes no memory that the system cannot take back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

KEYS, KEY_BYTES = "keys.blake2b", 16
# Its age is that of the records.
BEGUN = "begun"


class Slots:
    """Records in a directory; several processes may add to it, each in its turn, while others read.

    Args:
        directory: made when something is added; its age says when it was last of use.
        name: of the file of records.
        record_bytes: length of a record.
    """

    def __init__(self, directory: Path, name: str, record_bytes: int) -> None:
        self._directory, self._name, self.record_bytes = directory, name, record_bytes
        with suppress(OSError):
            os.utime(directory)
        self._slots: dict[bytes, int] = {}
        self._count = 0
        self._mapped: NDArray[np.uint8] | None = None
        self._read_keys()

    def __contains__(self, key: bytes) -> bool:
        return key in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    def append(self, records: Mapping[bytes, bytes | memoryview]) -> None:
        """Add records; those whose key is there already, from another process, are left out.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with FileLock(self._directory / ".lock"):
            self._read_keys()
            new = [key for key in records if key not in self._slots]
            self._write_at(self._name, self._count * self.record_bytes, (records[key] for key in new))
            self._write_at(KEYS, self._count * KEY_BYTES, new)
        self._add(new)

    def numbers(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Number of the record of each key, `(len(keys),)`."""
        return np.asarray([self._slots[key] for key in keys], np.int64)

    def read(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Some records, uint8 `(len(numbers), record_bytes)`, in memory."""
        mapped = self._mapped
        if mapped is None or len(mapped) < self._count:
            shape = (self._count, self.record_bytes)
            mapped = self._mapped = np.memmap(self._directory / self._name, np.uint8, "r", shape=shape)
        return np.asarray(mapped[numbers])

    def _add(self, keys: Sequence[bytes]) -> None:
        """Know the keys of the records that follow."""
        self._slots |= {key: self._count + number for number, key in enumerate(keys)}
        self._count += len(keys)

    def _write_at(self, name: str, offset: int, content: Iterable[bytes | memoryview]) -> None:
        path = self._directory / name
        with path.open("r+b" if path.exists() else "w+b") as handle:
            # What a crash left behind the last key; nobody has mapped it.
            handle.truncate(offset)
            handle.seek(offset)
            handle.writelines(content)
            handle.flush()
            os.fsync(handle.fileno())

    def _read_keys(self) -> None:
        """Learn of the records that other processes have added."""
        try:
            there = (self._directory / self._name).stat().st_size
            with (self._directory / KEYS).open("rb") as handle:
                handle.seek(self._count * KEY_BYTES)
                content = handle.read()
        except (FileNotFoundError, NotADirectoryError):
            return
        count = min(len(content) // KEY_BYTES, there // self.record_bytes - self._count)
        self._add([content[i * KEY_BYTES : (i + 1) * KEY_BYTES] for i in range(max(0, count))])

    def __getstate__(self) -> dict[str, object]:
        """Without what is mapped, for another process."""
        return self.__dict__ | {"_mapped": None}


def forget_old(directory: Path, most: int, before: float) -> bool:
    """Begin records anew that are many and old: most of them may be of what is gone, and nobody knows which.

    Args:
        directory: of the records.
        most: as many may be there in any case.
        before: seconds since 1970; records that were begun later stay.

    Returns:
        Whether they are gone.
    """
    begun = directory / BEGUN
    try:
        if (directory / KEYS).stat().st_size // KEY_BYTES <= most:
            return False
        if not begun.exists():
            # From here on they grow old.
            begun.touch()
        if begun.stat().st_mtime >= before:
            return False
    except OSError:
        return False
    shutil.rmtree(directory, ignore_errors=True)
    return True
