"""What is known of one answered request, and who is told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

from stage1.certificate.params import ScrcParams
from stage1.decisions import Action
from stage1.preprocess import Pixels
from stage2_bridge.client import Outcome

Result = Literal["answered", "not_an_image", "stage1_failed", "stage1_late", "abandoned"]


class RequestRecord(BaseModel):
    """One request.

    Attributes:
        schema_version: version of this record; one of version 1 has no `stage2_ms`.
        request_id: id that the logs carry too.
        at: time of arrival, UTC.
        hotkey: who asked.
        receiver: our hotkey that was asked; empty in records that do not say it.
        result: how it ended; `abandoned` if it was given up before there was an answer, because its caller left or this
            miner stops.
        image_sha256: hash of the image's bytes, empty if they could not be read.
        answer: what was answered, or would have been of what is abandoned; -1 only if the image could not be decoded.
        bundle: bundle that was live for this request, empty if none was.
        generation: generation of that bundle in this process.
        action: exit or defer.
        level: name of the level.
        held_back: it defers out of caution; by its certificate alone it would have exited.
        review: AMBIGUOUS: a person should look at it.
        prediction_set: `[0]`, `[1]` or `[0, 1]`.
        likelier_label: the label that Stage-1 holds more probable, also where it defers.
        roadwork_score: Stage-1's log-odds.
        select_score: Stage-1's selection score.
        stage1_probability: Stage-1's calibrated probability.
        stage2: what became of the hand-off.
        stage2_probability: Stage-2's probability.
        stage2_server: name of the server that gave it.
        stage2_ms: the hand-off, from the wait for its turn to its end.
        stage2_reason: why it ended without a verdict, for a person.
        stage2_cached: it took what came of another hand-off of the same bytes.
        stage1_ms: decoding and Stage-1, the wait for a worker included.
        total_ms: from arrival to answer.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1, 2] = 2
    request_id: str
    at: datetime
    hotkey: str
    receiver: str = ""
    result: Result
    image_sha256: str = ""
    answer: float
    bundle: str = ""
    generation: int = 0
    action: Action | None = None
    level: str | None = None
    held_back: bool | None = None
    review: bool | None = None
    prediction_set: tuple[int, ...] | None = None
    likelier_label: int | None = None
    roadwork_score: float | None = None
    select_score: float | None = None
    stage1_probability: float | None = None
    stage2: Outcome | None = None
    stage2_probability: float | None = None
    stage2_server: str | None = None
    stage2_ms: float | None = None
    stage2_reason: str | None = None
    stage2_cached: bool | None = None
    stage1_ms: float | None = None
    total_ms: float

    @property
    def degraded(self) -> str | None:
        """What should have given this answer and did not; None if nothing failed."""
        if self.result in {"stage1_failed", "stage1_late"}:
            return self.result
        if self.stage2 is not None and self.stage2 is not Outcome.ANSWERED:
            return f"stage2_{self.stage2}"
        return None

    @property
    def failure(self) -> str | None:
        """As `degraded`, and None where there is no Stage-2, which is what the operator wants."""
        return None if self.stage2 is Outcome.ABSENT else self.degraded


class Observer(Protocol):
    """Is told of every answer, after it was decided and before it is sent: the journal is one."""

    def on_answer(self, record: RequestRecord) -> None:
        """Take note; quickly, because the caller waits. What it raises is logged and costs nobody an answer."""
        ...


@dataclass(frozen=True, slots=True)
class SeenImage:
    """An image that Stage-1 saw, and what became of it.

    Attributes:
        record: of its request.
        content: its bytes.
        pixels: what the engine saw, uint8 RGB `(3, H, W)`.
        params: the certificate under which it was decided.
    """

    record: RequestRecord
    content: bytes
    pixels: Pixels
    params: ScrcParams


class ImageObserver(Protocol):
    """Is handed every image that Stage-1 saw, when its answer is decided."""

    def on_image(self, seen: SeenImage) -> None:
        """Take it for later; at once, because the caller waits."""
        ...
