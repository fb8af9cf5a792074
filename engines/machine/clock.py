"""The wall clock of this machine."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Wall-clock time."""
    return datetime.now(UTC)
