"""What a workspace and a store hold, and what is free beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from offline.runs.disk_space import allocated, free_bytes, gigabytes


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
        return f"workspace {gigabytes(self.workspace)}, store {gigabytes(self.store)} more, {gigabytes(self.free)} free"


def disk_use(workspace: Path, store: Path) -> DiskUse:
    """Look at the directories."""
    return DiskUse(allocated([workspace]), allocated([store], without=[workspace]), free_bytes(workspace))
