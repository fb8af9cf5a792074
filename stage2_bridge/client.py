"""What a Stage-2 server is to the bridge."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self, runtime_checkable

from stage1.artifacts import sha256_json
from stage1.errors import CascadeError

# Statuses of HTTP that blame the request, which is an image that a caller chose.
REFUSED = frozenset({400, 413, 415, 422})


class Outcome(StrEnum):
    """What became of a hand-off; all but the first leave the answer to Stage-1.

    `busy` had no turn in time, `budget` would have cost more than there is, `absent` has no Stage-2.
    """

    ANSWERED = "answered"
    TIMEOUT = "timeout"
    BUSY = "busy"
    ERROR = "error"
    BUDGET = "budget"
    ABSENT = "absent"


class Stage2Error(CascadeError):
    """Stage-2 could not answer this image.

    Attributes:
        outcome: what becomes of the hand-off.
    """

    outcome = Outcome.ERROR


class ImageRefused(Stage2Error):
    """Stage-2 could not answer this image, and the image is to blame; of the server it says nothing."""


class TooSlow(Stage2Error):
    """A server gave no answer in the time that it had."""

    outcome = Outcome.TIMEOUT


class Congested(Stage2Error):
    """There is no time to send this image, because too much is sent already."""

    outcome = Outcome.BUSY


class OverBudget(Stage2Error):
    """What this image would cost is kept for others, or is not there."""

    outcome = Outcome.BUDGET


class Stage2Gone(Stage2Error):
    """The last server was taken away while this image waited for it."""

    outcome = Outcome.ABSENT


class MeteredProbability(float):
    """A probability, and the tokens that it took.

    Args:
        probability: in [0, 1].
        tokens: of the question and of the answer.
    """

    tokens: int

    def __new__(cls, probability: float, tokens: int) -> Self:
        """See the class."""
        made = super().__new__(cls, probability)
        made.tokens = tokens
        return made


def mean_of(both: tuple[float, float]) -> float:
    """The mean of two probabilities of one image, with the tokens of both where both have some."""
    first, second = both
    mean = (first + second) / 2
    if isinstance(first, MeteredProbability) and isinstance(second, MeteredProbability):
        return MeteredProbability(mean, first.tokens + second.tokens)
    return mean


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
        """Probability of roadwork in an encoded image.

        It is a `NamedProbability` where one of several servers gives it, and a `MeteredProbability` where the server
        says how many tokens it took.

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
        state: `closed` where it is asked, `open` where it is left alone, `half_open` where it is tried; `full`;
            `resting` where it asked for a pause; `down` where it did not answer a probe, and is asked last.
        in_flight: requests under way.
    """

    name: str
    state: str
    in_flight: int


@dataclass(frozen=True)
class BudgetStatus:
    """How a budget stands.

    Attributes:
        unit: `calls` or `money`.
        limit: of a period, in that unit.
        period_s: length of the period, in seconds.
        available: what could be spent at this moment.
        spent: all that was, since the budget's file began; what is set aside for calls under way is in it.
        share: of the hand-offs, that can be afforded at the present traffic, in [0, 1].
        least_gain: an image is handed on if the expected gain in accuracy is at least this.
    """

    unit: str
    limit: float
    period_s: float
    available: float
    spent: float
    share: float
    least_gain: float


@runtime_checkable
class SeveralServers(Protocol):
    """A Stage-2 client that asks several servers and knows how each of them stands."""

    @property
    def servers(self) -> tuple[ServerStatus, ...]:
        """In order of preference."""
        ...

    @property
    def budget(self) -> BudgetStatus | None:
        """How much may be spent; None without a budget."""
        ...

    @property
    def hedges(self) -> dict[str, int]:
        """How often a second server was asked (`begun`), and how often it was the first to answer (`won`)."""
        ...

    async def ask(self, content: bytes, timeout_s: float, *, probability: float | None = None) -> float:
        """See `Stage2Client.ask`.

        Args:
            content: the image as it arrived.
            timeout_s: time after which nobody waits for the answer any more.
            probability: Stage-1's calibrated probability of roadwork, by which a budget knows what an answer is worth;
                None for one that is worth the most.
        """
        ...

    async def ask_one(self, server: str, content: bytes, timeout_s: float) -> float:
        """Ask this one or nobody; see `Stage2Client.ask`.

        Args:
            server: its name.
            content: the image as it arrived.
            timeout_s: time after which nobody waits for the answer any more.

        Raises:
            Stage2Error: it is none of them, has no place, is left alone, or costs more than there is.
        """
        ...

    async def probe(self) -> None:
        """Ask the servers that nobody has asked of late whether they are there; for one call after the other."""
        ...


@dataclass(frozen=True)
class Verdict:
    """Result of a hand-off.

    Attributes:
        outcome: what became of it.
        probability: Stage-2's probability of roadwork, None unless answered.
        latency_ms: time spent in the bridge.
        server: name of the server that answered; of the client if nobody did, empty if there is none.
        reason: why there is no answer, for a person; empty if there is one.
        cached: whether it is the verdict of another call on the same bytes.
    """

    outcome: Outcome
    probability: float | None
    latency_ms: float
    server: str
    reason: str = ""
    cached: bool = False
