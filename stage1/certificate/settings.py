"""What is to be certified, and how the candidates are chosen."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stage1.certificate.budget import MOST_LOOKS, Spending
from stage1.certificate.risks import Risk, Unit
from stage1.certificate.stream import EraWeights, Stream, even_weights
from stage1.outputs import GateScore
from stage1.settings import Section

Mode = Literal["risk", "coverage", "balanced"]
Algorithm = Literal["A", "B", "C"]
Multiplicity = Literal["chains", "holm"]
MOST_SLACK = 2.0


class CalibrationSettings(Section):
    """What is to be certified, and how the candidates are chosen.

    Attributes:
        mode: `risk` certifies the risk and exits as much as that allows; `coverage` certifies an exit coverage and
            the lowest risk it can be had at; `balanced` certifies the risk, and no more than `subgroup_slack` times
            it in each subgroup.
        algorithm: `B` walks t0 up at one gate, for any risk; `A` takes t0 from an order statistic, for D1; `C` walks
            at several gates, or certifies several risks at once.
        risk: the risk that is certified; D2, the miss rate on exits, by default.
        alpha: highest risk that may be certified; in mode `coverage` the bound is found instead.
        delta: one minus the confidence.
        spending: `looks` divides delta equally among `looks` certifications on the same rows, and then there are no
            more; `nights` gives each a part of what is left, so that it never ends and soon proves nothing;
            `single_use` gives each all of it, and then only each by itself holds.
        looks: how many certifications share delta.
        unit: what is independent: `group` takes one image of each group, `row` takes every image.
        allow_row_unit: `row` may be the unit although groups have several rows.
        seed: seed of the draw of that row, and of what the stream does to each row.
        stream: what val_select, val_calib and test rows go through before the engine sees them, each by one draw: a
            validator's transforms of one era, or a mixture of them; `originals` leaves them as they are.
        stream_weights: how often each era is drawn in a mixture, up to a factor; training draws by them as well.
        coverage: exit coverage to be certified in mode `coverage`.
        subgroups: column of the metadata that names the subgroups in mode `balanced`.
        subgroup_slack: highest risk of a subgroup, as a multiple of alpha.
        also: further risks of algorithm C and their levels, certified together with `risk`.
        gates: number of gates of algorithm C; with the margin there is one.
        multiplicity: how algorithm C pays for them: `chains` walks each at delta / gates, `holm` tests every pair of
            gate and t0.
        gate: what tells how far an image is to be trusted, in the gate tau, in the level AMBIGUOUS and in what reports
            rank by: the softmax `margin`, to which tau adds nothing with two classes, so one gate is tried, which
            everything passes; or what the selection head says, `select_score`.
        agreement: named heads that must say the label an image exits with.
        false_alarm_rate: share of gate-passing negatives of val_select that may exit as 1; sets t1, which is never
            below the cut with the highest balanced accuracy.
        safety: tau is chosen where the smoothed risk on val_select is at most `safety * alpha`.
        grid_size: number of candidate values of t0.
        gate_size: number of candidate values of tau; with the margin there is one.
        ambiguous_share: share of the deferred images of val_select that are AMBIGUOUS.
    """

    mode: Mode = "risk"
    algorithm: Algorithm = "B"
    risk: Risk = Risk.MISS_EXIT
    alpha: float = Field(default=0.02, ge=1e-6, lt=1)
    delta: float = Field(default=0.10, ge=1e-6, lt=1)
    spending: Spending = "looks"
    looks: int = Field(default=6, ge=1, le=MOST_LOOKS)
    unit: Unit = "group"
    allow_row_unit: bool = False
    seed: int = 0
    stream: Stream = "mixture"
    stream_weights: EraWeights = Field(default_factory=even_weights)
    coverage: float = Field(default=0.80, gt=0, lt=1)
    subgroups: str = "daytime"
    subgroup_slack: float = Field(default=2.0, ge=1, le=MOST_SLACK)
    also: dict[Risk, float] = Field(default_factory=dict)
    gates: int = Field(default=3, ge=1, le=10)
    multiplicity: Multiplicity = "chains"
    gate: GateScore = "margin"
    agreement: tuple[str, ...] = ()
    false_alarm_rate: float = Field(default=0.02, ge=0, lt=1)
    safety: float = Field(default=0.75, gt=0, le=1)
    grid_size: int = Field(default=1000, ge=2)
    gate_size: int = Field(default=25, ge=1)
    ambiguous_share: float = Field(default=0.10, ge=0, le=1)

    @property
    def chains(self) -> int:
        """How many gates are walked at, at most."""
        return self.gates if self.algorithm == "C" and self.gate == "select_score" else 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.algorithm == "A" and self.risk is not Risk.MISS_ALL:
            raise ValueError(f"algorithm A certifies D1 only, not {self.risk}: set risk to D1, or algorithm to B")
        if self.mode != "risk" and self.algorithm != "B":
            raise ValueError(f"mode {self.mode} goes with algorithm B, not {self.algorithm}")
        if self.multiplicity == "holm" and self.algorithm != "C":
            raise ValueError(f"Holm's procedure goes with algorithm C, not {self.algorithm}")
        if self.also and self.algorithm != "C":
            raise ValueError(f"several risks at once take algorithm C, not {self.algorithm}")
        wrong = [f"{risk}: {level}" for risk, level in self.also.items() if not 0 < level < 1 or risk is self.risk]
        if wrong:
            raise ValueError(f"`also` needs other risks than {self.risk}, at levels in (0, 1), not {', '.join(wrong)}")
        if self.subgroup_slack * self.alpha >= 1:
            raise ValueError(f"subgroup_slack * alpha is {self.subgroup_slack * self.alpha:g}, which certifies nothing")
        return self
