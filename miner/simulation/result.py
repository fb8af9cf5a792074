"""What came of a simulation, as a file: what the validator pays, how fast the miner was, where reward was lost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from miner.answering.record import RequestRecord
from miner.simulation.endings import Ending, ending_of, is_right
from miner.simulation.exchange import Exchange
from stage1.artifacts import Artifact
from stage1.metrics.classification import matthews_correlation
from stage1.metrics.reward import ChallengeRewards, challenge_rewards, rounded

# Rows of the timeline.
WINDOWS = 10


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Paid(_Part):
    """What a validator pays for a stream of answers.

    Attributes:
        mean: mean reward of all challenges.
        last: reward of the last challenge.
        score: the moving average that becomes the miner's weight; it begins at 0 and moves by a twentieth.
    """

    mean: float
    last: float
    score: float

    @classmethod
    def of(cls, rewards: ChallengeRewards) -> Self:
        """Of at least one challenge."""
        return cls(mean=rewards.mean, last=float(rewards.reward[-1]), score=float(rewards.score[-1]))


class Latency(_Part):
    """Milliseconds until an answer came, as the validator saw it; None if none came.

    Attributes:
        p50: median.
        p95: 95th percentile.
        p99: 99th percentile.
        longest: the longest.
    """

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    longest: float | None = None

    @classmethod
    def of(cls, ms: Sequence[float]) -> Self:
        """Of the answers."""
        if not ms:
            return cls()
        p50, p95, p99, longest = (float(value) for value in np.quantile(ms, [0.5, 0.95, 0.99, 1.0]))
        return cls(p50=p50, p95=p95, p99=p99, longest=longest)


class Share(_Part):
    """The requests that ended in one way.

    Attributes:
        ending: the way.
        requests: how many.
        lost: how many of them the validator does not count as right.
        if_right: what it would pay had these been right and all others as they are.
    """

    ending: Ending
    requests: int
    lost: int
    if_right: Paid


class Window(_Part):
    """A span of requests.

    Attributes:
        first: number of the first, from 1.
        last: number of the last.
        accuracy: of the answers in the span; None if there is none.
        mcc: Matthews correlation in the validator's window of 100 at the end of the span.
        reward: mean reward in the span.
        p95_ms: 95th percentile of the times until an answer; None if there is none.
        failed: requests without a probability.
    """

    first: int
    last: int
    accuracy: float | None
    mcc: float
    reward: float
    p95_ms: float | None
    failed: int


class RequestRow(_Part):
    """One request.

    Attributes:
        number: from 1, in order of sending.
        image: path of the picture.
        label: the truth.
        sha256: of the bytes that were sent; empty if it is not known.
        status: HTTP status, or what a dendrite puts in its place; 0 if nothing is known.
        message: what the status says in words.
        prediction: the answer where it is a finite number.
        right: whether the validator counts it as right.
        ending: who gave the answer, or why there is none.
        degraded: what should have given the answer and did not.
        ms: until the answer came.
        bundle: bundle that answered; empty if the answer names none.
        reward: what the validator pays for it.
        score: its moving average after it.
    """

    number: int
    image: str
    label: int
    sha256: str
    status: int
    message: str
    prediction: float | None
    right: bool
    ending: Ending
    degraded: str | None
    ms: float
    bundle: str
    reward: float
    score: float


class SimulationResult(Artifact):
    """`--json` of `cascade simulate`.

    Attributes:
        miner: who was asked: a URL, or the miner that the simulation started.
        stream: what was done to the pictures.
        seed: of the draws.
        asked_for: requests that were to be sent.
        stopped: why fewer were; empty if all were.
        used: of the requests, how many show a picture that the live bundle was made with; None if it is not known.
        notes: what a reader should know.
        accuracy: share of the answers that are right; None if none came.
        mcc: Matthews correlation of all answers.
        paid: what the validator pays.
        most: what it would pay if all were right.
        latency: milliseconds until an answer.
        failed: requests without a probability.
        shares: the requests by how they ended.
        timeline: the stream in spans.
        bundles: bundles that answered.
        requests: one row each.
    """

    miner: str
    stream: str
    seed: int
    asked_for: int
    stopped: str
    used: int | None
    notes: tuple[str, ...]
    accuracy: float | None
    mcc: float
    paid: Paid
    most: Paid
    latency: Latency
    failed: int
    shares: tuple[Share, ...]
    timeline: tuple[Window, ...]
    bundles: tuple[str, ...]
    requests: tuple[RequestRow, ...]


@dataclass(frozen=True)
class Asked:
    """What was asked of whom.

    Attributes:
        miner: see `SimulationResult`.
        stream: see `SimulationResult`.
        seed: see `SimulationResult`.
        asked_for: see `SimulationResult`.
        stopped: see `SimulationResult`.
        used: see `SimulationResult`.
        notes: see `SimulationResult`.
    """

    miner: str
    stream: str
    seed: int
    asked_for: int
    stopped: str = ""
    used: int | None = None
    notes: tuple[str, ...] = ()


def result_of(asked: Asked, exchanges: Sequence[Exchange], records: Sequence[RequestRecord | None]) -> SimulationResult:
    """Work out what came of a simulation.

    Args:
        asked: what was asked of whom.
        exchanges: the requests in order of sending; at least one.
        records: what the miner's journal says of each, None where that is not known.
    """
    labels = np.asarray([exchange.label for exchange in exchanges], np.int8)
    scored = np.asarray([exchange.scored for exchange in exchanges], np.float64)
    right = np.asarray([is_right(exchange) for exchange in exchanges], bool)
    answered = np.asarray([exchange.answered for exchange in exchanges], bool)
    endings = [ending_of(exchange, record) for exchange, record in zip(exchanges, records, strict=True)]
    rewards = challenge_rewards(labels, scored)
    guesses = rounded(scored[answered])
    return SimulationResult(
        **vars(asked),
        accuracy=float(right[answered].mean()) if answered.any() else None,
        mcc=matthews_correlation(labels[answered], guesses),
        paid=Paid.of(rewards),
        most=Paid.of(challenge_rewards(labels, labels.astype(np.float64))),
        latency=Latency.of([exchange.ms for exchange in exchanges if exchange.answered]),
        failed=int((~answered).sum()),
        shares=tuple(_share(ending, endings, labels, scored, right) for ending in Ending if ending in endings),
        timeline=_timeline(exchanges, right, answered, rewards),
        bundles=tuple(dict.fromkeys(exchange.bundle for exchange in exchanges if exchange.bundle)),
        requests=tuple(_rows(exchanges, records, endings, right, rewards)),
    )


def _share(
    ending: Ending,
    endings: Sequence[Ending],
    labels: NDArray[np.int8],
    scored: NDArray[np.float64],
    right: NDArray[np.bool_],
) -> Share:
    ours = np.asarray([other is ending for other in endings], bool)
    lost = ours & ~right
    if_right = challenge_rewards(labels, np.where(lost, labels, scored))
    return Share(ending=ending, requests=int(ours.sum()), lost=int(lost.sum()), if_right=Paid.of(if_right))


def _timeline(
    exchanges: Sequence[Exchange],
    right: NDArray[np.bool_],
    answered: NDArray[np.bool_],
    rewards: ChallengeRewards,
) -> tuple[Window, ...]:
    found = []
    for part in np.array_split(np.arange(len(exchanges)), min(WINDOWS, len(exchanges))):
        there = part[answered[part]]
        found.append(
            Window(
                first=int(part[0]) + 1,
                last=int(part[-1]) + 1,
                accuracy=float(right[there].mean()) if len(there) else None,
                mcc=float(rewards.mcc[part[-1]]),
                reward=float(rewards.reward[part].mean()),
                p95_ms=Latency.of([exchanges[place].ms for place in there]).p95,
                failed=len(part) - len(there),
            )
        )
    return tuple(found)


def _rows(
    exchanges: Sequence[Exchange],
    records: Sequence[RequestRecord | None],
    endings: Sequence[Ending],
    right: NDArray[np.bool_],
    rewards: ChallengeRewards,
) -> list[RequestRow]:
    score = rewards.score
    return [
        RequestRow(
            number=place + 1,
            # The name of a file need not be text.
            image=os.fsencode(exchange.image).decode(errors="replace"),
            label=exchange.label,
            sha256=exchange.sha256,
            status=exchange.status,
            message=exchange.message,
            prediction=exchange.shown,
            right=bool(right[place]),
            ending=endings[place],
            degraded=None if record is None else record.degraded,
            ms=exchange.ms,
            bundle=exchange.bundle,
            reward=float(rewards.reward[place]),
            score=float(score[place]),
        )
        for place, (exchange, record) in enumerate(zip(exchanges, records, strict=True))
    ]
