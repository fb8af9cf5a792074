"""What people said of audited exits: the pictures that were kept of them need no second look."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from miner.live_risk.audit_events import EVENT, Drawn, Labelled, Summed
from miner.live_risk.audit_log import BEFORE, LOG
from stage1.artifacts import whole_lines
from stage1.monitor.audit import ExitLabel


def audit_labels(streams: Path) -> dict[str, ExitLabel]:
    """What people said of audits, by hash of the picture; what a second model said is no label.

    Args:
        streams: directory of the audits of all certificates.
    """
    found: dict[str, ExitLabel] = {}
    for home in sorted(streams.glob("*/")):
        pictures: dict[int, str] = {}
        for line in (one for name in (BEFORE, LOG) for one in whole_lines(home / name)):
            try:
                event = EVENT.validate_python(line.record)
            except ValidationError:
                # Whoever serves by it refuses it; here it is only not heard.
                continue
            if isinstance(event, Drawn):
                pictures[event.number] = event.image_sha256
            elif isinstance(event, Summed):
                pictures |= {one.drawn.number: one.drawn.image_sha256 for one in event.waiting}
            elif isinstance(event, Labelled) and event.by == "person" and event.number in pictures:
                found[pictures[event.number]] = event.label
    return found
