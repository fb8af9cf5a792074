"""What the frozen blocks make of augmented images, kept on disk, so that training starts behind them.

A record of `offline.data.pictures.slots` holds one state in bf16. A key is the hash of pixels, view and seed, and the
directory is the hash of the frozen weights and of what augments: rows that are there from an earlier night are not
computed again, and no state of other weights is ever read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offline.data.pictures.slots import KEY_BYTES, Slots
from offline.errors import TrainingError

STATES = "states.bf16"
VALUE_BYTES = 2
# So much is written together: seconds of work at most are lost when a process is killed.
GROUP_BYTES = 64 * 2**20


class PrefixCache:
    """States of equal shape in a directory; several processes may add to it, each in its turn, while others read.

    Args:
        directory: made if needed; its name tells what decided the states.
        shape: of one state.
    """

    def __init__(self, directory: Path, shape: Sequence[int]) -> None:
        self._directory = directory
        self._shape = tuple(shape)
        directory.mkdir(parents=True, exist_ok=True)
        self._slots = Slots(directory, STATES, VALUE_BYTES * int(np.prod(self._shape)))
        self._waiting: dict[bytes, NDArray[np.int16]] = {}
        self._grouping = False

    @property
    def slot_bytes(self) -> int:
        """Size of one state on disk."""
        return self._slots.record_bytes

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
        """Bring what waits to the disk."""
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        try:
            self._slots.append({key: state.tobytes() for key, state in waiting.items()})
        except OSError as error:
            raise TrainingError(
                f"{self._directory}: the cache of frozen activations cannot be written ({error.strerror}): free some "
                "space, or set train_supervised.cache to off"
            ) from error

    def slots(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Slot of each key, `(len(keys),)`."""
        return self._slots.numbers(keys)

    def read(self, slots: NDArray[np.int64]) -> Tensor:
        """The states of some slots, bf16 `(len(slots), *shape)`, in memory."""
        states = self._slots.read(slots).view(np.int16).reshape(len(slots), *self._shape)
        return torch.from_numpy(states).view(torch.bfloat16)


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
