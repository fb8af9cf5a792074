"""Messages arrive at a receiver on this machine, each once, and never hold anything up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from miner.alerts.message import LONGEST, message
from miner.alerts.sender import MOST_WAITING, Sender, ping
from miner.alerts.settings import AlertSettings, address
from miner.cli.main import app
from miner.events.event import Event
from tests.support.http_server import serve_beside
from tests.support.scenario import run

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Receiver(ThreadingHTTPServer):
    """Keeps what it gets, and answers with the statuses that it is told, the last of them for ever."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[dict[str, Any]] = []
        self.asked = 0
        self.statuses = [200]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook/secret"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        status = self.server.statuses[0] if len(self.server.statuses) == 1 else self.server.statuses.pop(0)
        if status == 200:
            self.server.got.append(json.loads(content))
        self.send_response(status)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    server = Receiver()
    thread = serve_beside(server)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def sent(url: str, events: list[Event], clock: list[float] | None = None, **settings: Any) -> Sender:
    async def scenario() -> Sender:
        times = iter(clock or [0.0] * (len(events) + 1))
        async with httpx2.AsyncClient() as client:
            sender = Sender(
                AlertSettings(url_env="X", **settings),
                url,
                "miner",
                client,
                now=lambda: NOW,
                clock=lambda: next(times),
                pauses_s=(0.0, 0.0),
            )
            for event in events:
                sender.event(event)
            await sender.flush()
            return sender

    return asyncio.run(scenario())


ALARM, WARNING = Event("slow", "alarm", "It is slow.", {"p99": 8}), Event("silent", "warning", "Nobody asks.")
INFO = Event("bundle_live", "info", "A new one.")


def test_what_a_program_reads_has_everything(receiver: Receiver) -> None:
    sent(receiver.url, [ALARM])
    assert receiver.got == [
        {
            "kind": "slow",
            "level": "alarm",
            "text": "It is slow.",
            "details": {"p99": 8},
            "miner": "miner",
            "at": NOW.isoformat(),
            "unsent": 0,
        }
    ]


def test_each_receiver_gets_the_form_that_it_reads() -> None:
    event = Event("x", "warning", "@everyone <b> & all " + "y" * 3000)
    forms = {
        form: message(event, form, miner="m", at="", unsent=2, chat="7") for form in ("discord", "slack", "telegram")
    }
    assert forms["discord"]["allowed_mentions"] == {"parse": []}
    assert len(forms["discord"]["content"]) == LONGEST
    assert forms["discord"]["content"].startswith("[warning] m: @everyone")
    assert "&lt;b&gt; &amp; all" in forms["slack"]["text"]
    assert (forms["telegram"]["chat_id"], set(forms["telegram"])) == (
        "7",
        {"chat_id", "text", "link_preview_options"},
    )


def test_what_was_not_sent_is_counted_in_the_next(receiver: Receiver) -> None:
    sender = sent(receiver.url, [ALARM] * 4 + [WARNING], [0, 1, 2, 3, 3700], per_hour=2)
    assert [(one["kind"], one["unsent"]) for one in receiver.got] == [("slow", 0), ("slow", 0), ("silent", 2)]
    assert sender.failed == 0


def test_only_what_matters_enough_is_sent(receiver: Receiver) -> None:
    sent(receiver.url, [INFO, WARNING, ALARM], least="alarm")
    assert [one["kind"] for one in receiver.got] == ["slow"]


def test_a_receiver_that_is_away_for_a_moment_gets_it_once(receiver: Receiver) -> None:
    receiver.statuses = [503, 429, 200]
    sent(receiver.url, [ALARM])
    assert len(receiver.got) == 1


def test_a_receiver_that_refuses_is_not_asked_again_and_the_next_says_so(receiver: Receiver) -> None:
    receiver.statuses = [404, 200]
    sender = sent(receiver.url, [ALARM, WARNING])
    assert [(one["kind"], one["unsent"]) for one in receiver.got] == [("silent", 1)]
    assert sender.failed == 1


def test_the_address_is_in_no_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    sent("http://127.0.0.1:9/hook/secret", [ALARM])
    said = capsys.readouterr()
    assert "alert_not_sent" in said.out + said.err
    assert "secret" not in said.out + said.err


def test_a_flood_is_bounded(receiver: Receiver) -> None:
    sender = sent(receiver.url, [ALARM] * (3 * MOST_WAITING), per_hour=10_000)
    assert len(receiver.got) == MOST_WAITING
    assert sender.failed == 0


