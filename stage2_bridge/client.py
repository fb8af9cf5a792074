"""What a Stage-2 server is to the bridge."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self, runtime_checkable

from stage1.errors import CascadeError


class Stage2Error(CascadeError):
    """Stage-2 could not answer this image."""


class ImageRefused(Stage2Error):
    """Stage-2 could not answer this image, and the image is to blame; of the server it says nothing."""


class NamedProbability(float):
    """A probability, and who gave it.

    Args:
        probability: in [0, 1].
        server: its name.
    """

    server: str

    def __new__(cls, probability: float, server: str) -> Self:
        """See the class."""
        made = super().__new__(cls, probability)
        made.server = server
        return made


@dataclass(frozen=True)
class ServerIdentity:
    """What decides the meaning of a score: a calibrator is for one of these.

    Attributes:
        kind: of the server, as in the settings.
        name: what the journal calls it.
        model: its name on the server.
        version: of the model, as the server tells it; empty if it does not.
        fingerprint: hash of what else decides its scores: how it is asked, and how its reply is read.
    """

    kind: str
    name: str
    model: str
    version: str = ""
    fingerprint: str = ""


class Stage2Client(Protocol):
    """One Stage-2 server, in this process or another."""

    @property
    def name(self) -> str:
        """What the journal calls it."""
        ...

    async def ask(self, content: bytes, timeout_s: float) -> float:
        """Probability of roadwork in an encoded image; a `NamedProbability` where one of several servers gives it.

        Args:
            content: the image as it arrived.
            timeout_s: time after which nobody waits for the answer any more.

        Raises:
            Stage2Error: no answer can be had.
        """
        ...

    async def close(self) -> None:
        """Free what the client holds."""
        ...


@dataclass(frozen=True)
class ServerStatus:
    """How one of several servers stands.

    Attributes:
        name: of it.
        state: `closed` where it is asked, `open` where it is left alone, `half_open` where it is tried; `full`.
        in_flight: requests under way.
    """

    name: str
    state: str
    in_flight: int


@runtime_checkable
class SeveralServers(Protocol):
    """A Stage-2 client that asks several servers and knows how each of them stands."""

    @property
    def servers(self) -> tuple[ServerStatus, ...]:
        """In order of preference."""
        ...


class Outcome(StrEnum):
    """What became of a hand-off."""

    ANSWERED = "answered"
    TIMEOUT = "timeout"
    BUSY = "busy"
    ERROR = "error"
    ABSENT = "absent"


@dataclass(frozen=True)
class Verdict:
    """Result of a hand-off.

    Attributes:
        outcome: what became of it.
        probability: Stage-2's probability of roadwork, None unless answered.
        latency_ms: time spent in the bridge.
        server: name of the server that answered; of the client if nobody did, empty if there is none.
    """

    outcome: Outcome
    probability: float | None
    latency_ms: float
    server: str
