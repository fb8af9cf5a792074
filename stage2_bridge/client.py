"""What a Stage-2 server is to the bridge."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self, runtime_checkable

from stage1.artifacts import sha256_json
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
    """Who answers, as far as the server tells. Scores of two servers with one fingerprint may be taken for each other.

    Attributes:
        kind: of the settings, such as `kserve`.
        name: what the journal calls it.
        model: its name as the server has it.
        version: of the model as the server reports it; empty if it reports none.
        fingerprint: SHA-256 of all that is known to move its scores: the model and its version, what is asked, how an
            image is sent, what is made of the reply, and the flags that the server tells. Neither its name nor its
            address is in it.
    """

    kind: str
    name: str
    model: str
    version: str
    fingerprint: str

    @classmethod
    def made(cls, kind: str, name: str, model: str, version: str, **moves: object) -> Self:
        """One whose fingerprint covers the model, its version and whatever else moves the scores, as plain values."""
        whole = {"kind": kind, "model": model, "version": version, **moves}
        return cls(kind, name, model, version, sha256_json(whole))


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


@runtime_checkable
class TwoOrders(Protocol):
    """A Stage-2 client whose question names the two answers, so that it can be put with either of them first.

    The order moves the probabilities of a language model. The gap between the two says how far.
    """

    async def ask_in_both_orders(self, content: bytes, timeout_s: float) -> tuple[float, float] | None:
        """Probability of roadwork by the question as it is asked, and by the same with the answers the other way round.

        Args:
            content: the image as it arrived.
            timeout_s: for both, which are asked at once.

        Returns:
            None if the question does not name the answers.

        Raises:
            Stage2Error: no answer can be had.
        """
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
