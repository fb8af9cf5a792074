"""One request to another machine: bounded in time and size, and its failure as one error that says what may be done.

It stands on aiohttp, which parses replies in C. httpx2 parses them in Python below three layers of its own, and takes
two to three times as much CPU time for a request.
"""

from __future__ import annotations

import asyncio
import io
import math
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import TypeVar

import aiohttp
from aiohttp.connector import Connection
from pydantic import BaseModel, ValidationError
from yarl import URL

from engines.errors import RemoteError
from engines.remote.tls import tls_fault

Model = TypeVar("Model", bound=BaseModel)
Made = TypeVar("Made")

# A millisecond of JSON.
JSON_AT_ONCE_BYTES = 2**16
# Nothing that a server says of one image is longer.
MOST_BYTES = 16 * 2**20
# More than is told, so that a key is not cut where it is looked for.
MOST_TOLD_BYTES, TOLD_CHARACTERS = 4096, 200
# For an address that answers nothing, so that there is time left for another server.
CONNECT_S = 1.5
# For so long a connection is kept that is not used.
KEPT_S = 60.0
# A longer body goes out in pieces, between which the event loop answers others.
PIECE_BYTES = 2**20
# What a server answers that may answer the same request a moment later.
PASSING = frozenset({429, 502, 503})
# Of a kept connection that the server has closed meanwhile, which shows only once it is used again.
DONE_WITH = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
UNSENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


@dataclass(frozen=True)
class Response:
    """What came back, with a status below 300.

    Attributes:
        content: the body.
        headers: by their name, in whatever case.
    """

    content: bytes
    headers: Mapping[str, str]

    def read(self, model: type[Model], told: str) -> Model:
        """The JSON of the body.

        Args:
            model: what it is.
            told: where it is from, and what it should have been, for the error.

        Raises:
            RemoteError: it is something else.
        """
        try:
            return model.model_validate_json(self.content)
        except ValidationError as error:
            raise RemoteError(f"{told}: {error.errors(include_url=False)[0]['msg']}") from error


async def made(make: Callable[[], Made], size: int, at_once: int) -> Made:
    """What `make` makes: there and then of little, and of much in a thread, while the event loop answers others.

    Args:
        make: blocks while it works.
        size: bytes that it works on.
        at_once: most bytes for which a thread is not worth its time.
    """
    return make() if size <= at_once else await asyncio.to_thread(make)


class _Request(aiohttp.ClientRequest):
    """One that goes only into a connection in which nothing waits to be read.

    What a server says without being asked would be taken for the reply to the request that comes next there, and each
    reply after that for the one to the request behind it.
    """

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        if conn.protocol is not None and conn.protocol.should_close:
            raise aiohttp.ServerDisconnectedError("the server said something without being asked")
        return await super().send(conn)


class Client:
    """Keeps its connections and follows nobody elsewhere; for the event loop of its first request.

    Args:
        connections: open at a time.
        headers: of each request.
        authorities: who may vouch for a server; the public ones by default.
    """

    def __init__(
        self,
        *,
        connections: int,
        headers: Mapping[str, str] | None = None,
        authorities: ssl.SSLContext | None = None,
    ) -> None:
        self._connections = connections
        # Compressed, a small reply could become a large one.
        self._headers = {"accept": "*/*", "accept-encoding": "identity", **(headers or {})}
        self._authorities = authorities
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._closed

    @property
    def authorization(self) -> str:
        """The header that says who asks; empty without one."""
        return self._headers.get("authorization", "")

    @property
    def session(self) -> aiohttp.ClientSession:
        """What sends the requests; opened at the first of them, for it belongs to an event loop."""
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_create_start.append(_opens)
            connector = aiohttp.TCPConnector(
                limit=self._connections,
                keepalive_timeout=KEPT_S,
                ssl=True if self._authorities is None else self._authorities,
            )
            # A proxy of the environment is not meant for it.
            self._session = aiohttp.ClientSession(
                connector=connector,
                request_class=_Request,
                headers=self._headers,
                skip_auto_headers=("user-agent",),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_S),
                trace_configs=[trace],
            )
        return self._session

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        if self._session is not None:
            await self._session.close()