def test_an_address_is_asked_only_while_the_miner_is_well(receiver: Receiver) -> None:
    async def scenario() -> list[int]:
        looks = 0
        seen: list[int] = []

        def well() -> bool:
            nonlocal looks
            looks += receiver.asked >= 3
            if looks:
                # What was sent before has been answered.
                seen.append(receiver.asked)
            return not looks

        async with httpx2.AsyncClient() as client:
            task = asyncio.create_task(ping(client, receiver.url, 0.01, well))
            while looks < 5:
                await asyncio.sleep(0.01)
            task.cancel()
        return seen

    assert len(set(asyncio.run(scenario()))) == 1


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/hook\n# secret", "http://[::1/secret", "http://xn--z\xad../secret"]
)
def test_an_address_that_is_no_url_ends_nobody_who_sends(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with httpx2.AsyncClient() as client:
            task = asyncio.create_task(ping(client, url, 0.01, lambda: True))
            await asyncio.sleep(0.05)
            assert not task.done()
            task.cancel()

    assert sent(url, [ALARM, WARNING]).failed == 2
    asyncio.run(scenario())
    said = capsys.readouterr()
    assert "secret" not in said.out + said.err


def test_a_check_of_the_miner_that_fails_ends_no_ping(receiver: Receiver) -> None:
    def well() -> bool:
        if receiver.asked == 1:
            receiver.asked += 1
            raise RuntimeError
        return True

    async def scenario() -> None:
        async with httpx2.AsyncClient() as client:
            task = asyncio.create_task(ping(client, receiver.url, 0.01, well))
            while receiver.asked < 4:
                assert not task.done()
                await asyncio.sleep(0.01)
            task.cancel()

    asyncio.run(scenario())


def test_a_flood_of_news_leaves_room_for_alarms(receiver: Receiver) -> None:
    # An alarm is told once: one that is dropped is never told at all.
    events = [INFO] * 5 + [ALARM]
    sent(receiver.url, events, [0.0] * 20, per_hour=4)
    assert [one["kind"] for one in receiver.got][-1] == "slow"
    sent(receiver.url, [INFO] * (2 * MOST_WAITING) + [ALARM], [0.0] * 3 * MOST_WAITING, per_hour=10_000)
    assert [one["kind"] for one in receiver.got][-1] == "slow"


@pytest.mark.parametrize(
    "text", ["", "ftp://x", "hook", "http://", "http://[::1/x", "http://h/x\nhttp://h/y", "http://h:x/"]
)
def test_an_address_that_is_none_is_told_without_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(text)
    with pytest.raises(ValueError, match=r"alerts.url_file: .* holds no address that begins with http://"):
        address(None, tmp_path / "url", {}, "url")
    with pytest.raises(ValueError, match=r"alerts.url_env: the variable HOOK holds no address"):
        address("HOOK", None, {"HOOK": text}, "url")
    with pytest.raises(ValueError, match=r"cannot be read: No such file"):
        address(None, tmp_path / "nowhere", {}, "url")


def test_the_command_says_whether_it_arrived(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOOK", receiver.url)
    command = ["alerts", "test", "--set", "alerts.url_env=HOOK", "--set", "alerts.form=slack"]
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, done.stdout) == (0, "sent, as slack: look whether it arrived\n"), done.output
    assert receiver.got[0]["text"].endswith("This is a test; nothing is wrong.")
    receiver.statuses = [403]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "did not take it: status 403" in refused.output
    assert "nobody is told" in CliRunner().invoke(app, ["alerts", "test"]).output


def test_what_waits_for_another_attempt_is_tried_once_more_at_the_end(receiver: Receiver) -> None:
    async def scenario() -> None:
        receiver.statuses = [503, 200]
        async with httpx2.AsyncClient() as client:
            sender = Sender(
                AlertSettings(url_env="X"),
                receiver.url,
                "miner",
                client,
                now=lambda: NOW,
                clock=lambda: 0.0,
                pauses_s=(600.0,),
            )
            task = asyncio.create_task(sender.run())
            sender.event(ALARM)
            while not sender._between_attempts:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert receiver.got == []
            await sender.flush()

    asyncio.run(scenario())
    assert [one["kind"] for one in receiver.got] == ["slow"]


def test_an_event_of_another_thread_wakes_who_sends(receiver: Receiver) -> None:
    # The watch on the certificate tells of its alarms from a thread of its own.
    async def scenario() -> None:
        async with httpx2.AsyncClient() as client:
            sender = Sender(
                AlertSettings(url_env="X"), receiver.url, "miner", client, now=lambda: NOW, clock=lambda: 0.0
            )
            task = asyncio.create_task(sender.run())
            await asyncio.sleep(0.05)
            await asyncio.to_thread(sender.event, ALARM)
            while not receiver.got:
                await asyncio.sleep(0.01)
            task.cancel()

    # In this mode the loop refuses what is not safe between threads.
    run(scenario, seconds=60, debug=True)
    assert [one["kind"] for one in receiver.got] == ["slow"]
