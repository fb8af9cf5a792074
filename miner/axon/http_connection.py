"""One connection of an axon: which requests are read from it, and for how long it may stay."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from engines.machine.tally import Tally
from miner.axon.connections import CALLER_LEFT, CALLER_PROVED, ConnectionTable, network_of
from miner.axon.settings import AxonSettings

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

CONNECTION_LOG = "uvicorn.error.connection"
# A refused connection stays for its caller to read why; so many at a time.
LINGER_S, LINGERING = 1.0, 32
# A caller that does not read its reply.
UNREAD_S = 10.0
# Header lines of one request: a dendrite sends about twenty, a proxy adds a few.
MOST_LINES = 100
LONG_HEADER = f"The request's header is longer than this miner reads, or has more than {MOST_LINES} lines."
# Requests of one connection that wait for the reply to an earlier one; a dendrite sends none ahead of its replies.
MOST_AHEAD = 4
AHEAD = f"This miner reads at most {MOST_AHEAD} requests ahead of its replies; wait for them, or use more connections."
CHUNKED = "This miner reads no chunked bodies; send a content-length."
UPGRADE = "This miner speaks HTTP/1.1 alone; send no upgrade."
NOT_HTTP = "This is no HTTP that this miner reads."
# What a caller is told that waits for it before it sends its body: no reply yet.
CONTINUE = b"HTTP/1.1 100 "
FULL = "This miner holds as many connections as it can; ask again later."


def told(message: str) -> bytes:
    """The body of a refusal, which a dendrite reads as JSON whatever the status."""
    return json.dumps({"message": message}).encode()


class Unread(NamedTuple):
    """Why a request is not read: what its sender is told, and the word under which it is counted."""

    message: str
    status: HTTPStatus
    kind: str


_LONG_HEADER = Unread(LONG_HEADER, HTTPStatus.BAD_REQUEST, "long_header")
_CHUNKED = Unread(CHUNKED, HTTPStatus.LENGTH_REQUIRED, "chunked")
_AHEAD = Unread(AHEAD, HTTPStatus.BAD_REQUEST, "pipelined")
_UPGRADE = Unread(UPGRADE, HTTPStatus.BAD_REQUEST, "upgrade")
_NOT_HTTP = Unread(NOT_HTTP, HTTPStatus.BAD_REQUEST, "not_http")


class WholeReply:
    """The transport of one request, on which the head of the reply waits for the body: one system call, one packet.

    Args:
        transport: of the connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """See `asyncio.WriteTransport.write`."""
        if self._head is None:
            if not data.startswith(CONTINUE):
                self._head = data
                return
        elif self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)

    def flush(self) -> None:
        """Write the head of a reply that has no body."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """See `asyncio.BaseTransport.close`."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport.is_closing`."""
        return self._transport.is_closing()


