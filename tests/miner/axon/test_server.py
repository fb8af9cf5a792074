"""The server on a real port: connections, limits, start and stop."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from engines.machine.tally import Tally
from miner.answering.request import Prediction
from miner.axon.access import AccessPolicy
from miner.axon.app import AxonApp
from miner.axon.routes import RouteTable
from miner.axon.server import AxonServer, bind
from miner.axon.settings import AccessSettings, AxonSettings, RequestSettings
from miner.axon.wires import subnet72
from miner.chain.port import Neuron
from miner.errors import ServerError

LOCAL = AxonSettings(host="127.0.0.1", port=0)
BODY = b'{"image": "aGVsbG8="}'
# Less than a connection may be kept for by its settings.
PATIENCE_S = 25.0


class Connection:
    """One HTTP/1.1 connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int, host: str = "127.0.0.1") -> Connection:
        return cls(*await asyncio.open_connection(host, port))

    def begin(self, headers: dict[str, str], *, path: str = "/ImageSynapse", method: str = "POST") -> None:
        lines = [f"{method} {path} HTTP/1.1", "host: axon", *(f"{name}: {value}" for name, value in headers.items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def reply(self) -> tuple[int, dict]:
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), json.loads(body)

    async def ask(self, headers: dict[str, str], body: bytes = BODY, **where: str) -> tuple[int, dict]:
        self.begin(headers | {"content-length": str(len(body))}, **where)
        self.writer.write(body)
        await self.writer.drain()
        return await self.reply()

    async def closed_by_server(self) -> float:
        started = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            assert await self.reader.read() == b""
        return time.monotonic() - started

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


@pytest.fixture
def app(validator):
    """Builds an application that knows one validator."""

    def build(answer=None, on_reply=None, **settings) -> AxonApp:
        async def constant(_request):
            return Prediction(0.75)

        access = AccessPolicy(AccessSettings(), {validator.hotkey: Neuron(uid=7, validator_permit=True)})
        limits = RequestSettings(**settings)
        routes = RouteTable(subnet72.routes(validator.receiver))
        return AxonApp(answer or constant, routes=routes, access=access, settings=limits, on_reply=on_reply)

    return build


class Endless:
    """An answer that never comes; knows whether it is asked for, and whether it was given up."""

    def __init__(self) -> None:
        self.begun, self.given_up = asyncio.Event(), asyncio.Event()

    async def __call__(self, _request):
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.given_up.set()


async def listening(app, settings=LOCAL) -> AxonServer:
    server = AxonServer(app, settings)
    await server.start()
    return server


class TestRequests:
    def test_one_connection_serves_many_requests(self, app, validator):
        async def scenario():
            server = await listening(app())
            connection = await Connection.to(server.port)
            headers = validator.headers()
            replies = [
                await connection.ask(headers),
                await connection.ask(headers),
                await connection.ask(validator.headers(bt_header_dendrite_signature="")),
                await connection.ask({}, path="/", method="GET"),
                await connection.ask({}, path="/%00%ff/../x?y=1", method="DELETE"),
                await connection.ask(validator.headers()),
            ]
            await connection.close()
            await server.stop()
            return replies

        replies = asyncio.run(scenario())
        assert [status for status, _ in replies] == [200, 401, 401, 404, 404, 200]
        assert all(set(body) == {"message"} for _, body in replies[1:5])
        assert replies[-1][1] == {"prediction": 0.75}

    def test_a_huge_body_is_refused_while_others_are_answered(self, app, validator):
        async def scenario():
            server = await listening(app())
            huge, other = await Connection.to(server.port), await Connection.to(server.port)
            size = 50 * 1024 * 1024
            huge.begin(validator.headers() | {"content-length": str(size)})
            upload = asyncio.create_task(_upload(huge.writer, size))
            refused = asyncio.create_task(huge.reply())
            answers = []
            while not refused.done():
                answers.append((await other.ask(validator.headers()))[0])
            answers.append((await other.ask(validator.headers()))[0])
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)
            await asyncio.gather(huge.close(), other.close())
            await server.stop(1)
            return (await refused)[0], set(answers)

        assert asyncio.run(scenario()) == (413, {200})

    def test_a_long_header_is_refused(self, app):
        async def scenario():
            server = await listening(app())
            connection = await Connection.to(server.port)
            connection.writer.write(b"POST /ImageSynapse HTTP/1.1\r\nx: " + b"y" * 20_000)
            async with asyncio.timeout(PATIENCE_S):
                first_line = await connection.reader.readline()
            await connection.close()
            await server.stop()
            return first_line

        assert b" 400 " in asyncio.run(scenario())

    def test_a_long_header_that_comes_at_once_is_refused_as_well(self, app, validator):
        async def scenario():
            server = await listening(app())
            connection = await Connection.to(server.port)
            reply = await connection.ask(validator.headers() | {"x": "y" * 100_000})
            await connection.close()
            await server.stop()
            return reply

        status, told = asyncio.run(scenario())
        assert (status, set(told)) == (400, {"message"})

    @pytest.mark.parametrize(
        ("head", "body", "status", "counted"),
        [
            # Each piece would be an event of its own: a megabyte of them from a stranger held the loop for seconds.
            ({"transfer-encoding": "chunked"}, b"1\r\nx\r\n" * 200, 411, "chunked"),
            # And so would each line of a header, read before anybody asks whose it is.
            ({f"x-{number}": "" for number in range(100)}, b"", 400, "long_header"),
            # The parser takes the body for the other protocol, of which each line might then be a request.
            (
                {"connection": "upgrade", "upgrade": "h2c", "content-length": "30"},
                b"GET / HTTP/1.1\r\n" * 2,
                400,
                "upgrade",
            ),
        ],
        ids=["a chunked body", "a header of many lines", "an upgrade"],
    )
    def test_what_is_cheap_to_send_and_dear_to_read_is_not_read(self, app, head, body, status, counted):
        async def scenario():
            tally = Tally()
            server = AxonServer(app(), LOCAL, tally=tally)
            await server.start()
            connection = await Connection.to(server.port)
            connection.begin(head)
            connection.writer.write(body)
            refused = await connection.reply()
            await connection.close()
            await server.stop(1)
            return refused, dict(tally.counts)

        (told, message), counts = asyncio.run(scenario())
        assert (told, set(message), counts) == (status, {"message"}, {counted: 1})

    def test_a_length_of_many_zeros_is_a_length(self, app, validator):
        async def scenario():
            server = await listening(app())
            connection = await Connection.to(server.port)
            connection.begin(validator.headers() | {"content-length": str(len(BODY)).zfill(5000)})
            connection.writer.write(BODY)
            reply = await connection.reply()
            await connection.close()
            await server.stop()
            return reply

        assert asyncio.run(scenario()) == (200, {"prediction": 0.75})

    def test_who_counts_replies_and_fails_costs_no_caller_its_connection(self, app, validator, caplog):
        def fail(_reply):
            raise ValueError("no")

        async def scenario():
            server = await listening(app(on_reply=fail))
            connection = await Connection.to(server.port)
            with capture_logs() as logs:
                replies = [await connection.ask(validator.headers()) for _ in range(3)]
                await connection.close()
                await server.stop()
            return [status for status, _ in replies], [line["event"] for line in logs if line["log_level"] == "warning"]

        assert asyncio.run(scenario()) == ([200, 200, 200], ["observer_failed"])
        assert caplog.records == []

    def test_who_sends_requests_far_ahead_of_their_replies_is_not_read(self, app):
        async def scenario():
            tally = Tally()
            server = AxonServer(app(), LOCAL, tally=tally)
            await server.start()
            connection = await Connection.to(server.port)
            connection.writer.write(b"GET / HTTP/1.1\r\n\r\n" * 2000)
            async with asyncio.timeout(PATIENCE_S):
                replies = await connection.reader.read()
            await connection.close()
            await server.stop(1)
            return replies.count(b"HTTP/1.1 "), json.loads(replies.rpartition(b"\r\n")[2]), tally.counts["pipelined"]

        answered, message, counted = asyncio.run(scenario())
        assert (answered, set(message), counted) == (1, {"message"}, 1)

    def test_requests_that_come_together_are_answered_in_their_order(self, app, validator):
        async def scenario():
            server = await listening(app())
            connection = await Connection.to(server.port)
            for headers in (validator.headers(), {}, validator.headers()):
                connection.begin(headers | {"content-length": str(len(BODY))})
                connection.writer.write(BODY)
            replies = [(await connection.reply())[0] for _ in range(3)]
            await connection.close()
            await server.stop()
            return replies

        assert asyncio.run(scenario()) == [200, 403, 200]

    def test_junk_behind_a_request_ends_it_without_a_fault(self, app, validator, caplog):
        """The replies of what came before it would be written after the end."""

        async def scenario():
            asked, go_on = asyncio.Event(), asyncio.Event()

            async def slow(_request):
                asked.set()
                await go_on.wait()
                return Prediction(0.75)

            application = app(slow)
            server = await listening(application)
            connection = await Connection.to(server.port)
            for _ in range(2):
                connection.begin(validator.headers() | {"content-length": str(len(BODY))})
                connection.writer.write(BODY)
            await asked.wait()
            connection.writer.write(b"\x00\x00 this is no HTTP\r\n\r\n")
            reply = await connection.reply()
            go_on.set()
            await connection.closed_by_server()
            await _until(lambda: application.in_flight == 0)
            await connection.close()
            await server.stop(1)
            return reply[0]

        assert asyncio.run(scenario()) == 400
        assert [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []

    @pytest.mark.parametrize("sent", [b"", b"POST /Image"])
    def test_a_connection_without_a_request_is_closed(self, app, sent):
        async def scenario():
            server = await listening(app(), LOCAL.model_copy(update={"first_request_s": 0.5}))
            connection = await Connection.to(server.port)
            connection.writer.write(sent)
            seconds = await connection.closed_by_server()
            await connection.close()
            await server.stop()
            return seconds

        assert asyncio.run(scenario()) < PATIENCE_S

    def test_a_permitted_callers_address_has_longer(self, app, validator):
        """A validator that opens a hundred connections at once takes seconds to send a request over each."""

        async def scenario():
            server = await listening(app(), LOCAL.model_copy(update={"first_request_s": 1.0, "keep_alive_s": 60}))
            slow, quick = await Connection.to(server.port), await Connection.to(server.port)
            assert (await quick.ask(validator.headers()))[0] == 200
            await asyncio.sleep(2)
            status, _ = await slow.ask(validator.headers())
            await slow.close()
            await quick.close()
            await server.stop()
            return status

        assert asyncio.run(scenario()) == 200

    def test_nobody_works_for_a_reply_that_is_dropped_because_of_junk_behind_its_request(
        self, app, validator, monkeypatch
    ):
        monkeypatch.setattr("miner.axon.http_connection.LINGER_S", 10 * PATIENCE_S)
        answer = Endless()
        begun, given_up = answer.begun, answer.given_up

        async def scenario():
            server = await listening(app(answer, deadline_s=10 * PATIENCE_S))
            connection = await Connection.to(server.port)
            connection.begin(validator.headers(timeout="1000") | {"content-length": str(len(BODY))})
            connection.writer.write(BODY)
            async with asyncio.timeout(PATIENCE_S):
                await begun.wait()
                connection.writer.write(b"\xff\xff\r\n\r\n")
                await given_up.wait()
            status, _ = await connection.reply()
            await connection.close()
            await server.stop(1)
            return status

        assert asyncio.run(scenario()) == 400

    def test_junk_does_not_fill_the_log(self, app, caplog):
        async def scenario():
            server = await listening(app())
            connection = await Connection.to(server.port)
            connection.writer.write(b"\x16\x03\x01 TLS, perhaps\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                reply = await connection.reader.read()
            await connection.close()
            await server.stop()
            return reply

        assert b" 400 " in asyncio.run(scenario())
        assert [record for record in caplog.records if record.levelname == "WARNING"] == []

    def test_what_follows_a_request_and_is_no_http_fills_no_log_and_keeps_no_place(self, app, validator, caplog):
        async def scenario():
            application, told = app(), []
            server = await listening(application)
            for headers in ({}, validator.headers()):
                connection = await Connection.to(server.port)
                connection.begin(headers | {"content-length": "2"})
                connection.writer.write(b"{}ZZZ\r\n\r\n")
                told.append((await connection.reply())[0])
                await connection.closed_by_server()
                await connection.close()
            await _until(lambda: application.in_flight == 0)
            await server.stop(1)
            return told

        assert asyncio.run(scenario()) == [400, 400]
        assert [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []

    def test_a_half_sent_second_header_is_closed_too(self, app, validator):
        async def scenario():
            server = await listening(app(), LOCAL.model_copy(update={"keep_alive_s": 1}))
            connection = await Connection.to(server.port)
            assert (await connection.ask(validator.headers()))[0] == 200
            connection.writer.write(b"POST /Image")
            seconds = await connection.closed_by_server()
            await connection.close()
            await server.stop()
            return seconds

        assert asyncio.run(scenario()) < PATIENCE_S


async def silent(port: int, count: int, source: str) -> list[socket.socket]:
    """Connections from an address that say nothing."""
    loop = asyncio.get_running_loop()
    opened = []
    for _ in range(count):
        one = socket.socket()
        one.setblocking(False)
        one.bind((source, 0))
        await loop.sock_connect(one, ("127.0.0.1", port))
        opened.append(one)
    # The server takes them in.
    await asyncio.sleep(0.02)
    return opened


class TestCrowds:
    @pytest.mark.parametrize("sources", [["127.0.0.2"], [f"127.0.0.{n}" for n in range(2, 42)]])
    def test_do_not_shut_a_validator_out(self, app, validator, sources):
        settings = LOCAL.model_copy(update={"max_connections": 100, "max_connections_per_address": 60})

        async def scenario():
            server = await listening(app(), settings)
            each = 300 // len(sources)
            crowd = [one for source in sources for one in await silent(server.port, each, source)]
            connection = await Connection.to(server.port)
            first = await connection.ask(validator.headers())
            crowd += [one for source in sources for one in await silent(server.port, each, source)]
            # Its connection is as good as before.
            second = await connection.ask(validator.headers())
            others = [await Connection.to(server.port) for _ in range(5)]
            third = [await other.ask(validator.headers()) for other in others]
            for one in crowd:
                one.close()
            await asyncio.gather(connection.close(), *(other.close() for other in others))
            await server.stop(1)
            return [status for status, _ in (first, second, *third)]

        assert asyncio.run(scenario()) == [200] * 7

    def test_a_connection_for_which_there_is_no_place_is_told_so_as_json(self, app, validator):
        settings = LOCAL.model_copy(update={"max_connections_per_address": 1})

        async def scenario():
            busy, tally = asyncio.Event(), Tally()

            async def answer(_request):
                await busy.wait()
                return Prediction(0.5)

            application = app(answer)
            server = AxonServer(application, settings, tally=tally)
            await server.start()
            first = await Connection.to(server.port)
            asked = asyncio.create_task(first.ask(validator.headers()))
            await _until(lambda: application.in_flight == 1)
            second = await Connection.to(server.port)
            refused = await second.reply()
            closed_s = await second.closed_by_server()
            busy.set()
            answered = await asked
            await asyncio.gather(first.close(), second.close())
            await server.stop(1)
            return refused, closed_s, answered[0], dict(tally.counts)

        refused, closed_s, answered, counted = asyncio.run(scenario())
        assert refused == (503, {"message": "This miner holds as many connections as it can; ask again later."})
        assert closed_s < PATIENCE_S
        assert (answered, counted) == (200, {"connections": 1})

    def test_where_few_files_are_allowed_there_are_few_connections_and_few_lines(self):
        """Without a descriptor left, asyncio writes thousands of tracebacks a second."""
        program = Path(__file__).with_name("few_files.py")
        ran = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=200, check=True)
        assert ran.stdout.splitlines()[-1] == "200"
        assert len(ran.stderr.splitlines()) < 10, ran.stderr[:2000]
        assert "fewer_connections" in ran.stderr


class TestCallersWhoLeave:
    def test_nothing_is_computed_for_them_any_more(self, app, validator):
        answer = Endless()
        begun, given_up = answer.begun, answer.given_up

        async def scenario():
            application = app(answer)
            server = await listening(application)
            connection = await Connection.to(server.port)
            asking = asyncio.create_task(connection.ask(validator.headers()))
            async with asyncio.timeout(PATIENCE_S):
                await begun.wait()
                connection.writer.transport.abort()
                await given_up.wait()
            await asyncio.gather(asking, return_exceptions=True)
            await server.stop()
            return application.in_flight

        with capture_logs() as logs:
            assert asyncio.run(scenario()) == 0
        assert [entry["reason"] for entry in logs if entry["event"] == "refused"] == ["caller_left"]

    def test_an_answer_that_is_out_is_not_given_up(self, app, validator):
        async def scenario():
            server = await listening(app())
            connection = await Connection.to(server.port)
            status, _ = await connection.ask(validator.headers())
            await connection.close()
            other = await Connection.to(server.port)
            again, _ = await other.ask(validator.headers())
            await other.close()
            await server.stop()
            return status, again

        with capture_logs() as logs:
            assert asyncio.run(scenario()) == (200, 200)
        assert not [entry for entry in logs if entry["event"] == "refused"]


class TestStart:
    def test_says_what_to_do_if_the_port_is_taken(self, app):
        async def scenario():
            with socket.create_server(("127.0.0.1", 0)) as holder:
                port = holder.getsockname()[1]
                server = AxonServer(app(), AxonSettings(host="127.0.0.1", port=port))
                with pytest.raises(ServerError) as error:
                    await server.start()
            await server.start()
            await server.stop()
            return port, str(error.value)

        port, message = asyncio.run(scenario())
        assert f"127.0.0.1 port {port}: the port is taken" in message
        assert f"ss -ltnp 'sport = :{port}'" in message

    def test_says_what_to_do_if_the_address_is_not_ours(self):
        with pytest.raises(ServerError, match=r"no interface of this machine has that address"):
            bind("192.0.2.1", 0)

    def test_starts_again_on_the_same_port(self, app, validator):
        async def scenario():
            server = await listening(app())
            assert (server.accepting, server.connections) == (True, 0)
            with pytest.raises(ServerError, match="already listens"):
                await server.start()
            await server.stop()
            assert not server.accepting
            await server.stop()
            await server.start()
            connection = await Connection.to(server.port)
            status, _ = await connection.ask(validator.headers())
            assert (server.accepting, server.connections) == (True, 1)
            await connection.close()
            await server.stop()
            return status

        assert asyncio.run(scenario()) == 200

    def test_leaves_signals_alone(self, app):
        async def scenario():
            before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
            server = await listening(app())
            during = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
            await server.stop()
            return before, during

        before, during = asyncio.run(scenario())
        assert before == during

    def test_small_replies_do_not_wait_for_acknowledgements(self):
        with bind("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
            connection, _ = listener.accept()
            with connection:
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    @pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no dual-stack IPv6 here")
    def test_two_colons_take_both_families(self, app):
        async def scenario():
            try:
                server = await listening(app(), AxonSettings(host="::", port=0))
            except ServerError as error:
                pytest.skip(str(error))
            statuses = []
            for host in ("127.0.0.1", "::1"):
                connection = await Connection.to(server.port, host)
                statuses.append((await connection.ask({}))[0])
                await connection.close()
            await server.stop()
            return statuses

        assert asyncio.run(scenario()) == [403, 403]


class TestStop:
    def test_requests_in_flight_are_answered(self, app, validator):
        async def scenario():
            gate = asyncio.Event()

            async def answer(_request):
                await gate.wait()
                return Prediction(0.5)

            application = app(answer)
            server = await listening(application)
            busy, idle = await Connection.to(server.port), await Connection.to(server.port)
            asked = asyncio.create_task(busy.ask(validator.headers()))
            await _until(lambda: application.in_flight == 1)
            stopping = asyncio.create_task(server.stop(PATIENCE_S))
            await idle.closed_by_server()
            with pytest.raises(OSError, match="Connect"):
                await Connection.to(server.port)
            assert not stopping.done()
            gate.set()
            reply = await asked
            await stopping
            await server.wait()
            await asyncio.gather(busy.close(), idle.close())
            return reply

        assert asyncio.run(scenario()) == (200, {"prediction": 0.5})

    def test_what_takes_longer_than_the_grace_is_told_so(self, app, validator):
        async def scenario():
            async def answer(_request):
                await asyncio.sleep(60)

            application = app(answer)
            server = await listening(application)
            connection = await Connection.to(server.port)
            asked = asyncio.create_task(connection.ask(validator.headers()))
            await _until(lambda: application.in_flight == 1)
            await server.stop(0.5)
            reply = await asked
            await connection.close()
            return reply

        assert asyncio.run(scenario()) == (503, {"message": "This miner is stopping."})


async def _until(condition) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def _upload(writer: asyncio.StreamWriter, size: int) -> None:
    piece = b"x" * 65_536
    for _ in range(size // len(piece)):
        writer.write(piece)
        await writer.drain()
