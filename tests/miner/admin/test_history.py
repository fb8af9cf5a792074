"""A point for each minute of the last day, for the status page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from miner.admin.history import MINUTES, History
from miner.answering.record import RequestRecord


def record(total_ms: float, **known: Any) -> RequestRecord:
    plain = {"request_id": "a", "at": datetime(2026, 3, 1, tzinfo=UTC), "hotkey": "h", "result": "answered"}
    return RequestRecord(**{**plain, "answer": 0.5, "total_ms": total_ms, **known})


def test_a_minute_is_one_point_of_what_came_in_it() -> None:
    refused = [3]
    history = History(lambda: refused[0])
    for number in range(200):
        history.on_answer(record(float(number), action="EXIT" if number < 50 else "DEFER", stage2="answered"))
    history.on_answer(record(10.0, result="stage1_late"))
    history.on_answer(record(10.0, result="abandoned"))
    refused[0] = 10
    history.close_minute(60.0)
    history.close_minute(120.0)
    columns = history.columns()
    assert (columns["at"], columns["answers"], columns["refused"]) == ([60.0, 120.0], [201, 0], [7, 0])
    assert columns["exits"] == [0.25, None]
    assert columns["degraded"] == [1 / 201, None]
    assert columns["p99_s"] == [0.197, None]


def test_a_miner_without_stage2_is_not_degraded() -> None:
    history = History(lambda: 0)
    history.on_answer(record(1.0, action="DEFER", stage2="absent"))
    history.close_minute(60.0)
    assert history.columns()["degraded"] == [0.0]


def test_it_holds_a_day_and_no_more() -> None:
    history = History(lambda: 0)
    for minute in range(MINUTES + 5):
        history.close_minute(float(minute))
    assert (len(history.columns()["at"]), history.columns()["at"][0]) == (MINUTES, 5.0)
