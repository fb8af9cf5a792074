"""The log as a sink of events: one line each, with the kind as its name."""

from __future__ import annotations

import structlog

from miner.events.event import Event

log = structlog.get_logger(__name__)


class LogSink:
    """Writes events to the log: `alarm` as an error that carries `alarm=true`, the others at their level."""

    def event(self, event: Event) -> None:
        """See `miner.events.event.EventSink.event`."""
        details = dict(event.details)
        if event.level == "info":
            log.info(event.kind, text=event.text, **details)
        elif event.level == "warning":
            log.warning(event.kind, text=event.text, **details)
        else:
            log.error(event.kind, text=event.text, alarm=True, **details)
