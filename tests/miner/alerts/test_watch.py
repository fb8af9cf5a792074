"""What is told when another bundle is live: that it is new, or that one was rolled back, and never both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.store.records import REJECTED
from engines.store.store import Store
from miner.alerts.settings import AlertSettings
from miner.alerts.watch import Alerts
from miner.events.event import Event

NOW = datetime(2026, 3, 1, tzinfo=UTC)
WELL: Any = SimpleNamespace(read=lambda *_: SimpleNamespace())


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Event]]:
    """Events of looks at a miner on which these bundles were live one after the other."""

    def look(store: Store, live: list[str], *events: Event) -> list[Event]:
        async def scenario() -> list[Event]:
            alerts = Alerts(AlertSettings(url_env="HOOK"), tmp_path, {"HOOK": "http://127.0.0.1:9/"}, now=lambda: NOW)
            assert alerts.sender is not None
            kept: list[Event] = []
            monkeypatch.setattr(alerts.sender, "event", kept.append)
            monkeypatch.setattr("miner.alerts.watch.conditions", lambda *_: [])
            miner: Any = SimpleNamespace(follower=SimpleNamespace(live_id=live[0]), now=lambda: NOW)
            alerts.sender.run = asyncio.Event().wait  # type: ignore[assignment, method-assign]
            alerts.start(miner, lambda: False, store, [])
            for event in events:
                alerts.event(event)
            assert alerts._rejected is not None
            await alerts._rejected.look(60)
            for bundle in live[1:]:
                alerts.look(WELL, bundle, {})
            await alerts.close()
            return kept

        return asyncio.run(scenario())

    return look


def test_a_new_bundle_is_told_once(told: Callable[..., list[Event]], store: Store) -> None:
    [event] = told(store, ["a", "a", "b", "b"])
    assert (event.kind, event.level, event.details) == ("bundle_live", "info", {"bundle": "b", "before": "a"})


def test_a_rollback_is_told_as_one_with_its_reason(
    told: Callable[..., list[Event]], store: Store, publish: Callable[..., str]
) -> None:
    first, second = publish("a"), publish("b")
    store.rollback(now=NOW, why="it answers too slowly")
    [event] = told(store, [second, first])
    assert (event.kind, event.level) == ("rollback", "warning")
    assert event.text.startswith(f"Bundle {first} is live again: {second} was rolled back at 2026-03-01T00:00:00")
    assert "it answers too slowly" in event.text


def test_what_the_canary_told_of_is_not_told_again(
    told: Callable[..., list[Event]], store: Store, publish: Callable[..., str]
) -> None:
    first, second = publish("a"), publish("b")
    store.rollback(now=NOW, why="golden images")
    canary = Event("canary_rolled_back", "alarm", "it was rolled back", {"bundle": second})
    assert told(store, [second, first], canary) == [canary]


def test_a_damaged_record_of_the_store_costs_the_reason_alone(told: Callable[..., list[Event]], store: Store) -> None:
    store.root.mkdir(exist_ok=True)
    (store.root / REJECTED).write_text("{")
    assert [event.kind for event in told(store, ["a", "b"])] == ["bundle_live"]
