"""The axon: answers `POST /ImageSynapse`; in which wire protocol, its authenticator says.

What a request has to pass, in this order, so that a stranger costs as little as possible: route, announced size,
access, signature, replay, rate, load. Only then is its body read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.types import Receive, Scope, Send

from miner.answering.deadline import Deadline, TimeBudget
from miner.answering.request import UNDECODABLE, Answer, Prediction, Request
from miner.axon.access import AccessPolicy, Caller
from miner.axon.authenticator import Authenticator
from miner.axon.legacy_protocol import SYNAPSE, decode_headers
from miner.axon.refusals import BadRequest, BodyTooLarge, InternalFailure, NotFound, Overloaded, Refusal, TooLate
from miner.axon.settings import RequestSettings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one request.

    Attributes:
        request_id: names the request in the logs.
        status: the HTTP status of the reply.
        seconds: from the request's headers to the reply.
        caller: who asked; None if that was not proved.
        prediction: what was answered, and by which bundle; None unless the status is 200.
    """

    request_id: str
    status: int
    seconds: float
    caller: Caller | None
    prediction: Prediction | None


class _Body(BaseModel):
    model_config = ConfigDict(strict=True)

    image: str


@dataclass(slots=True)
class _Call:
    """One request on its way; `caller` is set once the signature proved it."""

    request_id: str
    started: float
    caller: Caller | None = None
    prediction: Prediction | None = None
    buffered: int = 0


class AxonApp:
    """The ASGI application.

    Args:
        answer: gives the prediction for one request.
        authenticator: how callers prove who they are.
        access: who may ask.
        settings: limits.
        budget: how much of the time that a caller waits is for what.
        on_reply: called after every reply.
        now_ns: nanoseconds since 1970, to compare with the callers' clocks.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        authenticator: Authenticator,
        access: AccessPolicy,
        settings: RequestSettings | None = None,
        budget: TimeBudget | None = None,
        on_reply: Callable[[Reply], None] | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._answer = answer
        self._authenticator = authenticator
        self._access = access
        self._settings = settings or RequestSettings()
        self._budget = budget or TimeBudget(self._settings.deadline_s, self._settings.margin_s, 0.0)
        self._on_reply = on_reply
        self._now_ns = now_ns
        self._in_flight = 0
        self._buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        call = _Call(secrets.token_hex(8), time.monotonic())
        try:
            call.prediction = await self._predict(scope, receive, call)
            status, message = 200, "Success"
            content = json.dumps({"prediction": call.prediction.probability})
        except Refusal as refusal:
            status, message = refusal.status, str(refusal)
            content = json.dumps({"message": message})
        seconds = time.monotonic() - call.started
        headers = self._authenticator.reply_headers(status, message, seconds=seconds)
        if call.prediction is not None:
            headers += _origin_headers(call.prediction)
        await _reply(send, status, headers, content)
        _log_outcome(call, status, message, seconds)
        if self._on_reply is not None:
            self._on_reply(Reply(call.request_id, status, seconds, call.caller, call.prediction))

    async def _predict(self, scope: Scope, receive: Receive, call: _Call) -> Prediction:
        headers = decode_headers(scope["headers"])
        _check_route(scope)
        self._check_announced_size(headers)
        caller = self._access.check(self._authenticator.claimed_sender(headers))
        waits_s = self._authenticator.prove(headers, self._now_ns())
        call.caller = caller
        self._access.spend(caller, call.started)
        with self._place(call):
            return await self._read_and_ask(self._budget.deadline(call.started, waits_s), receive, call, caller)

    def _check_announced_size(self, headers: dict[str, str]) -> None:
        # The server has refused a length that is not a number before this; an absent one is measured while reading.
        if int(headers.get("content-length", "0")) > self._settings.max_body_bytes:
            raise self._too_large()

    @contextlib.contextmanager
    def _place(self, call: _Call) -> Iterator[None]:
        if self._in_flight >= self._settings.max_in_flight:
            raise Overloaded(f"This miner is answering {self._in_flight} requests, its limit; ask again later.")
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            self._buffered -= call.buffered

    async def _read_and_ask(self, deadline: Deadline, receive: Receive, call: _Call, caller: Caller) -> Prediction:
        try:
            async with asyncio.timeout(max(0.0, deadline.cut - time.monotonic())):
                image_b64 = await self._read_image(receive, call)
                asked = Request(call.request_id, caller.hotkey, caller.uid, image_b64, deadline, caller.priority)
                return await self._ask(asked)
        except TimeoutError:
            raise TooLate("The request was not read and answered in time.") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise Overloaded("This miner is stopping.") from None
            raise TooLate("The answer was cancelled.") from None

    async def _read_image(self, receive: Receive, call: _Call) -> str:
        body = bytearray()
        more = True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise BadRequest("The caller left before its request was complete.")
            chunk = event.get("body", b"")
            self._count(len(chunk), call)
            body += chunk
            more = event.get("more_body", False)
        try:
            return _Body.model_validate_json(body).image
        except ValidationError:
            raise BadRequest("The body is not a JSON object with a text field 'image'.") from None

    def _count(self, size: int, call: _Call) -> None:
        if call.buffered + size > self._settings.max_body_bytes:
            raise self._too_large()
        if self._buffered + size > self._settings.max_buffered_bytes:
            raise Overloaded("This miner holds as many images as it can; ask again later.")
        call.buffered += size
        self._buffered += size

    async def _ask(self, request: Request) -> Prediction:
        try:
            prediction: object = await self._answer(request)
        except TimeoutError:
            raise
        except Exception:
            # The edge of the process: one broken request must not end the others, and the caller is told nothing.
            log.exception("answer_failed", request_id=request.request_id)
            raise InternalFailure("Internal error.") from None
        if not isinstance(prediction, Prediction) or not _is_probability(prediction.probability):
            log.error("answer_is_no_prediction", request_id=request.request_id, got=repr(prediction)[:100])
            raise InternalFailure("Internal error.")
        return prediction

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body is larger than {self._settings.max_body_bytes} bytes.")


def _check_route(scope: Scope) -> None:
    name = scope["path"].removeprefix("/")
    if name != SYNAPSE:
        raise NotFound(name.split("/")[0], [SYNAPSE])
    if scope["method"] != "POST":
        raise NotFound(f"{scope['method']} {name}", [SYNAPSE])


def _is_probability(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and (0.0 <= value <= 1.0 or value == UNDECODABLE)


def _origin_headers(prediction: Prediction) -> list[tuple[bytes, bytes]]:
    """Headers of our own, which dendrites pass over."""
    return [
        (b"x-cascade-bundle", prediction.bundle.encode()),
        (b"x-cascade-generation", str(prediction.generation).encode()),
    ]


async def _reply(send: Send, status: int, headers: list[tuple[bytes, bytes]], content: str) -> None:
    body = content.encode()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


def _log_outcome(call: _Call, status: int, message: str, seconds: float) -> None:
    # What strangers do is told only on request: they must not be able to fill a disk.
    if call.caller is None:
        log.debug("stranger_refused", request_id=call.request_id, status=status, reason=message)
        return
    told = log.bind(request_id=call.request_id, uid=call.caller.uid, hotkey=call.caller.hotkey[:8])
    told = told.bind(status=status, ms=round(seconds * 1e3, 1))
    if call.prediction is not None:
        # The cascade tells more of an answered request, in a line of its own.
        found = call.prediction
        told.debug("answered", prediction=found.probability, bundle=found.bundle, generation=found.generation)
    else:
        told.warning("refused", reason=message)