@dataclass
class _Way:
    """How far a request came.

    Attributes:
        opened: whether a connection was opened for it.
        replied: whether the head of a reply is there.
    """

    opened: bool = False
    replied: bool = False


async def _opens(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceConnectionCreateStartParams
) -> None:
    context.trace_request_ctx.opened = True


async def ask(
    http: Client,
    method: str,
    url: str,
    *,
    timeout_s: float,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    most_bytes: int = MOST_BYTES,
) -> Response:
    """Send one request and read the whole reply.

    Args:
        http: the client.
        method: GET or POST.
        url: where to.
        timeout_s: for everything together; a server that sends a byte a second does not last longer.
        content: the body.
        headers: beside those of the client.
        most_bytes: of the body of the reply.

    Raises:
        RemoteError: no reply in time, a reply that is too long, a status of 300 and above, a certificate that is not
            accepted, or a client that is closed.
    """
    if http.is_closed:
        raise RemoteError(f"{url}: not sent, for its connections are closed", passing=True)
    data = io.BytesIO(content) if content is not None and len(content) > PIECE_BYTES else content
    way = _Way()
    try:
        async with asyncio.timeout(timeout_s):
            reply = await http.session.request(
                method, _parsed(url), data=data, headers=headers, allow_redirects=False, trace_request_ctx=way
            )
            way.replied = True
            try:
                body = await _body(url, reply, most_bytes)
            finally:
                # A connection whose reply was read to its end is back with the others by then.
                reply.close()
    except aiohttp.InvalidURL as error:
        raise RemoteError(f"{url}: no such address: {error}") from error
    except aiohttp.ClientError as error:
        stale = isinstance(error, DONE_WITH) and not (way.opened or way.replied)
        if (fault := tls_fault(error)) is not None and isinstance(error, UNSENT):
            raise RemoteError(f"{url}: {fault}", lasting=True) from error
        passing = stale or isinstance(error, UNSENT)
        raise RemoteError(f"{url}: {_told(error)}", passing=passing, stale=stale) from error
    except TimeoutError as error:
        raise RemoteError(f"{url}: no reply within {timeout_s:.2g} s", timed_out=True) from error
    if reply.status >= 300:
        told = _printable(body[:MOST_TOLD_BYTES], http.authorization)
        raise RemoteError(
            f"{url}: status {reply.status}{f': {told}' if told else ''}",
            status=reply.status,
            passing=reply.status in PASSING,
            retry_after_s=_seconds(reply.headers.get("retry-after", "")),
        )
    return Response(body, reply.headers)


@lru_cache(maxsize=256)
def _parsed(url: str) -> URL:
    try:
        return URL(url)
    except ValueError as error:
        raise aiohttp.InvalidURL(url, str(error)) from error


async def _body(url: str, reply: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    told = reply.headers.get("content-length", "")
    too_long = f"{url}: the reply is longer than {most_bytes} bytes"
    if told.isascii() and told.isdigit() and int(told[:20]) > most_bytes:
        raise RemoteError(too_long)
    pieces, size = [], 0
    while piece := await reply.content.readany():
        pieces.append(piece)
        size += len(piece)
        if size > most_bytes:
            raise RemoteError(too_long)
    return b"".join(pieces)


def _printable(body: bytes, authorization: str) -> str:
    """The beginning of a reply in one line, without the key if the server says that too."""
    text = body.decode(errors="replace")
    if key := authorization.rpartition(" ")[2]:
        text = text.replace(key, "***")
    return _line(text)


def _line(text: str) -> str:
    line = "".join(character for character in " ".join(text.split()) if character.isprintable())
    return line[:TOLD_CHARACTERS]


def _told(error: Exception) -> str:
    """What a library says of a failure, which for some is nothing."""
    said = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
    return f"{type(error).__name__}{f': {_line(said)}' if said else ''}"


def _seconds(retry_after: str) -> float | None:
    """The seconds of a `Retry-After`; None if there are none, or a date."""
    try:
        seconds = float(retry_after)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
