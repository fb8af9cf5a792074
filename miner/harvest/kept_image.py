"""What is known of an image that was kept, and where its label may go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from stage1.monitor.audit import ExitLabel

Reason = Literal["random", "deferred", "ambiguous", "disagree", "contradicted"]
Destination = Literal["any set", "train", "later"]


class KeptImage(BaseModel):
    """One line of `index.jsonl`.

    Attributes:
        sha256: hash of the picture's bytes, and the name of its file.
        at: when its request came, UTC.
        reasons: what it was kept for.
        week: the week of the draw if it was drawn at random, such as `2026-W09`; empty if not.
        request_id: of the journal.
        hotkey: who asked.
        bundle: that was live.
        site: number of its place.
        picture: its perceptual hash, None if it is blank.
        size: of the file, bytes.
        suffix: of the file's name.
        exit_label: what it exited with, None if it was deferred.
        score: roadwork score.
        probability: Stage-1's calibrated probability.
        stage2_probability: Stage-2's, None if it was not asked or did not answer.
        gone: the picture was removed to make room.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    at: datetime
    reasons: tuple[Reason, ...] = Field(min_length=1)
    week: str = ""
    request_id: str
    hotkey: str
    bundle: str
    site: int
    picture: int | None
    size: int
    suffix: str
    exit_label: ExitLabel | None
    score: float
    probability: float
    stage2_probability: float | None
    gone: bool = False


def week_of(at: datetime | date) -> str:
    """Its ISO week."""
    year, week, _ = at.isocalendar()
    return f"{year}-W{week:02d}"


def whole_weeks(images: Iterable[KeptImage], labels: Mapping[str, ExitLabel], today: date) -> set[str]:
    """Weeks that are over and of whose random draws every one has a label.

    Args:
        images: all that were ever drawn, also those whose pictures are gone.
        labels: by hash.
        today: UTC.
    """
    drawn = [one for one in images if one.week]
    lacking = {one.week for one in drawn if one.sha256 not in labels}
    return {one.week for one in drawn} - lacking - {week_of(today)}


def destination(image: KeptImage, whole: set[str], broken: set[str]) -> Destination:
    """Where a label may go.

    A fold that certifies must be exchangeable with the stream. What was picked by a score, by a disagreement or by
    Stage-2 is not, and neither is the part of a random draw that somebody chose to label.

    Args:
        image: with a label.
        whole: weeks whose draws are all labelled.
        broken: weeks of which a picture is gone without a label, so that they will never be.
    """
    if not image.week or image.week in broken:
        return "train"
    return "any set" if image.week in whole else "later"


def broken_weeks(images: Iterable[KeptImage], labels: Mapping[str, ExitLabel]) -> set[str]:
    """Weeks of which a picture is gone that nobody has labelled."""
    return {one.week for one in images if one.week and one.gone and one.sha256 not in labels}


def urgency(image: KeptImage, t0: float | None) -> float:
    """What a label is worth for the next certificate: larger is more.

    A miss near t0 decides how far the next certificate reaches; a picture about which the stages disagree teaches.

    Args:
        image: without a label.
        t0: the certified threshold, None if there is none.
    """
    near = 0.0 if t0 is None else 1 / (1 + abs(image.score - t0))
    return near + 0.5 * bool({"disagree", "contradicted"} & set(image.reasons)) + 0.25 * ("ambiguous" in image.reasons)
