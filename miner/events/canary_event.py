"""What a canary ruled on a new bundle, as an event."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import JsonValue

from engines.live.swap.canary import Ruling
from miner.events.event import Event


def ruling_event(ruling: Ruling) -> Event:
    """The event of a ruling: `canary_passed`, or the alarm `canary_rolled_back` or `canary_failed`."""
    details: dict[str, JsonValue] = {"bundle": ruling.bundle, "seconds": round(ruling.seconds, 1)}
    details |= asdict(ruling.counts)
    if not ruling.reason:
        text = f"{ruling.bundle} does on its first {ruling.counts.requests} requests what its certificate says"
        return Event("canary_passed", "info", text, details)
    details["reason"] = ruling.reason
    if ruling.back:
        text = f"{ruling.bundle} was rolled back {ruling.seconds:.0f} s after it went live: {ruling.reason}"
        return Event("canary_rolled_back", "alarm", text, details)
    text = f"{ruling.bundle} is not what its certificate says, and nothing serves in its place: {ruling.reason}"
    return Event("canary_failed", "alarm", text, details)