class HttpConnection(HttpToolsProtocol):
    """One connection: has a place in the table, and closes if its next request header is not complete in time.

    What is cheap to send and dear to read is refused before it is read, whoever sends it: long headers, headers of many
    lines, and bodies in chunks, of which each line and each piece is an event of its own; and requests that are sent
    ahead of their replies, of which the base class reads thousands for each one that it answers. The parser leaves out
    the body of a request for an upgrade, and would read the next request in it.

    The base class starts its timer after the first reply and stops it at the first byte, so connections that send
    nothing, or a byte an hour, would stay for ever. It keeps a header of any length. Its refusals are text, which a
    dendrite cannot read. The log here is one where warnings about strangers are demoted.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        table: ConnectionTable,
        tally: Tally,
        lingering: set[HttpConnection],
        settings: AxonSettings,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.address = ""
        self._table = table
        self._tally = tally
        self._lingering = lingering
        self._settings = settings
        self._refused = False
        self._unread: asyncio.TimerHandle | None = None
        # Bytes since the parser last had a whole header or a piece of a body; and of the header that it reads.
        self._unparsed = self._header_bytes = self._header_lines = 0
        self._stopped_for: Unread | None = None
        # Not always the base class's `cycle`, which is that of the latest request.
        self._running: RequestResponseCycle | None = None
        self._reply: WholeReply | None = None
        self._leave: Callable[[], object] | None = None
        told_us = {CALLER_PROVED: partial(table.prove, self), CALLER_LEFT: self._on_close}
        self.app_state = {**self.app_state, **told_us}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        self.logger = logging.getLogger(CONNECTION_LOG)
        super().connection_made(transport)
        self.address = network_of(self.client[0] if self.client else "")
        if self._table.admit(self):
            self._set_timer(self._settings.first_request_s, self._end_silence)
            return
        self._refused = True
        self._tally.add("connections", FULL, address=self.address)
        if len(self._lingering) >= LINGERING:
            transport.abort()
            return
        self._lingering.add(self)
        self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, FULL)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._table.leave(self)
        if self._unread is not None:
            self._unread.cancel()
        self._lingering.discard(self)
        self._unset_keepalive_if_required()
        self._drop_replies()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._refused:
            return
        self._unparsed += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse_unread(self._stopped_for or _NOT_HTTP)
        if self._unparsed > self._settings.max_header_bytes and not self._refused:
            self._refuse_unread(_LONG_HEADER)

    def on_message_begin(self) -> None:
        """Of the parser: a request begins."""
        self._header_bytes = self._header_lines = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Of the parser: a piece of the path."""
        self._header_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the parser: one line of the header."""
        self._header_lines += 1
        self._header_bytes += len(name) + len(value)
        if self._header_lines > MOST_LINES or self._header_bytes > self._settings.max_header_bytes:
            self._stop_parser(_LONG_HEADER)
        if name.lower() == b"transfer-encoding":
            self._stop_parser(_CHUNKED)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Of the parser: the request's header is whole."""
        if len(self.pipeline) >= MOST_AHEAD:
            self._stop_parser(_AHEAD)
        if self.parser.should_upgrade():
            self._stop_parser(_UPGRADE)
        self._unparsed = 0
        self._unset_keepalive_if_required()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Of the parser: a piece of the body."""
        self._unparsed = 0
        super().on_body(body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        self._reply = WholeReply(self.transport)
        cycle.transport = self._reply  # type: ignore[assignment]
        self._table.work(self)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """The reply is written."""
        if self._reply is not None:
            self._reply.flush()
        # Before the base class, which may begin with the next request at once.
        self._table.wait(self)
        super().on_response_complete()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`; a caller that does not read is not waited for without end."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def evict(self) -> None:
        """See `Connection.evict`."""
        self._tally.add("evicted", "connections without a request were closed for new ones", address=self.address)
        self.transport.abort()

    def _stop_parser(self, why: Unread) -> NoReturn:
        self._stopped_for = why
        # Out of the parser, which is in the middle of a request.
        raise httptools.HttpParserError(why.message)

    def _refuse_unread(self, why: Unread) -> None:
        self._tally.add(why.kind, why.message, address=self.address)
        self._refuse(why.status, why.message)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Reply before, or without, a request that can be read; and close once the caller may have read it."""
        self._refused = True
        self._drop_replies()
        body = told(message)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        # Not the base class's handler, which waits until its caller has read what was written.
        self._set_timer(LINGER_S, self.transport.abort)

    def _on_close(self, tell: Callable[[], object] | None) -> None:
        self._leave = tell
        if tell is not None and self._running is not None and self._running.disconnected:
            tell()

    def _end_silence(self) -> None:
        """Close, unless a permitted caller has asked from this address: it may be slow to send many requests."""
        longer_s = self._settings.keep_alive_s - self._settings.first_request_s
        if longer_s > 0 and self._table.is_proved(self.address):
            self._set_timer(longer_s, self.timeout_keep_alive_handler)
        else:
            self.timeout_keep_alive_handler()

    def _drop_replies(self) -> None:
        """Replies that are still to come would come after the end: nobody need work for them."""
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        for cycle in (self._running, *waiting):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        if self._leave is not None:
            self._leave()

    def _set_timer(self, seconds: float, end: Callable[[], None]) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, end)
