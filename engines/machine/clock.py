"""The wall clock of this machine, and which of its starts this is."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")


def utc_now() -> datetime:
    """Wall-clock time."""
    return datetime.now(UTC)


def boot_id() -> str:
    """Id of the start of this machine, since when no process that ran before it lives; empty if nobody tells it."""
    with suppress(OSError, UnicodeDecodeError):
        return BOOT.read_text(encoding="ascii").strip()
    return ""
