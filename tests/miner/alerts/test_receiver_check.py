"""A receiver to which no message will ever go is told at the start, and one that is only away is not."""

from __future__ import annotations

import asyncio
import socket
import ssl

import httpx2
import pytest
from structlog.testing import capture_logs

from miner.alerts.receiver_check import receiver_fault
from miner.alerts.sender import Sender
from miner.alerts.settings import AlertSettings
from miner.alerts.watch import receiver_faults
from miner.cli.doctor.keys import receivers
from miner.events.event import Event
from miner.settings import load_settings
from tests.miner.alerts.test_sender import NOW, Receiver, receiver

__all__ = ["receiver"]


def encrypted(url: str) -> str:
    return url.replace("http://", "https://")


def fault(url: str) -> str | None:
    return asyncio.run(receiver_fault(url, ssl.create_default_context(), 60))


def test_a_receiver_that_speaks_no_tls_is_told_and_gets_nothing(receiver: Receiver) -> None:
    assert fault(receiver.url) is None
    assert "does not speak TLS" in (fault(encrypted(receiver.url)) or "")
    assert (receiver.got, receiver.asked) == ([], 0)


def test_a_receiver_that_is_away_may_be_there_again() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        # Nobody listens.
        assert fault(f"https://127.0.0.1:{taken.getsockname()[1]}/hook") is None


def test_a_host_that_is_none_is_told_without_the_address() -> None:
    found = fault("https://hooks..example/secret")
    assert found is not None
    assert "host" in found
    assert "hooks" not in found


def test_doctor_tells_it_without_the_address(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = load_settings(None, {"alerts.url_env": "RECEIVER", "alerts.ping_env": "PING"})
    monkeypatch.setenv("RECEIVER", encrypted(receiver.url))
    monkeypatch.setenv("PING", receiver.url)
    assert [what for what, _ in asyncio.run(receiver_faults(wanted.alerts))] == ["messages"]
    [found] = asyncio.run(receivers(wanted))
    assert (found.check, found.verdict) == ("alerts", "error")
    assert "the receiver of messages: it does not speak TLS" in found.detail
    assert "secret" not in found.detail
    assert str(receiver.server_port) not in found.detail
    monkeypatch.setenv("RECEIVER", receiver.url)
    assert [one.verdict for one in asyncio.run(receivers(wanted))] == ["ok"]


def test_a_message_that_can_never_arrive_is_not_sent_again_and_again(receiver: Receiver) -> None:
    async def scenario() -> Sender:
        async with httpx2.AsyncClient() as client:
            url = encrypted(receiver.url)
            # A second attempt would wait for an hour.
            sender = Sender(
                AlertSettings(url_env="X"), url, "miner", client, now=lambda: NOW, clock=lambda: 0.0, pauses_s=(3600.0,)
            )
            sender.event(Event("test", "alarm", "it is slow"))
            async with asyncio.timeout(60):
                await sender.flush()
            return sender

    with capture_logs() as logs:
        assert asyncio.run(scenario()).failed == 1
    [told] = [entry for entry in logs if entry["event"] == "alert_not_sent"]
    assert "does not speak TLS" in told["reason"]
