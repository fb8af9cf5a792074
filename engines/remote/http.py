"""One request to another machine: bounded in time and size, and its failure as one error that says what may be done."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from engines.errors import RemoteError

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
# What a server answers that may answer the same request a moment later.
PASSING = frozenset({429, 502, 503})
# Of a kept connection that the server has closed meanwhile, which shows only once it is used again.
DONE_WITH = (httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError)
UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


@dataclass(frozen=True)
class Response:
    """What came back, with a status below 300.

    Attributes:
        content: the body.
        headers: by their name in lower case.
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


def client(
    *,
    connections: int,
    headers: Mapping[str, str] | None = None,
    authorities: ssl.SSLContext | None = None,
) -> httpx2.AsyncClient:
    """A client that keeps its connections and follows nobody elsewhere.

    Args:
        connections: open at a time.
        headers: of each request.
        authorities: who may vouch for a server; the public ones by default.
    """
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=60)
    # Compressed, a small reply could become a large one; and a proxy of the environment is not meant for it.
    own = {"accept-encoding": "identity", **(headers or {})}
    return httpx2.AsyncClient(
        limits=limits,
        headers=own,
        trust_env=False,
        timeout=httpx2.Timeout(None, connect=CONNECT_S),
        verify=True if authorities is None else authorities,
    )


async def ask(
    http: httpx2.AsyncClient,
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
        RemoteError: no reply in time, a reply that is too long, a status of 300 and above, or a client that is closed.
    """
    if http.is_closed:
        raise RemoteError(f"{url}: not sent, for its connections are closed", passing=True)
    steps: set[str] = set()

    async def trace(step: str, _: Mapping[str, Any]) -> None:
        steps.add(step)

    try:
        # Made here, for the client would take the address and its own headers apart for each request.
        own = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        extensions = {"trace": trace, "timeout": http.timeout.as_dict()}
        request = httpx2.Request(
            method, _parsed(url), headers=[*http.headers.raw, *own], content=content, extensions=extensions
        )
        async with asyncio.timeout(timeout_s):
            reply = await http.send(request, stream=True)
            try:
                body = await _body(url, reply, most_bytes)
            finally:
                await reply.aclose()
    except TimeoutError as error:
        raise RemoteError(f"{url}: no reply within {timeout_s:.2g} s", timed_out=True) from error
    except httpx2.HTTPError as error:
        stale = _stale(error, steps)
        passing = stale or isinstance(error, UNSENT)
        raise RemoteError(f"{url}: {_told(error)}", passing=passing, stale=stale) from error
    except httpx2.InvalidURL as error:
        raise RemoteError(f"{url}: no such address: {error}") from error
    if reply.status_code >= 300:
        told = _printable(body[:MOST_TOLD_BYTES], http.headers.get("authorization", ""))
        raise RemoteError(
            f"{url}: status {reply.status_code}{f': {told}' if told else ''}",
            status=reply.status_code,
            passing=reply.status_code in PASSING,
            retry_after_s=_seconds(reply.headers.get("retry-after", "")),
        )
    return Response(body, reply.headers)


@lru_cache(maxsize=256)
def _parsed(url: str) -> httpx2.URL:
    return httpx2.URL(url)


async def _body(url: str, reply: httpx2.Response, most_bytes: int) -> bytes:
    told = reply.headers.get("content-length", "")
    too_long = RemoteError(f"{url}: the reply is longer than {most_bytes} bytes")
    if told.isascii() and told.isdigit() and int(told[:20]) > most_bytes:
        raise too_long
    body = bytearray()
    async for chunk in reply.aiter_raw():
        body += chunk
        if len(body) > most_bytes:
            raise too_long
    return bytes(body)


def _stale(error: Exception, steps: AbstractSet[str]) -> bool:
    """Whether a kept connection broke before the head of a reply. An inference changes nothing: it may be sent again.

    Reference:
        RFC 9110, HTTP Semantics, section 9.2.2, Idempotent Methods.
    """
    opened, replied = "connection.connect_tcp.started", "http11.receive_response_headers.complete"
    return isinstance(error, DONE_WITH) and opened not in steps and replied not in steps


def _printable(body: bytes, authorization: str) -> str:
    """The beginning of a reply in one line, without the key if the server says that too."""
    text = body.decode(errors="replace")
    if key := authorization.rpartition(" ")[2]:
        text = text.replace(key, "***")
    line = "".join(character for character in " ".join(text.split()) if character.isprintable())
    return line[:TOLD_CHARACTERS]


def _told(error: Exception) -> str:
    """What a library says of a failure, which for some is nothing."""
    return f"{type(error).__name__}{f': {error}' if str(error) else ''}"


def _seconds(retry_after: str) -> float | None:
    """The seconds of a `Retry-After`; None if there are none, or a date."""
    try:
        seconds = float(retry_after)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
