"""What the broken input is given to: the axon on loopback, and the decoder."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import zlib
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import structlog

from benchmarks.serving.callers import Caller, body_of, make_wallet
from benchmarks.serving.client import Connection
from engines.machine.tally import Tally
from miner.answering.request import Prediction, Request
from miner.answering.settings import EngineSettings
from miner.axon.access import AccessPolicy
from miner.axon.app import AxonApp
from miner.axon.routes import RouteTable
from miner.axon.server import AxonServer, tell_failure
from miner.axon.settings import AccessSettings, AxonSettings, RequestSettings
from miner.axon.wires import subnet72
from miner.chain.port import Neuron
from stage1.errors import ImageError
from stage1.image_file import ImageLimits
from stage1.preprocess import Geometry, PreprocessSettings, decode_base64, preprocess

# How long a reply is waited for that need not come: what was sent may be half a request.
REPLY_S, STOP_S, ALIVE_S = 0.05, 30.0, 60.0
ALIVE_EVERY = 50
BROKEN_STATUS = (b"HTTP/1.1 500", b"HTTP/1.1 501", b"HTTP/1.1 502")


class Failed(Exception):
    """What is tested did what it must not."""


class Decoder:
    """From the text of a request to the pixels an engine sees, with the limits of a miner and any geometry."""

    def __init__(self) -> None:
        limits = EngineSettings()
        self._settings = [PreprocessSettings(geometry=geometry) for geometry in get_args(Geometry)]
        self._served = ImageLimits(limits.max_pixels, limits.formats)

    def try_one(self, text: str) -> str:
        """Returns how it ended; raises `Failed` or anything else where that is a defect."""
        # A text that is tried again is tried with the same one.
        settings = self._settings[zlib.crc32(text.encode(errors="surrogatepass")) % len(self._settings)]
        with structlog.testing.capture_logs() as logs:
            try:
                pixels = preprocess(decode_base64(text, settings), settings, self._served)
            except ImageError:
                pixels = None
        if any(entry["log_level"] in {"error", "critical"} for entry in logs):
            raise Failed(f"the decoder told of an error that nobody expected: {logs[0].get('event')}")
        if pixels is None:
            return "no image"
        if pixels.shape != (3, *settings.shape) or pixels.dtype != np.uint8 or not pixels.flags.c_contiguous:
            raise Failed(f"pixels of shape {pixels.shape} and type {pixels.dtype}")
        return "decoded"

    def close(self) -> None:
        """Nothing to let go of."""


class Axon:
    """The axon with its server, which answers every image alike; its event loop runs in a thread."""

    def __init__(self, home: Any) -> None:
        address = make_wallet(home, "miner").hotkey.ss58_address
        self.caller = Caller.new(address)
        self._failures: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._cases = 0
        self._said = _Said(self._failures)
        logging.getLogger().addHandler(self._said)
        rules = AccessSettings(requests_per_s=1e6, burst=10**6)
        self._app = AxonApp(
            _answer,
            routes=RouteTable(subnet72.routes(address)),
            access=AccessPolicy(rules, {self.caller.hotkey: Neuron(uid=1, validator_permit=True)}),
            settings=RequestSettings(deadline_s=1.0),
            tally=Tally(),
        )
        self._server = AxonServer(
            self._app, AxonSettings(host="127.0.0.1", port=0, first_request_s=1.0, keep_alive_s=1)
        )
        self._thread = threading.Thread(target=self._loop.run_forever, name="axon", daemon=True)
        self._thread.start()
        self._do(self._start())

    def try_one(self, pieces: Sequence[bytes]) -> str:
        """Returns the status that it was answered with; raises `Failed` where that is a defect."""
        reply = self._do(self._send(pieces))
        self._cases += 1
        if self._cases % ALIVE_EVERY == 0:
            self._check_alive()
        if self._failures:
            told = "; ".join(self._failures)
            self._failures.clear()
            raise Failed(told)
        if reply.startswith(BROKEN_STATUS):
            raise Failed(f"answered with {reply[:60]!r}")
        return reply[9:12].decode("latin-1") if reply else "no reply"

    def close(self) -> None:
        """Stop it."""
        self._do(self._server.stop(1.0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)
        logging.getLogger().removeHandler(self._said)

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(ALIVE_S)

    async def _start(self) -> None:
        self._loop.set_exception_handler(self._note)
        await self._server.start()

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._failures.append(f"outside any request: {context.get('message')}: {context.get('exception')!r}")
        tell_failure(Tally(), loop, context)

    async def _send(self, pieces: Sequence[bytes]) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        reply = b""
        with contextlib.suppress(OSError, TimeoutError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            async with asyncio.timeout(REPLY_S):
                reply = await reader.read(4096)
        writer.close()
        return reply

    def _check_alive(self) -> None:
        async def ask() -> int:
            async with Connection(self._server.port, ALIVE_S) as connection:
                return (await connection.ask(self.caller.request(body_of("aGVsbG8=")))).status

        status = self._do(ask())
        if status != 200:
            raise Failed(f"a valid request afterwards was answered with status {status}")


async def _answer(request: Request) -> Prediction:
    return Prediction(0.9)


class _Said(logging.Handler):
    """Errors in the log: what a server does with an exception that nobody caught."""

    def __init__(self, failures: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._failures = failures

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._failures.append(f"the log has an error: {record.getMessage()} {error!r}")
