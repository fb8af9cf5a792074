"""How each request ended: who gave the answer, by the journal of the miner, or why there is none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import StrEnum

from miner.answering.record import RequestRecord
from miner.simulation.exchange import Exchange
from stage1.decisions import Action
from stage1.metrics.reward import NO_ANSWER, rounded
from stage2_bridge.client import Outcome

TIMED_OUT = 408


class Ending(StrEnum):
    """How a request ended."""

    STAGE1 = "stage1_exit"
    STAGE2 = "stage2"
    NO_STAGE2 = "no_stage2"
    DEGRADED = "degraded"
    UNKNOWN = "not_known"
    LATE = "unanswered"
    REFUSED = "refused"
    INVALID = "no_probability"


IN_WORDS: dict[Ending, str] = {
    Ending.STAGE1: "Stage-1 exit",
    Ending.STAGE2: "Stage-2",
    Ending.NO_STAGE2: "deferred, no Stage-2",
    Ending.DEGRADED: "fallback or degraded",
    Ending.UNKNOWN: "stage not known",
    Ending.LATE: "late or unanswered",
    Ending.REFUSED: "refused, or -1",
    Ending.INVALID: "no probability",
}


def ending_of(exchange: Exchange, record: RequestRecord | None) -> Ending:
    """How a request ended.

    Args:
        exchange: as the validator saw it.
        record: what the miner's journal says of it, None if that is not known.
    """
    if exchange.scored == NO_ANSWER:
        lost = exchange.status == TIMED_OUT or not exchange.replied
        return Ending.LATE if lost else Ending.REFUSED
    if not exchange.answered:
        return Ending.INVALID
    if record is None:
        return Ending.UNKNOWN
    if record.stage2 is Outcome.ABSENT:
        return Ending.NO_STAGE2
    if record.degraded is not None:
        return Ending.DEGRADED
    return Ending.STAGE1 if record.action is Action.EXIT else Ending.STAGE2


def is_right(exchange: Exchange) -> bool:
    """Whether the validator counts the answer as right."""
    return exchange.answered and int(rounded([exchange.scored])[0]) == exchange.label


def joined(exchanges: Sequence[Exchange], journal: Iterable[RequestRecord], hotkey: str) -> list[RequestRecord | None]:
    """What the miner noted down of each request.

    A record is of a request if both have the same answer and the same picture, or the miner did not get as far as the
    picture. Where several are, they are taken in their order. Requests without an answer have none.

    Args:
        exchanges: in order of sending.
        journal: in order of answering.
        hotkey: of the validator.
    """
    by_picture: dict[tuple[str, float], list[RequestRecord]] = defaultdict(list)
    for record in journal:
        if record.hotkey == hotkey:
            by_picture[record.image_sha256, record.answer].append(record)
    found: list[RequestRecord | None] = []
    for exchange in exchanges:
        fitting: list[RequestRecord] = []
        if exchange.scored != NO_ANSWER:
            fitting = by_picture[exchange.sha256, exchange.scored] or by_picture["", exchange.scored]
        found.append(fitting.pop(0) if fitting else None)
    return found
