"""Another miner's axon, asked from here: a real axon, and what else may listen on a port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bittensor_wallet import Keypair

from miner.answering.deadline import TimeBudget
from miner.answering.request import Prediction, Request
from miner.axon.access import AccessPolicy
from miner.axon.app import AxonApp
from miner.axon.server import AxonServer
from miner.axon.settings import AccessSettings, AxonSettings, RequestSettings, WireSettings
from miner.axon.wires.open_wire import open_wire
from miner.chain.offline import ChainFile
from miner.chain.port import AxonAddress, ChainSnapshot, Neuron
from miner.cli.doctor import peer
from miner.cli.doctor.diagnosis import Finding
from miner.cli.doctor.peer import Peer, examine_peer, known, refusal, shape
from miner.settings import MinerSettings, load_settings
from stage1.errors import SettingsError
from tests.support.http_server import serve_beside
from tests.support.unknown_hosts import unknown_hosts


@pytest.fixture
def settings(tmp_path: Path) -> MinerSettings:
    ChainFile(neurons={}).write(tmp_path / "chain.json")
    return load_settings(None, {"chain.kind": "offline", "chain.snapshot": tmp_path / "chain.json"})


def by_check(found: list[Finding]) -> dict[str, Finding]:
    return {one.check: one for one in found}


def test_a_real_axon_refuses_what_nobody_signed_and_is_known_by_its_address(
    settings: MinerSettings, tmp_path: Path, axon_key: Keypair
) -> None:
    async def never(_: Request) -> Prediction:
        raise AssertionError

    async def scenario() -> dict[str, Finding]:
        hotkey = str(axon_key.ss58_address)
        app = AxonApp(
            never,
            routes=open_wire(hotkey, WireSettings(), age_s=lambda: 0.0),
            access=AccessPolicy(AccessSettings(), {}),
            settings=RequestSettings(),
            budget=TimeBudget(7.0, 2.0, 0.25),
            receiver=hotkey,
        )
        server = AxonServer(app, AxonSettings(host="127.0.0.1", port=0))
        await server.start()
        try:
            neurons = {hotkey: Neuron(uid=4, incentive=0.25, axon=AxonAddress("127.0.0.1", server.port))}
            ChainFile(neurons=neurons).write(tmp_path / "chain.json")
            return by_check(await examine_peer(Peer("http", "127.0.0.1", server.port), settings))
        finally:
            await server.stop(1)

    found = asyncio.run(scenario())
    assert {name: one.verdict for name, one in found.items()} == dict.fromkeys(
        ("connect", "http", "unsigned", "on chain"), "ok"
    ), found
    assert "uid 4" in found["on chain"].detail
    assert "as it must be" in found["unsigned"].detail


def test_a_port_where_nobody_listens_is_one_error_beside_what_the_chain_says(settings: MinerSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = by_check(asyncio.run(examine_peer(Peer("http", "127.0.0.1", port), settings)))
    assert {name: one.verdict for name, one in found.items()} == {"connect": "error", "on chain": "warning"}
    assert found["connect"].detail == f"http://127.0.0.1:{port}: Connection refused"
    assert "nothing listens there" in found["connect"].todo


def test_a_name_that_there_is_not_is_one_error(settings: MinerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown_hosts(monkeypatch)
    [told] = asyncio.run(examine_peer(Peer("http", "no.such.host.invalid", 8091), settings))
    assert (told.check, told.verdict) == ("connect", "error")


@contextmanager
def listening(status: int, body: bytes) -> Iterator[int]:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  the base class's

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        serve_beside(server)
        yield server.server_port
        server.shutdown()


def test_a_page_of_the_web_is_no_axon(settings: MinerSettings) -> None:
    with listening(200, b"<html>") as port:
        found = by_check(asyncio.run(examine_peer(Peer("http", "127.0.0.1", port), settings)))
    assert (found["http"].verdict, found["unsigned"].verdict) == ("warning", "warning")
    assert "an axon answers 404 in JSON" in found["http"].todo


def test_what_does_not_speak_http_is_told(settings: MinerSettings) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        writer.close()

    async def scenario() -> dict[str, Finding]:
        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return by_check(await examine_peer(Peer("http", "127.0.0.1", port), settings))

    found = asyncio.run(scenario())
    assert (found["http"].verdict, "does not speak HTTP" in found["http"].detail) == ("error", True)


@pytest.mark.parametrize(
    ("status", "verdict"), [(401, "ok"), (403, "ok"), (400, "ok"), (200, "warning"), (404, "error"), (503, "warning")]
)
def test_the_answer_to_an_unsigned_request_is_judged(status: int, verdict: str) -> None:
    told = refusal(status, "/ImageSynapse")
    assert (told.verdict, bool(told.todo)) == (verdict, verdict != "ok")


def test_a_full_axon_is_told() -> None:
    assert shape(503, "application/json", 1.0).verdict == "warning"


def test_another_port_at_the_same_address_is_told() -> None:
    there = {"5Other": Neuron(uid=1, axon=AxonAddress("203.0.113.7", 9000))}
    told = known(ChainSnapshot(1, there, 0.0), {"203.0.113.7"}, 8091)
    assert (told.verdict, "port 9000" in told.detail) == ("warning", True)


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("http://203.0.113.7:8091", "http://203.0.113.7:8091"),
        ("203.0.113.7", "http://203.0.113.7:8091"),
        ("https://miner.example:443/", "https://miner.example:443"),
        ("http://[2001:db8::7]:81", "http://[2001:db8::7]:81"),
    ],
)
def test_an_address_is_read_as_a_person_gives_it(text: str, peer: str) -> None:
    assert str(Peer.of(text)) == peer


@pytest.mark.parametrize("text", ["", "ftp://x", "http://", "http://h:x", "http://[::1"])
def test_an_address_that_is_none_is_told(text: str) -> None:
    with pytest.raises(SettingsError, match="--peer"):
        Peer.of(text)


JSON_HEAD = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\n\r\n"


@pytest.mark.parametrize(("start", "verdict"), [(JSON_HEAD, "ok"), (b"HTTP/1.1 404 ", "error")])
def test_an_answer_without_an_end_is_not_waited_for(
    start: bytes, verdict: str, settings: MinerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "WAIT_S", 0.3)

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(start)
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        except OSError:
            return
        finally:
            writer.transport.abort()

    async def scenario() -> dict[str, Finding]:
        server = await asyncio.start_server(endless, "127.0.0.1", 0)
        async with server, asyncio.timeout(20):
            port = server.sockets[0].getsockname()[1]
            return by_check(await examine_peer(Peer("http", "127.0.0.1", port), settings))

    assert asyncio.run(scenario())["http"].verdict == verdict
