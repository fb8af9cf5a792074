"""The tally: everything is counted, and each reason is told once in a while."""

from __future__ import annotations

from structlog.testing import capture_logs

from engines.machine.tally import Tally


def test_a_flood_is_one_line_a_minute_with_its_number() -> None:
    now = [0.0]
    tally = Tally("refused", clock=lambda: now[0])
    with capture_logs() as logs:
        for second in range(150):
            now[0] = float(second)
            tally.add("replay", "seen before", hotkey="5F")
            tally.add("full", "no place")
    told = [(entry["reason"], entry["times"]) for entry in logs]
    assert told == [("replay", 1), ("full", 1), ("replay", 60), ("full", 60), ("replay", 60), ("full", 60)]
    assert tally.counts == {"replay": 150, "full": 150}
    assert logs[0]["example"] == {"message": "seen before", "hotkey": "5F"}
    assert logs[0]["log_level"] == "warning"


def test_an_error_is_told_with_its_traceback() -> None:
    error = ValueError("no")
    with capture_logs() as logs:
        Tally("failed").add("ValueError", repr(error), error=error)
    assert logs[0]["exc_info"] is error
