"""What a workspace and a store hold, and what is free beside them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DiskUse:
    """Bytes on the disk; a file that two directories share counts once.

    Attributes:
        workspace: what the workspace holds.
        store: what the store holds beside that.
        free: what is free on the disk of the workspace.
    """

    workspace: int
    store: int
    free: int

    def __str__(self) -> str:
        return f"workspace {_size(self.workspace)}, store {_size(self.store)}, {_size(self.free)} free"


def disk_use(workspace: Path, store: Path) -> DiskUse:
    """Look at the directories."""
    seen: set[tuple[int, int]] = set()
    return DiskUse(_bytes_below(workspace, seen), _bytes_below(store, seen), shutil.disk_usage(workspace).free)


def _bytes_below(directory: Path, seen: set[tuple[int, int]]) -> int:
    total = 0
    for home, _, names in os.walk(directory):
        for name in names:
            try:
                found = Path(home, name).lstat()
            except OSError:
                continue
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
    return total


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
