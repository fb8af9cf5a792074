"""How a night ended: which outcome that is, why, and the events that tell of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

from pydantic import JsonValue

from miner.events.event import Event
from miner.nights.night_process import Ended
from miner.nights.record import OUTPUT, Ending, Night

# Of a run that was told to end, or found the workspace taken: it is to be tried again.
AGAIN = 75
ALARM_AFTER = 3


def outcome_of(ended: Ended, *, last: bool) -> Ending:
    """What the end of a process means.

    Args:
        ended: how it ended.
        last: nobody would try again.
    """
    if ended.status == 0:
        return "done"
    return "put_off" if ended.status == AGAIN and not ended.timed_out and not last else "failed"


def reason_of(ended: Ended, last_words: str, hours: float) -> str:
    """Why it did not succeed, in one line.

    Args:
        ended: how it ended.
        last_words: what it said last.
        hours: that it had.
    """
    said = f": {last_words}" if last_words else ""
    if ended.timed_out:
        return f"it took over {hours:g} h and was ended; what it has finished is kept, and it goes on from there"
    if ended.status == -signal.SIGKILL:
        return f"it was killed, perhaps by the kernel because memory ran out{said}"
    if ended.status < 0:
        return f"it was ended by signal {-ended.status}{said}"
    return last_words or f"it ended with status {ended.status} and did not say why"


def events_of(night: Night, failures: int, seconds: float) -> Iterator[Event]:
    """What is to be told of a night that has ended.

    Args:
        night: it.
        failures: nights that failed in a row, with this one.
        seconds: that it took.
    """
    details: dict[str, JsonValue] = {
        "seconds": round(seconds, 1),
        "status": night.record.status,
        "night": night.home.name,
    }
    reason, verdict = night.record.reason, night.verdict
    if night.outcome == "done":
        said: dict[str, JsonValue] = {}
        text = "the night is done"
        if verdict is not None:
            said = {"verdict": verdict.verdict, "bundle": verdict.bundle}
            said |= {"reasons": list(verdict.reasons), "notes": list(verdict.notes)}
            text = f"the night is done: {_verdict_in_words(verdict.verdict, verdict.bundle)}"
        refused = verdict is not None and verdict.verdict == "REFUSE"
        if reason:
            text = f"{text}; what comes after publication failed: {reason}"
        yield Event("retrain_done", "warning" if refused or reason else "info", text, details | said)
        return
    if night.outcome == "put_off":
        yield Event("retrain_put_off", "info", f"the night is tried again: {reason}", {**details, "reason": reason})
        return
    output: dict[str, JsonValue] = {"reason": reason, "in_a_row": failures, "output": str(night.home / OUTPUT)}
    yield Event("retrain_failed", "warning", f"the night failed: {reason}", details | output)
    if failures and failures % ALARM_AFTER == 0:
        text = f"{failures} nights in a row have failed, the last one because {reason}"
        yield Event("nights_failing", "alarm", text, {"in_a_row": failures, "reason": reason})


def _verdict_in_words(verdict: str, bundle: str) -> str:
    became = {"PROMOTE": "is current now", "KEEP": "stays a challenger", "REFUSE": "is refused and removed"}
    return f"{bundle[:8]} {became.get(verdict, verdict)} ({verdict})"
