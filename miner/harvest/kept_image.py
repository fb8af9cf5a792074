"""What is known of an image that was kept, and where its label may go."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from stage1.monitor.audit import ExitLabel

Reason = Literal["random", "deferred", "audited", "ambiguous", "drift", "disagree", "contradicted"]
# From what is told of most images to what is told of fewest.
REASONS: tuple[Reason, ...] = get_args(Reason)
# So long a picture is known again, and with it its place.
PLACES_LAST = timedelta(days=1)
Destination = Literal["any set", "train", "later"]


class KeptImage(BaseModel):
    """One line of `index.jsonl`.

    Attributes:
        sha256: hash of the picture's bytes, and the name of its file.
        at: when its request came, UTC.
        reasons: what it was kept for, in the order of `REASONS`.
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
    at: AwareDatetime
    reasons: tuple[Reason, ...] = Field(min_length=1)
    week: str = ""
    request_id: str
    hotkey: str
    bundle: str
    site: int = Field(ge=0, lt=2**64)
    picture: int | None = Field(ge=0, lt=2**64)
    size: int = Field(ge=0, lt=2**64)
    suffix: str
    exit_label: ExitLabel | None
    score: float
    probability: float
    stage2_probability: float | None
    gone: bool = False


def draw_name(at: datetime, request_id: str, sha256: str) -> str:
    """What the number is drawn for that decides whether an image is one of the random share."""
    return f"{at.isoformat()}/{request_id}/{sha256}/harvest"


def main_reason(image: KeptImage) -> Reason:
    """The rarest of its reasons."""
    return max(image.reasons, key=REASONS.index)


def joined(known: KeptImage, again: KeptImage) -> KeptImage:
    """One image that was kept, and is to be kept again: what is known of both."""
    reasons = tuple(one for one in REASONS if one in {*known.reasons, *again.reasons})
    said = known.stage2_probability if again.stage2_probability is None else again.stage2_probability
    drawn = again if again.week and not known.week else known
    changes = {"reasons": reasons, "site": known.site, "stage2_probability": said, "gone": False}
    return drawn.model_copy(update=changes)


def forgotten(image: KeptImage) -> KeptImage:
    """The line that says of a draw that it is as if it had not been drawn."""
    return image.model_copy(update={"reasons": ("random",), "week": "", "gone": True})


def not_drawn(image: KeptImage) -> KeptImage:
    """A draw that stays for what else it was kept for, or for its label, which may train."""
    others = tuple(one for one in image.reasons if one != "random")
    return image.model_copy(update={"reasons": others or image.reasons, "week": ""})


def is_forgotten(image: KeptImage) -> bool:
    """Whether a line says so."""
    return image.gone and not image.week and image.reasons == ("random",)


def lost_draws(image: KeptImage) -> KeptImage:
    """What is kept in the place of all draws of its week that are gone and forgotten: nobody can ever label it."""
    name = hashlib.sha256(f"draws of {image.week} that are gone".encode()).hexdigest()
    return image.model_copy(update={"sha256": name, "reasons": ("random",), "size": 0, "gone": True})


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


def open_places(images: Iterable[KeptImage], today: date) -> set[int]:
    """Places of which a picture may still come, and be drawn at random: those of a picture of the last day.

    Args:
        images: of the store.
        today: UTC.
    """
    last: dict[int, datetime] = {}
    for one in images:
        last[one.site] = max(one.at, last.get(one.site, one.at))
    return {site for site, at in last.items() if (at + PLACES_LAST).date() >= today}


def broken_weeks(images: Iterable[KeptImage], labels: Mapping[str, ExitLabel]) -> set[str]:
    """Weeks of which a picture is gone that nobody has labelled."""
    return {one.week for one in images if one.week and one.gone and one.sha256 not in labels}
