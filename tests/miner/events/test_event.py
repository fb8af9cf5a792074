"""Events: what a line of the log says of each level, and that one broken sink silences no other."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from miner.events.event import Event, EventSinks
from miner.events.log_sink import LogSink


@pytest.mark.parametrize(("level", "logged"), [("info", "info"), ("warning", "warning"), ("alarm", "error")])
def test_the_log_has_the_kind_as_its_event_and_the_details_beside_it(level: str, logged: str) -> None:
    with capture_logs() as logs:
        LogSink().event(Event("retrain_failed", level, "the night failed", {"status": 1}))  # type: ignore[arg-type]
    [line] = logs
    assert (line["event"], line["log_level"], line["text"], line["status"]) == (
        "retrain_failed",
        logged,
        "the night failed",
        1,
    )
    assert line.get("alarm", False) is (level == "alarm")


def test_a_detail_cannot_hide_what_a_line_says_itself() -> None:
    with pytest.raises(ValueError, match="level"):
        Event("x", "info", "something", {"level": 3})


def test_a_sink_that_fails_keeps_no_other_from_being_told() -> None:
    class Broken:
        def event(self, event: Event) -> None:
            raise RuntimeError(event.kind)

    with capture_logs() as logs:
        EventSinks([Broken(), LogSink()]).event(Event("x", "info", "something"))
    assert [line["event"] for line in logs] == ["event_not_told", "x"]
    assert logs[0]["sink"] == "Broken"
