"""The axon: answers what its table of routes says.

What a request has to pass, in this order, so that a stranger costs as little as possible: route, announced size,
access, signature, freshness, replay, rate, load. Only then is its body read. Where the signature covers the body, it is
read before the signature is proved, in a place and on an account of the address that sends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog
from starlette.types import Receive, Scope, Send

from engines.machine.tally import Tally
from miner.answering.deadline import Deadline, TimeBudget
from miner.answering.request import UNDECODABLE, Answer, Prediction, Request
from miner.axon.access import AccessPolicy, Caller
from miner.axon.authenticator import Claim, Head, decode_headers
from miner.axon.connections import CALLER_LEFT, CALLER_PROVED, network_of
from miner.axon.places import Capacity, Place
from miner.axon.refusals import BodyTooLarge, CallerLeft, InternalFailure, Overloaded, Refusal, TooLate
from miner.axon.routes import Route, RouteTable
from miner.axon.settings import RequestSettings

log = structlog.get_logger(__name__)

LEFT = "The caller left before it was answered."
SLOW = "This miner gave the place of this slow request to another caller."


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one request.

    Attributes:
        request_id: names the request in the logs.
        status: the HTTP status of the reply.
        seconds: from the request's headers to the reply.
        caller: who asked; None if that was not proved.
        prediction: what was answered, and by which bundle; None unless the status is 200.
        auth_mode: by what `caller` was proved; empty if it was not.
    """

    request_id: str
    status: int
    seconds: float
    caller: Caller | None
    prediction: Prediction | None
    auth_mode: str = ""


@dataclass(slots=True)
class _Call:
    """One request on its way.

    Attributes:
        scope: its head, as ASGI gives it.
        started_ns: when it came, nanoseconds since 1970.
        route: its row of the table, once it is found.
        claimed: who it claims to come from, if that one may ask.
        claim: what its head says.
        caller: set once the signature proved the claim.
        given_up: why nobody goes on with it, if that is so.
        buffered: bytes of its body.
        holder: on whose account it is: a hotkey or, while nothing is proved, an address.
        unproved: whether that is an address.
    """

    request_id: str
    started: float
    started_ns: int
    scope: Scope
    route: Route
    claimed: Caller | None = None
    claim: Claim | None = None
    caller: Caller | None = None
    given_up: Refusal | None = None
    prediction: Prediction | None = None
    buffered: int = 0
    holder: str = ""
    unproved: bool = False


