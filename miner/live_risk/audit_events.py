"""What happens to an audit, one line of JSON each, in the order in which it happened."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from stage1.monitor.audit import ExitLabel
from stage1.monitor.risk_monitor import MonitorState, MonitorTerms


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Drawn(_Event):
    """An exit was drawn for an audit. Its picture is in `images/` from before this line until after its verdict.

    Attributes:
        kind: tells it from the others.
        number: of the audit; one more than that of the one before.
        at: when the request came, UTC.
        request_id: of the journal.
        hotkey: who asked.
        image_sha256: hash of the picture's bytes.
        picture: its perceptual hash, None if it is blank.
        site: number of its place.
        exit_label: what it exited with.
        score: roadwork score.
        select_score: selection score.
        probability: Stage-1's calibrated probability.
        share: chance with which it was drawn.
        drawn: the number below `share` that drew it; see `stage1.monitor.audit.drawn_number`.
        label_share: chance that a label is asked for although Stage-2 agrees; 0 where it never is.
        label_drawn: whether one is.
        theta: what was taken off t0 when it exited, in logits.
        bundle: that was live.
    """

    kind: Literal["drawn"] = "drawn"
    number: int = Field(ge=1)
    at: datetime
    request_id: str
    hotkey: str
    image_sha256: str
    picture: int | None
    site: int
    exit_label: ExitLabel
    score: float
    select_score: float
    probability: float
    share: float = Field(gt=0, le=1)
    drawn: float = Field(ge=0, lt=1)
    label_share: float = Field(ge=0, le=1)
    label_drawn: bool
    theta: float = Field(ge=0)
    bundle: str


def audit_name(at: datetime, request_id: str, sha256: str) -> str:
    """What the number is drawn for that decides whether an exit is audited."""
    return f"{at.isoformat()}/{request_id}/{sha256}"


class Said(_Event):
    """Stage-2 gave its verdict.

    Attributes:
        kind: tells it from the others.
        number: of the audit.
        at: when, UTC.
        server: that gave it.
        probability: of roadwork.
    """

    kind: Literal["said"] = "said"
    number: int
    at: datetime
    server: str
    probability: float = Field(ge=0, le=1)

    @property
    def label(self) -> ExitLabel:
        """What it says, rounded as validators round: half to 0."""
        return 1 if self.probability > 0.5 else 0


class Labelled(_Event):
    """A person, or a second model that agrees with the first, says what the picture shows.

    Attributes:
        kind: tells it from the others.
        number: of the audit.
        at: when it was taken over, UTC.
        label: 1 for roadwork.
        by: who says it.
    """

    kind: Literal["labelled"] = "labelled"
    number: int
    at: datetime
    label: ExitLabel
    by: Literal["person", "second_model"]


class TermsSet(_Event):
    """From here on these terms hold.

    Attributes:
        kind: tells it from the others.
        at: when, UTC.
        terms: what is watched.
    """

    kind: Literal["terms"] = "terms"
    at: datetime
    terms: MonitorTerms


class WaitingAudit(_Event):
    """An audit that is not counted yet.

    Attributes:
        drawn: what drew it.
        said: Stage-2's verdict.
        label: what it shows.
    """

    drawn: Drawn
    said: Said | None = None
    label: ExitLabel | None = None


class Summed(_Event):
    """Everything before this line; begins a file whose predecessor was full.

    Attributes:
        kind: tells it from the others.
        at: when, UTC.
        state: of the audits that are counted.
        terms: that hold.
        waiting: those that are not, in order.
        next_number: of the next audit.
    """

    kind: Literal["summed"] = "summed"
    at: datetime
    state: MonitorState
    terms: MonitorTerms
    waiting: tuple[WaitingAudit, ...]
    next_number: int


AuditEvent = Annotated[Drawn | Said | Labelled | TermsSet | Summed, Field(discriminator="kind")]
EVENT: TypeAdapter[AuditEvent] = TypeAdapter(AuditEvent)
