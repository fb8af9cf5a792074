"""What is told of the nights: read from the disk by a thread, told by the event loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import JsonValue

from miner.nights.record import Ending, Nights

# Nights that the status names.
SHOWN = 7
# A night that ended so goes on when whoever runs the nights starts again.
UNFINISHED: frozenset[Ending] = frozenset({"running", "lost", "stopped"})


@dataclass(frozen=True)
class KeptNights:
    """What the disk says of the nights.

    Attributes:
        nights: the latest ones as plain values, the newest last.
        under_way: whether the process of one of them runs.
        first: when the oldest one began, UTC; None if there was none.
        last_success: when the last one that succeeded began, UTC; None if there was none.
        failures_in_a_row: how many of the newest ones failed.
        known: it was read.
    """

    nights: tuple[dict[str, JsonValue], ...] = ()
    under_way: bool = False
    first: datetime | None = None
    last_success: datetime | None = None
    failures_in_a_row: int = 0
    known: bool = False

    @classmethod
    def read(cls, nights: Nights) -> KeptNights:
        """Of a state directory."""
        kept = nights.latest(SHOWN)
        return cls(
            nights=tuple(night.plain() for night in kept),
            under_way=any(night.under_way for night in kept),
            first=nights.first(),
            last_success=nights.last_success(),
            failures_in_a_row=nights.failures_in_a_row(),
            known=True,
        )

    @property
    def unfinished(self) -> bool:
        """Whether the newest one did not come to its end."""
        return bool(self.nights) and self.nights[-1]["outcome"] in UNFINISHED

    def told(
        self,
        *,
        running: bool,
        progress: Mapping[str, JsonValue],
        outcomes: Mapping[str, int],
        again_at: datetime | None,
        next_at: datetime | None,
        age_s: float,
    ) -> dict[str, Any]:
        """The status, with what is known without the disk.

        Args:
            running: a night of this process runs.
            progress: how far it is.
            outcomes: of the nights of this process, counted.
            again_at: when a night is tried again, UTC.
            next_at: when the next one is due, UTC.
            age_s: of what the disk says.
        """
        over = [night for night in self.nights if night["ended_at"] is not None]
        last = over[-1] if over else {"ended_at": None, "outcome": "", "verdict": None}
        times = {
            "first_at": self.first,
            "last_success": self.last_success,
            "again_at": again_at,
            "next_at": next_at,
        }
        return {
            "running": running or self.under_way,
            "progress": dict(progress),
            "started_at": self.nights[-1]["started_at"] if self.nights else None,
            **{name: last[name] for name in ("ended_at", "outcome", "verdict")},
            **{name: None if time is None else time.isoformat() for name, time in times.items()},
            "outcomes": dict(outcomes),
            "failures_in_a_row": self.failures_in_a_row,
            "nights": list(self.nights),
            "known": self.known,
            "read_s_ago": round(age_s, 1),
        }
