"""Looks for a newer release at a server on this machine."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from miner.cli.main import app
from miner.cli.update import told
from miner.events.event import Event
from miner.update import check as module
from miner.update.check import FILE, UpdateAnswer, UpdateNotChecked, installed_version, last_answer, look
from miner.update.settings import UpdateSettings
from miner.update.watch import UpdateWatch
from tests.support.http_server import serve_beside

NOW = datetime(2026, 12, 1, tzinfo=UTC)
RELEASES = json.dumps(
    {
        "info": {"project_urls": {"Changelog": "https://example.com/changes"}},
        "releases": {
            "0.1.0": [{"upload_time_iso_8601": "2026-11-01T00:00:00Z"}],
            "99.0.0": [{"upload_time_iso_8601": "2026-12-01T00:00:00Z"}],
        },
    }
)
NOTES = "## [99.0.0]\n- everything\n\n## [0.1.0]\n- little\n"


class Server:
    """Answers each path with a text, and keeps the headers of what it was asked."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.asked: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append({name.lower(): value for name, value in self.headers.items()})
                text = texts.get(self.path)
                if text is not None and text.startswith("/"):
                    self.send_response(302)
                    self.send_header("location", text)
                    self.end_headers()
                    return
                self.send_response(404 if text is None else 200)
                self.end_headers()
                self.wfile.write((text or "").encode())

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        serve_beside(self._http)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def serving(**texts: str) -> Iterator[Server]:
    server = Server({f"/{name}": text for name, text in texts.items()})
    try:
        yield server
    finally:
        server.close()


def asked(server: Server, path: str = "json", **settings: object) -> UpdateAnswer:
    wanted = UpdateSettings.model_validate({"url": f"{server.url}/{path}", **settings})
    return look(wanted, installed="0.1.0", now=lambda: NOW)


def test_the_newest_release_and_its_notes_are_found() -> None:
    with serving(json=RELEASES, notes=NOTES) as server:
        found = asked(server)
        assert (found.newest, found.released_at) == ("99.0.0", "2026-12-01T00:00:00Z")
        assert found.notes_url == "https://example.com/changes"
        assert found.newer_than("0.1.0")
        assert not found.newer_than("99.0.0")
        assert asked(server, notes_url=f"{server.url}/notes").notes == "## [99.0.0]\n- everything"


def test_nothing_is_sent_that_tells_of_the_miner() -> None:
    with serving(json=RELEASES) as server:
        asked(server)
        [headers] = server.asked
    assert headers.pop("host") == server.url.removeprefix("http://")
    assert headers.pop("user-agent") == "streetvision-cascade update check"
    assert headers.keys() <= {"accept", "accept-encoding", "connection"}


def test_a_few_redirections_are_followed() -> None:
    with serving(json=RELEASES, old="/json", round="/round") as server:
        assert asked(server, "old").newest == "99.0.0"
        with pytest.raises(UpdateNotChecked, match="cannot be asked"):
            asked(server, "round")


def test_what_does_not_help_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(page="<html>", json=RELEASES) as server:
        with pytest.raises(UpdateNotChecked, match="nothing is published there"):
            asked(server, "nowhere")
        with pytest.raises(UpdateNotChecked, match="neither a project of PyPI nor releases of GitHub"):
            asked(server, "page")
        monkeypatch.setattr(module, "MOST_BYTES", 10)
        with pytest.raises(UpdateNotChecked, match="more than 10 bytes"):
            asked(server)
    with pytest.raises(UpdateNotChecked, match="without a network, look there from another machine"):
        asked(server)


@pytest.mark.parametrize("url", ["ftp://example.com/x", "example.com", "https://me:secret@example.com/", "https://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        UpdateSettings(url=url)


@pytest.mark.usefixtures("elsewhere")
def test_the_command_says_what_is_newer_and_keeps_the_answer() -> None:
    Path("state").mkdir()
    with serving(json=RELEASES) as server:
        options = ["update", "check", "--set", f"update.url={server.url}/json", "--set", "state=state"]
        told = CliRunner().invoke(app, options)
        plain = CliRunner().invoke(app, [*options, "--json"])
    assert told.exit_code == plain.exit_code == 0
    assert f"99.0.0 of 2026-12-01 is the newest release; {installed_version()} is installed" in told.stdout
    assert "notes: https://example.com/changes" in told.stdout
    assert json.loads(plain.stdout)["newer"] is True
    kept = last_answer(Path("state"))
    assert kept is not None
    assert kept.newest == "99.0.0"


@pytest.mark.usefixtures("elsewhere")
def test_without_a_network_the_command_ends_with_status_1_and_makes_nothing() -> None:
    with serving() as server:
        url = server.url
    result = CliRunner().invoke(app, ["update", "check", "--set", f"update.url={url}/json"])
    assert result.exit_code == 1
    assert "cannot be asked" in result.stderr
    assert list(Path().iterdir()) == []


class Told:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def event(self, event: Event) -> None:
        self.events.append(event)


def test_a_miner_tells_of_a_release_once_also_after_a_restart(tmp_path: Path) -> None:
    told = Told()
    with serving(json=RELEASES) as server:
        for _ in range(2):
            settings = UpdateSettings(url=f"{server.url}/json")
            watch = UpdateWatch(settings, tmp_path, told, now=lambda: NOW, installed="0.1.0")
            assert asyncio.run(watch.look())
            assert asyncio.run(watch.look())
    [event] = told.events
    assert (event.kind, event.details["newest"]) == ("update_available", "99.0.0")
    assert watch.status()["newer"] is True
    assert UpdateWatch(settings, tmp_path, told, now=lambda: NOW, installed="99.0.0").status()["newer"] is False


def test_a_miner_that_cannot_ask_keeps_what_it_knew(tmp_path: Path) -> None:
    with serving(json=RELEASES) as server:
        settings = UpdateSettings(url=f"{server.url}/json")
        watch = UpdateWatch(settings, tmp_path, Told(), now=lambda: NOW, installed="0.1.0")
        assert asyncio.run(watch.look())
    assert not asyncio.run(watch.look())
    assert watch.status()["newest"] == "99.0.0"
    for text in ("{", (tmp_path / FILE).read_text().replace("99.0.0", "the newest")):
        (tmp_path / FILE).write_text(text)
        assert last_answer(tmp_path) is None


def test_a_server_that_hangs_keeps_no_process_from_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()
    asked = threading.Event()

    def look(*_: object, **__: object) -> UpdateAnswer:
        asked.set()
        hangs.wait(60)
        raise UpdateNotChecked("too late")

    monkeypatch.setattr("miner.update.watch.look", look)

    async def scenario() -> None:
        task = asyncio.create_task(UpdateWatch(UpdateSettings(), tmp_path, Told(), now=lambda: NOW).look())
        await asyncio.to_thread(asked.wait)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    before = threading.enumerate()
    asyncio.run(scenario())
    # The end of the loop waits for whatever was given to its own threads.
    [left] = [thread for thread in threading.enumerate() if thread.name == "update" and thread not in before]
    assert left.daemon
    hangs.set()
    left.join()


def test_notes_say_nothing_to_the_terminal() -> None:
    notes = "## [99.0.0]\n- \x1b]0;title\x07\x1b[2Jeverything\n"
    with serving(json=RELEASES, notes=notes) as server:
        text = told(asked(server, notes_url=f"{server.url}/notes"))
    assert "everything" in text
    assert "\x1b" not in text
    assert "\x07" not in text


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
