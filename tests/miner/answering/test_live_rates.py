"""What a canary is told of an answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from engines.live.swap.bands import Answered, Counts
from engines.live.swap.canary import Ruling
from miner.answering.live_rates import LiveRates
from miner.answering.record import RequestRecord
from miner.events.canary_event import ruling_event
from stage1.decisions import Action
from stage2_bridge.client import Outcome

BASE: dict[str, Any] = {
    "request_id": "r",
    "at": datetime(2026, 1, 1, tzinfo=UTC),
    "hotkey": "h",
    "answer": 0.5,
    "total_ms": 1.0,
    "generation": 3,
    "image_sha256": "i",
}


class Noted:
    def __init__(self) -> None:
        self.told: list[tuple[int, str, Answered]] = []

    def note(self, generation: int, image: str, answered: Answered) -> None:
        self.told.append((generation, image, answered))


@pytest.mark.parametrize(
    ("record", "answered"),
    [
        ({"result": "answered", "action": Action.EXIT}, Answered(False, False, False)),
        ({"result": "answered", "action": Action.DEFER, "stage2": Outcome.ANSWERED}, Answered(False, True, False)),
        ({"result": "answered", "action": Action.DEFER, "stage2": Outcome.ABSENT}, Answered(False, True, False)),
        ({"result": "answered", "action": Action.DEFER, "stage2": Outcome.TIMEOUT}, Answered(False, True, True)),
        ({"result": "answered", "action": Action.DEFER, "held_back": True}, Answered(False, False, False)),
        (
            {"result": "answered", "action": Action.DEFER, "held_back": True, "stage2": Outcome.TIMEOUT},
            Answered(False, False, True),
        ),
        ({"result": "stage1_failed"}, Answered(True, False, False)),
        ({"result": "stage1_late"}, Answered(True, False, False)),
        ({"result": "not_an_image"}, None),
        ({"result": "abandoned"}, None),
    ],
)
def test_it_counts_what_says_something_of_the_bundle(record: dict[str, Any], answered: Answered | None) -> None:
    noted = Noted()
    LiveRates(noted).on_answer(RequestRecord(**BASE, **record))  # type: ignore[arg-type]
    assert noted.told == ([] if answered is None else [(3, "i", answered)])


@pytest.mark.parametrize(
    ("reason", "back", "kind", "level"),
    [
        ("", False, "canary_passed", "info"),
        ("it fails", True, "canary_rolled_back", "alarm"),
        ("it fails", False, "canary_failed", "alarm"),
    ],
)
def test_a_ruling_is_an_event(reason: str, *, back: bool, kind: str, level: str) -> None:
    event = ruling_event(Ruling("b", reason, Counts(20, deferred=4), 12.0, back))
    assert (event.kind, event.level, event.details["deferred"]) == (kind, level, 4)
    assert reason in event.text
