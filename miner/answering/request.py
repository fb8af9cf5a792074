"""A request for a prediction, whatever brought it, and its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from miner.answering.deadline import Deadline

# Answered instead of a probability where there is no image.
UNDECODABLE = -1.0


@dataclass(frozen=True, slots=True)
class Request:
    """A proved request for a prediction.

    Attributes:
        request_id: names the request in the logs.
        hotkey: who asks.
        uid: its place on the subnet, None if it is not registered.
        image_b64: the image as it came; may be empty or anything else.
        deadline: how long there is for what.
        receiver: our hotkey that was asked.
        priority: share of the largest stake that it has, in [0, 1]; the larger goes first where images wait.
    """

    request_id: str
    hotkey: str
    uid: int | None
    image_b64: str
    deadline: Deadline
    receiver: str = ""
    priority: float = 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer, and what it comes from.

    Attributes:
        probability: of roadwork, in [0, 1], or -1.0 if the image cannot be decoded.
        bundle: id of the bundle that was live for this request, empty if none was.
        generation: of that bundle in this process, 0 if none was.
    """

    probability: float
    bundle: str = ""
    generation: int = 0


Answer = Callable[[Request], Awaitable[Prediction]]
