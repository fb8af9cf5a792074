"""Why a request gets no prediction.

Refusal
├── BadRequest        400  the headers or the body cannot be read
│   └── CallerLeft    400  nobody waits for the answer
├── Unauthenticated   401  not signed, not for us, not fresh, or seen before
├── Forbidden         403  the caller may not ask
├── NotFound          404  no such synapse
├── TooLate           408  the answer was not ready in time
├── BodyTooLarge      413  the body is over the limit
├── TooManyRequests   429  the caller asks faster than it may
├── InternalFailure   500  a defect on this side
└── Overloaded        503  this side is full or stopping
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

_LONGEST_NAME = 128


class Refusal(Exception):
    """A request that gets no prediction; `status` and the message are what the caller is told.

    Attributes:
        status: HTTP status.
        kind: a word under which it is counted.
        known: what the operator is told of it as well.
    """

    status: ClassVar[int] = 500
    kind: str = "failed"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.known: dict[str, object] = {}


class BadRequest(Refusal):
    """The headers or the body cannot be read."""

    status = 400
    kind = "unreadable"


class CallerLeft(BadRequest):
    """The caller closed its connection before it was answered; nobody reads this reply."""

    kind = "caller_left"


class Unauthenticated(Refusal):
    """The request is not signed, not for this axon, not fresh, or was seen before."""

    status = 401

    def __init__(self, why: str, kind: str = "not_proved") -> None:
        super().__init__(f"Not Verified with error: {why}")
        self.kind = kind


class Forbidden(Refusal):
    """The caller may not ask."""

    status = 403
    kind = "not_permitted"


class NotFound(Refusal):
    """No such synapse."""

    status = 404
    kind = "no_such_route"

    def __init__(self, name: str, available: Sequence[str]) -> None:
        super().__init__(f"Synapse name '{name[:_LONGEST_NAME]}' not found. Available synapses {list(available)}")


class TooLate(Refusal):
    """The answer was not ready in time."""

    status = 408
    kind = "late"


class BodyTooLarge(Refusal):
    """The body is over the limit."""

    status = 413
    kind = "too_large"


class TooManyRequests(Refusal):
    """The caller asks faster than it may."""

    status = 429
    kind = "too_fast"


class InternalFailure(Refusal):
    """A defect on this side; the message tells the caller nothing about it."""

    status = 500

    def __init__(self, **known: object) -> None:
        super().__init__("Internal error.")
        self.known |= known


class Overloaded(Refusal):
    """This side is full or stopping."""

    status = 503
    kind = "full"
