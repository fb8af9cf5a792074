"""Alerts turned on and off while the miner runs, and told elsewhere."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from miner.alerts.settings import AlertSettings
from miner.alerts.switch import AlertSwitch
from miner.events.event import Event
from stage1.errors import SettingsError
from tests.miner.alerts.test_sender import Receiver, receiving


def event(text: str) -> Event:
    return Event("test", "alarm", text)


def told(receiver: Receiver) -> list[Any]:
    return [message["text"] for message in receiver.got]


def test_whoever_is_to_be_told_is_told_from_the_change_on(tmp_path: Path) -> None:
    file = tmp_path / "address"
    on = AlertSettings(url_file=file)

    async def story(first: Receiver, second: Receiver) -> None:
        switch = AlertSwitch(AlertSettings(), tmp_path)
        switch.event(event("nobody is told of this"))
        assert switch.status() == {}
        file.write_text(first.url)
        await switch.change(on)
        switch.event(event("one"))
        # The same settings, whose file names another receiver.
        file.write_text(second.url)
        await switch.change(on)
        switch.event(event("two"))
        file.write_text("no address")
        with pytest.raises(SettingsError, match="holds no address"):
            await switch.change(on)
        switch.event(event("three"))
        await switch.change(AlertSettings())
        switch.event(event("nobody is told of this either"))
        await switch.close()

    with ExitStack() as stack:
        first, second = (stack.enter_context(receiving()) for _ in range(2))
        asyncio.run(story(first, second))
        assert [len(told(one)) for one in (first, second)] == [1, 2]
        assert "one" in told(first)[0]
        assert "two" in told(second)[0]


def test_a_change_keeps_the_answers_that_were_seen_and_no_change_keeps_everything(tmp_path: Path) -> None:
    file = tmp_path / "address"
    file.write_text("http://127.0.0.1:1/")
    on = AlertSettings(url_file=file)

    async def story() -> None:
        switch = AlertSwitch(on, tmp_path)
        before = switch._alerts
        assert before is not None
        await switch.change(on)
        assert switch._alerts is before
        await switch.change(on.model_copy(update={"silent_h": 2.0}))
        after = switch._alerts
        assert after is not None
        assert after is not before
        assert after.answers is before.answers
        await switch.close()

    asyncio.run(story())
