"""One thing that happened, and the seam through which it is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import structlog
from pydantic import JsonValue

log = structlog.get_logger(__name__)

Level = Literal["info", "warning", "alarm"]
# A line of the log has these of its own.
RESERVED = frozenset({"event", "level", "logger", "timestamp", "text", "alarm", "exc_info", "stack_info"})


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: a word for it that does not change, such as `retrain_failed`.
        level: `info` happens every day, `warning` is worth a look, `alarm` needs a person.
        text: one sentence for a person.
        details: plain values for a program, none of whose names a line of the log has already.

    Raises:
        ValueError: a detail has a name that a line of the log uses itself.

    Example:
        >>> Event("retrain_failed", "warning", "the night failed", {"status": 1}).level
        'warning'
    """

    kind: str
    level: Level
    text: str
    details: Mapping[str, JsonValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if taken := sorted(RESERVED & self.details.keys()):
            raise ValueError(f"the event {self.kind!r} has details that a log line has itself: {', '.join(taken)}")


class EventSink(Protocol):
    """Is told of what happened, from any thread; a log, a file, a webhook."""

    def event(self, event: Event) -> None:
        """Take note, and return at once."""
        ...


class EventSinks:
    """Tells several sinks; one that fails costs the others nothing.

    Args:
        sinks: told in this order.
    """

    def __init__(self, sinks: Iterable[EventSink]) -> None:
        self._sinks = tuple(sinks)

    def event(self, event: Event) -> None:
        """See `EventSink.event`."""
        for sink in self._sinks:
            try:
                sink.event(event)
            except Exception:
                # The edge to whatever is told: what happened has happened all the same.
                log.exception("event_not_told", kind=event.kind, sink=type(sink).__name__)