class AxonApp:
    """The ASGI application.

    Args:
        answer: gives the prediction for one request.
        routes: where, in which form and by which proof callers ask.
        access: who may ask.
        settings: limits.
        budget: how much of the time that a caller waits is for what.
        on_reply: called after every reply; what it raises is told once a minute.
        tally: counts refusals, and tells of them; one of its own without it.
        receiver: ss58 address of the hotkey that it answers for, for the records.
        capacity: what its requests share with those of other axons of this process.
        now_ns: nanoseconds since 1970, to compare with the callers' clocks.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        routes: RouteTable,
        access: AccessPolicy,
        settings: RequestSettings | None = None,
        budget: TimeBudget | None = None,
        on_reply: Callable[[Reply], None] | None = None,
        tally: Tally | None = None,
        receiver: str = "",
        capacity: Capacity | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._answer = answer
        self._routes = routes
        self._access = access
        self._settings = settings or RequestSettings()
        self._budget = budget or TimeBudget(self._settings.deadline_s, self._settings.margin_s, 0.0)
        self._on_reply = on_reply or (lambda _reply: None)
        self._now_ns = now_ns
        self._tally = tally or Tally()
        self._untold = Tally("observer_failed")
        self._receiver = receiver
        self._capacity = capacity or Capacity(self._settings.max_in_flight)
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """How many requests are being read or answered."""
        return self._in_flight

    @property
    def deadline_s(self) -> float:
        """An accepted request is answered so long after it arrived, or earlier."""
        return self._budget.deadline_s

    def limit(self, settings: RequestSettings, budget: TimeBudget) -> None:
        """Answer within other limits from the next request on."""
        self._settings, self._budget = settings, budget
        self._capacity.places.limit(settings.max_in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        call = _Call(secrets.token_hex(8), time.monotonic(), self._now_ns(), scope, self._routes.others)
        try:
            call.prediction = await self._predict(receive, call)
            status, message = 200, "Success"
            content = call.route.codec.answer(call.prediction.probability)
        except Exception as error:  # noqa: BLE001  a defect is told by the tally, with its traceback
            refusal = _refusal(error, call.request_id)
            status, message = refusal.status, str(refusal)
            content = call.route.codec.refusal(message)
            self._count_refusal(refusal, call)
        seconds = time.monotonic() - call.started
        headers = call.route.authenticator.reply_headers(status, message, seconds=seconds)
        if call.prediction is not None:
            headers += _origin_headers(call.prediction)
        await _reply(send, status, headers, content)
        _log_outcome(call, status, message, seconds)
        mode = call.claim.auth_mode if call.caller is not None and call.claim is not None else ""
        try:
            self._on_reply(Reply(call.request_id, status, seconds, call.caller, call.prediction, mode))
        except Exception as error:  # noqa: BLE001  whoever counts costs no caller its connection
            self._untold.add("on_reply", repr(error), error=error, request_id=call.request_id)

    async def _predict(self, receive: Receive, call: _Call) -> Prediction:
        scope = call.scope
        headers = decode_headers(scope["headers"])
        call.route = route = self._routes.find(scope["method"], scope["path"], headers)
        self._check_announced_size(headers)
        call.claimed = caller = self._access.check(route.authenticator.claimed_sender(headers))
        call.claim = claim = route.authenticator.read(Head(scope["method"], _target(scope), headers), call.started_ns)
        if route.authenticator.signs_body:
            # Whoever claims a validator's hotkey must not take what is the validator's.
            call.holder, call.unproved = f"not proved, {_address(scope)}", True
        else:
            self._prove(call, caller, claim, "")
            call.holder = caller.hotkey
        waits_s = route.waits_s if claim.waits_s is None else min(claim.waits_s, route.waits_s)
        return await self._read_and_ask(self._budget.deadline(call.started, waits_s), receive, call, caller, claim)

    def _prove(self, call: _Call, caller: Caller, claim: Claim, body_sha256: str) -> None:
        call.route.authenticator.prove(claim, body_sha256, call.started_ns)
        call.caller = caller
        if (proved := call.scope.get("state", {}).get(CALLER_PROVED)) is not None:
            proved(caller.hotkey)
        self._access.spend(caller, time.monotonic())

    def _count_refusal(self, refusal: Refusal, call: _Call) -> None:
        known: dict[str, object] = {"status": refusal.status}
        if call.claimed is not None:
            known |= {"hotkey": call.claimed.hotkey, "proved": call.caller is not None}
        error = refusal.__cause__ if isinstance(refusal, InternalFailure) else None
        self._tally.add(refusal.kind, str(refusal), error=error, **known | refusal.known)

    def _check_announced_size(self, headers: dict[str, str]) -> None:
        # The server has refused a length that is not a number before this; an absent one is measured while reading.
        # Without its zeros in front, of which `int` reads no more than some thousands.
        if int(headers.get("content-length", "").lstrip("0") or "0") > self._settings.max_body_bytes:
            raise self._too_large()

    @contextlib.contextmanager
    def _place(self, call: _Call, give_up: Callable[[Refusal], None]) -> Iterator[Place]:
        priority = 0.0 if call.caller is None else call.caller.priority
        place = Place(call.holder, priority, lambda: give_up(Overloaded(SLOW)), proved=not call.unproved)
        if not self._capacity.places.take(place):
            raise self._full()
        self._in_flight += 1
        try:
            yield place
        finally:
            self._in_flight -= 1
            self._capacity.places.free(place)
            self._hold(call, -call.buffered)

    async def _read_and_ask(
        self, deadline: Deadline, receive: Receive, call: _Call, caller: Caller, claim: Claim
    ) -> Prediction:
        try:
            async with asyncio.timeout(max(0.0, deadline.cut - time.monotonic())) as limit:

                def give_up(why: Refusal) -> None:
                    # One that is over its time already is about to end by itself.
                    with contextlib.suppress(RuntimeError):
                        limit.reschedule(asyncio.get_running_loop().time())
                        call.given_up = why

                with self._place(call, give_up) as place:
                    body, digest = await self._read_body(receive, call)
                    place.reading = False
                    if call.unproved:
                        self._prove(call, caller, claim, digest)
                        self._hand_over(place, call, caller)
                    image_b64 = call.route.codec.image_b64(body)
                    asked = Request(
                        call.request_id,
                        caller.hotkey,
                        caller.uid,
                        image_b64,
                        deadline,
                        self._receiver,
                        caller.priority,
                    )
                    with _told_of_a_close(call.scope, lambda: give_up(CallerLeft(LEFT))):
                        return await self._ask(asked)
        except TimeoutError:
            raise call.given_up or TooLate("The request was not read and answered in time.") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise Overloaded("This miner is stopping.") from None
            raise TooLate("The answer was cancelled.") from None

    def _hand_over(self, place: Place, call: _Call, caller: Caller) -> None:
        """Put a request that is proved with its body on the account of its caller."""
        self._hold(call, -call.buffered)
        call.holder, call.unproved = caller.hotkey, False
        self._hold(call, call.buffered)
        if not self._capacity.places.hand_over(place, caller.hotkey, caller.priority):
            raise self._full()

    async def _read_body(self, receive: Receive, call: _Call) -> tuple[bytearray, str]:
        """The body and, if it is signed, its SHA-256."""
        body = bytearray()
        digest = hashlib.sha256() if call.route.authenticator.signs_body else None
        more = True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise CallerLeft(LEFT)
            chunk = event.get("body", b"")
            self._count(len(chunk), call)
            body += chunk
            if digest is not None:
                digest.update(chunk)
            more = event.get("more_body", False)
        return body, "" if digest is None else digest.hexdigest()

    def _count(self, size: int, call: _Call) -> None:
        if call.buffered + size > self._settings.max_body_bytes:
            raise self._too_large()
        most, held = self._settings.max_buffered_bytes, self._capacity.buffered
        full = held.total + size > most
        if call.unproved:
            # Strangers have half, and one address a half of that.
            most, held = most // 2, self._capacity.unproved
            full |= held.total + size > most
        if full or (call.buffered and held.of(call.holder) + size > most // 2):
            raise Overloaded("This miner holds as many images as it can; ask again later.")
        call.buffered += size
        self._hold(call, size)

    def _hold(self, call: _Call, size: int) -> None:
        self._capacity.buffered.add(call.holder, size)
        if call.unproved:
            self._capacity.unproved.add(call.holder, size)

    async def _ask(self, request: Request) -> Prediction:
        try:
            prediction: object = await self._answer(request)
        except TimeoutError:
            raise
        except Exception as error:
            # The edge of the process: one broken request must not end the others, and the caller is told nothing.
            log.debug("answer_failed", request_id=request.request_id, exc_info=error)
            raise InternalFailure(request_id=request.request_id) from error
        if not isinstance(prediction, Prediction) or not _is_probability(prediction.probability):
            got = repr(prediction)[:100]
            log.debug("answer_is_no_prediction", request_id=request.request_id, got=got)
            raise InternalFailure(request_id=request.request_id, is_no_prediction=got)
        return prediction

    def _full(self) -> Overloaded:
        return Overloaded(f"This miner is answering {len(self._capacity.places)} requests, its limit; ask again later.")

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body is larger than {self._settings.max_body_bytes} bytes.")


def _refusal(error: Exception, request_id: str) -> Refusal:
    """What a caller is told; of a defect, nothing."""
    if isinstance(error, Refusal):
        return error
    log.debug("request_failed", request_id=request_id, exc_info=error)
    failure = InternalFailure(request_id=request_id)
    failure.__cause__ = error
    return failure


@contextlib.contextmanager
def _told_of_a_close(scope: Scope, tell: Callable[[], None]) -> Iterator[None]:
    """Be told if the caller closes its connection, where the server can say so."""
    on_close = scope.get("state", {}).get(CALLER_LEFT)
    if on_close is None:
        yield
        return
    on_close(tell)
    try:
        yield
    finally:
        on_close(None)


def _target(scope: Scope) -> str:
    """Path and query as they were received."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return (raw + b"?" + query if query else raw).decode("latin-1")


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return network_of(client[0]) if client else ""


def _is_probability(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and (0.0 <= value <= 1.0 or value == UNDECODABLE)


def _origin_headers(prediction: Prediction) -> list[tuple[bytes, bytes]]:
    """Headers of our own, which dendrites pass over."""
    return [
        (b"x-cascade-bundle", prediction.bundle.encode()),
        (b"x-cascade-generation", str(prediction.generation).encode()),
    ]


async def _reply(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


def _log_outcome(call: _Call, status: int, message: str, seconds: float) -> None:
    # Refusals are told by the tally, once a minute; each by itself only on request: nobody must be able to fill a disk.
    if call.caller is None:
        log.debug("stranger_refused", request_id=call.request_id, status=status, reason=message)
        return
    known: dict[str, object] = {
        "request_id": call.request_id,
        "uid": call.caller.uid,
        "hotkey": call.caller.hotkey[:8],
        "status": status,
        "auth_mode": None if call.claim is None else call.claim.auth_mode,
        "ms": round(seconds * 1e3, 1),
    }
    if call.prediction is None:
        log.debug("caller_refused", reason=message, **known)
        return
    # The cascade tells more of an answered request, in a line of its own.
    found = call.prediction
    log.debug("answered", prediction=found.probability, bundle=found.bundle, generation=found.generation, **known)
