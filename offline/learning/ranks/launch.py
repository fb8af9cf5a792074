"""What `torchrun` says of a process, without torch."""

from __future__ import annotations

import os


def processes() -> int:
    """How many processes `torchrun` has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that runs the night."""
    return int(os.environ.get("RANK", "0")) == 0
