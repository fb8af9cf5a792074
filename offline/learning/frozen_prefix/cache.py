"""What the frozen blocks make of augmented images, kept on disk, so that training starts behind them.

A slot holds one state in bf16; the slots are one memory-mapped file. Their keys, 16 bytes each in the order of the
slots, are appended to a second file after the states have reached the disk, so a key always has its state. Whoever adds
many states adds them in groups, because reaching the disk takes as long for one as for a hundred. A key is the hash of
pixels, view and seed, and the directory is the hash of the frozen weights and of what augments: rows that are
there from an earlier night are not computed again, and no state of other weights is ever read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from offline.errors import TrainingError

STATES = "states.bf16"
KEYS = "keys.blake2b"
KEY_BYTES = 16
VALUE_BYTES = 2
# So much is written together: seconds of work at most are lost when a process is killed.
GROUP_BYTES = 64 * 2**20


class PrefixCache:
    """Slots of equal shape in a directory; several processes may add to it, each in its turn, while others read.

    Args:
        directory: made if needed; its name tells what decided the states.
        shape: of one state.
    """

    def __init__(self, directory: Path, shape: Sequence[int]) -> None:
        self._directory = directory
        self._shape = tuple(shape)
        directory.mkdir(parents=True, exist_ok=True)
        # The directory's age says when it was last of use.
        os.utime(directory)
        self._slots: dict[bytes, int] = {}
        self._count = 0
        self._read_keys()
        self._mapped: NDArray[np.int16] | None = None
        self._waiting: dict[bytes, NDArray[np.int16]] = {}
        self._grouping = False

    @property
    def slot_bytes(self) -> int:
        """Size of one state on disk."""
        return VALUE_BYTES * int(np.prod(self._shape))

    def __contains__(self, key: bytes) -> bool:
        return key in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within it, what is added may wait to be written with what follows; at its end everything is on the disk.

        Also where it ends by an error: what was computed is kept.
        """
        self._grouping = True
        try:
            yield
        finally:
            self._grouping = False
            self._write()

    def append(self, keys: Sequence[bytes], states: Tensor) -> None:
        """Add states.

        Args:
            keys: one each; those that another process added meanwhile are left out.
            states: `(len(keys), *shape)`.

        Raises:
            TrainingError: the disk is full or cannot be written.
        """
        bits = states.detach().to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy()
        self._waiting |= dict(zip(keys, bits, strict=True))
        if not self._grouping or len(self._waiting) * self.slot_bytes >= GROUP_BYTES:
            self._write()

    def _write(self) -> None:
        """Bring what waits to the disk, states before keys."""
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        try:
            with FileLock(self._directory / ".lock"):
                self._read_keys()
                new = [key for key in waiting if key not in self._slots]
                content = b"".join(waiting[key].tobytes() for key in new)
                self._write_at(STATES, self._count * self.slot_bytes, content)
                self._write_at(KEYS, self._count * KEY_BYTES, b"".join(new))
        except OSError as error:
            raise TrainingError(
                f"{self._directory}: the cache of frozen activations cannot be written ({error.strerror}): free some "
                "space, or set train_supervised.cache to off"
            ) from error
        self._add(new)

    def _add(self, keys: Sequence[bytes]) -> None:
        """Know the keys of the slots that follow."""
        self._slots |= {key: self._count + number for number, key in enumerate(keys)}
        self._count += len(keys)
        self._mapped = None

    def slots(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Slot of each key, `(len(keys),)`."""
        return np.asarray([self._slots[key] for key in keys], np.int64)

    def read(self, slots: NDArray[np.int64]) -> Tensor:
        """The states of some slots, bf16 `(len(slots), *shape)`, in memory."""
        if self._mapped is None:
            shape = (self._count, *self._shape)
            self._mapped = np.memmap(self._directory / STATES, np.int16, "r", shape=shape)
        return torch.from_numpy(self._mapped[slots]).view(torch.bfloat16)

    def _write_at(self, name: str, offset: int, content: bytes) -> None:
        path = self._directory / name
        with path.open("r+b" if path.exists() else "w+b") as handle:
            # What a crash left behind the last key; nobody has mapped it.
            handle.truncate(offset)
            handle.seek(offset)
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())

    def _read_keys(self) -> None:
        """Learn of the slots that other processes have added."""
        try:
            states = (self._directory / STATES).stat().st_size
            with (self._directory / KEYS).open("rb") as handle:
                handle.seek(self._count * KEY_BYTES)
                content = handle.read()
        except FileNotFoundError:
            return
        count = min(len(content) // KEY_BYTES, states // self.slot_bytes - self._count)
        self._add([content[i * KEY_BYTES : (i + 1) * KEY_BYTES] for i in range(count)])


def digest_of(pixels: NDArray[np.uint8]) -> bytes:
    """Hash of an image, uint8 `(3, H, W)`."""
    about = f"{pixels.shape}".encode()
    return hashlib.blake2b(about + np.ascontiguousarray(pixels).tobytes(), digest_size=KEY_BYTES).digest()


def key_of(digest: bytes, view: int, seed: int) -> bytes:
    """Key of one view of an image.

    Args:
        digest: of the image; see `digest_of`.
        view: number of the view; -1 for the image as it is.
        seed: of the augmentation.
    """
    return hashlib.blake2b(digest + f"{view} {seed}".encode(), digest_size=KEY_BYTES).digest()
