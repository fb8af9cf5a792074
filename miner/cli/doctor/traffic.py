"""Who asks this miner, and how its certificate stands in what they ask."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from itertools import islice

from engines.store.model_card import DAY_S
from miner.answering.journal import newest_first
from miner.cli.doctor.diagnosis import Finding, ok, warning
from miner.live_risk.live_risk import DIRECTORY
from miner.live_risk.summary import SUMMARY, Summary
from miner.settings import MinerSettings

LOOKED_AT_H = 24.0
# Of the journal, so that a day of much traffic takes no longer than a second or two.
MOST_RECORDS = 100_000


def traffic(settings: MinerSettings, now: datetime) -> Finding:
    """Which validators asked in the last day, and when the last of them did."""
    records = newest_first(settings.state)
    last = next(records, None)
    if last is None:
        detail = "no validator has asked this miner yet"
        return warning("traffic", detail, "see port, address, registered and emission; the README on the subnet's halt")
    hours = (now - last.at).total_seconds() / 3600
    told = f"the last request came {_in_words(hours)} ago, from {last.hotkey[:8]}"
    if hours > settings.alerts.silent_h:
        todo = "ask from another machine: cascade doctor --peer http://ADDRESS:PORT"
        return warning("traffic", told, todo)
    since = now - timedelta(hours=LOOKED_AT_H)
    asked: Counter[str] = Counter({last.hotkey: 1})
    for record in islice(records, MOST_RECORDS):
        if record.at < since:
            break
        asked[record.hotkey] += 1
    who = f"{len(asked)} validator{'' if len(asked) == 1 else 's'}"
    many = asked.total()
    more = f"{many:,}{' or more' if many > MOST_RECORDS else ''} request{'' if many == 1 else 's'} of {who}"
    return ok("traffic", f"{more} in the last {LOOKED_AT_H:.0f} h; {told}")


def live_risk(settings: MinerSettings, now: datetime) -> list[Finding]:
    """How the live certificate stood when the watch on it last looked."""
    if not settings.live_risk.enabled:
        return []
    summary = Summary.of(settings.state / DIRECTORY / SUMMARY)
    told = summary.certificates.get(summary.live)
    if told is None or summary.written_at is None:
        return []
    days = (now - summary.written_at).total_seconds() / DAY_S
    detail = f"{told['level']}, {days:.1f} days ago: {told['sentence']}"
    return [ok("live risk", detail) if told["level"] == "ok" else warning("live risk", detail, "cascade risk show")]


def _in_words(hours: float) -> str:
    seconds = hours * 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if hours < 1.5 else f"{hours:.1f} h"
