"""Settings of the sequential statistics of a certificate that is in use."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stage1.settings import Section

# The smallest share of exits that may be audited: the weight of one audit is the inverse of its share.
LEAST_SHARE = 0.01
Share = Annotated[float, Field(ge=LEAST_SHARE, le=1)]


class AuditShares(Section):
    """Which share of the exits is audited, by the label that they exit with.

    Most exits with 0 that are audited are no misses, and a miss can only be among them: they are worth more audits.

    Attributes:
        exit0: share of the exits as no roadwork that is audited, at least 0.01.
        exit1: share of the exits as roadwork.
        labelled: share of what Stage-2 does not contradict that a person labels all the same. With 0 the statistics
            count the misses that Stage-2 sees as well; with more they count all misses, and take longer.
        confirm_hits: have a person label exits as roadwork that Stage-2 contradicts. Without that they are not counted,
            which is right unless Stage-2 sees roadwork better where Stage-1 misses it. Always so with `labelled`.
    """

    exit0: Share = 0.3
    exit1: Share = 0.05
    labelled: float = Field(default=0.0, ge=0, le=1)
    confirm_hits: bool = False

    @model_validator(mode="after")
    def _labelled_often_enough(self) -> Self:
        if 0 < self.labelled < LEAST_SHARE:
            raise ValueError(f"labelled is {self.labelled:g}: give 0, or at least {LEAST_SHARE:g}")
        return self

    def of(self, exit_label: Literal[0, 1]) -> float:
        """Share of the exits with this label that is audited."""
        return self.exit1 if exit_label else self.exit0

    @property
    def all_hits(self) -> bool:
        """Whether hits that Stage-2 does not see are labelled."""
        return self.confirm_hits or self.labelled > 0

    @property
    def least(self) -> float:
        """The smaller share of the two."""
        return min(self.exit0, self.exit1)


class SequentialSettings(Section):
    """The sequential tests.

    Attributes:
        delta: chance that the e-process ever raises a false alarm while the risk is at most `alpha`.
        run_length: audited trials that pass on average before the change detector raises a false alarm.
        bets: fixed bets, as shares of the largest one under which no factor is below a tenth.
        interval_delta: one minus the confidence of the interval of the risk that is shown.
    """

    delta: float = Field(default=0.01, gt=0, lt=1)
    run_length: float = Field(default=1e4, gt=1)
    bets: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(0.02, 0.05, 0.1, 0.2, 0.4, 0.8), min_length=1
    )
    interval_delta: float = Field(default=0.1, gt=0, lt=1)


class AdaptationSettings(Section):
    """How t0 is lowered while misses come in.

    Attributes:
        gamma: step in logits for a weighted miss.
        most: largest step away from the certified t0, in logits.
    """

    gamma: float = Field(default=0.05, ge=0, le=10)
    most: float = Field(default=20.0, gt=0, le=1e3)
