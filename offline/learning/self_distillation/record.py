"""What a night keeps of its adaptation, and how it is told."""

from __future__ import annotations

from typing import ClassVar, Literal

from offline.learning.self_distillation.gain import Gain
from stage1.artifacts import Artifact


class AdaptationRecord(Artifact):
    """`adaptation.json`: what domain adaptation saw and what came of it.

    Attributes:
        images: unlabelled images that it saw.
        unreadable: files of the directories of unlabelled images that could not be decoded.
        alike: those that were left out because they look like a row that judges.
        judge: how epochs were judged, by the area under the ROC curve on val_select.
        before: judgement of the backbone as it came.
        gain: what the best judged gains over it, with the interval that decided; null if none was better.
        keep: what it took to be kept: `proven` asks for an interval above zero, `best` for any gain.
        kept_epoch: the epoch whose backbone was kept; 0 for the backbone as it came.
        kept_of: whose of that epoch.
        epochs: mean loss terms of each epoch, the entropy of the mean assignment, how far teacher and student are from
            the start, and the judgement of both.
    """

    SCHEMA_VERSION: ClassVar[int] = 2
    schema_version: int = 2

    images: int
    unreadable: int
    alike: int
    judge: str
    before: float | None
    gain: Gain | None
    keep: Literal["proven", "best"]
    kept_epoch: int
    kept_of: Literal["teacher", "student", "start"]
    epochs: tuple[dict[str, float], ...]

    @property
    def verdict(self) -> str:
        """What became of the adapted backbone and why, in one or two sentences."""
        tried = f"domain adaptation on {self.images} unlabelled images, {len(self.epochs)} epochs"
        if self.before is None:
            return f"{tried}: nobody judged it, and the last teacher is kept."
        judge = {"probe": "a probe", "neighbours": "the nearest neighbours"}.get(self.judge, self.judge)
        if self.gain is None:
            return (
                f"{tried}: the backbone stays as it came. No epoch had better features by {judge} on val_select, area "
                f"under the ROC curve {self.before:.3f}."
            )
        gain = self.gain
        numbers = (
            f"area under the ROC curve {self.before:.3f} -> {self.before + gain.estimate:.3f} by {judge} on "
            f"val_select, {gain.estimate:+.3f} [{gain.lower:+.3f}, {gain.upper:+.3f}], a {gain.level:.0%} group "
            f"bootstrap that allows for the choice among {gain.judged}"
        )
        if self.kept_epoch:
            asked = "" if gain.lower > 0 else " It is kept because adapt_domain.keep is best."
            return f"{tried}: the {self.kept_of} of epoch {self.kept_epoch} is kept, {numbers}.{asked}"
        return f"{tried}: the backbone stays as it came, because a gain is not proven: {numbers}."
