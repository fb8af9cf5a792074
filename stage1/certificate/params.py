"""`scrc_params.json`: the thresholds a policy uses, and what was proved about them."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from stage1.artifacts import Artifact, sha256_json
from stage1.certificate.budget import MOST_LOOKS, MOST_USES, Budget, Spending
from stage1.certificate.risks import Rate, Risk, Unit
from stage1.certificate.settings import MOST_SLACK, Algorithm, Mode, Multiplicity
from stage1.certificate.statistics.binomial import p_value
from stage1.certificate.stream import EraWeights, Stream, even_weights
from stage1.errors import CertificateError
from stage1.exit_rule import ExitRule, without_old_gate
from stage1.outputs import GateScore
from stage1.tolerance import TOLERANCE

Sha256 = str
# Up to it p-values are right to 1e-4 (measured); at ten times as many `bdtr` is off by hundredths.
MOST_ROWS = 10**7
SINCE_VERSION_2 = frozenset(
    {"spending", "looks", "spent_before", "tolerance", "stream", "stream_weights", "gate_score"}
)
Status = Literal["CERTIFIED", "INFEASIBLE"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Binding(_Part):
    """What a certificate is true of; another engine, preprocess or split needs another certificate.

    Attributes:
        engine_sha256: hash of the engine file whose numbers were calibrated.
        preprocess_sha256: hash of the preprocess settings.
        val_select_sha256: hash of the row ids that chose tau, t1 and the grid.
        val_calib_sha256: hash of the row ids that certified t0.
    """

    engine_sha256: Sha256
    preprocess_sha256: Sha256
    val_select_sha256: Sha256
    val_calib_sha256: Sha256


class Chain(_Part):
    """One gate and the values of t0 that were tested behind it.

    Attributes:
        tau: lowest gate score with which an image may exit.
        t1: exit-1 threshold.
        grid: candidate values of t0 in the order of testing; empty where t0 is an order statistic.
        tested: how many of them were tested.
    """

    tau: float
    t1: float
    grid: tuple[float, ...] = ()
    tested: int = Field(default=0, ge=0, le=MOST_ROWS)

    def may_end_at(self, t0: float) -> bool:
        """Whether a walk of `tested` steps can have stopped at this value: the last step failed, or was the last."""
        ends = {self.grid[self.tested - 2]} if 2 <= self.tested <= len(self.grid) else set()
        if self.tested == len(self.grid) > 0:
            ends.add(self.grid[-1])
        return t0 in ends


class Evidence(_Part):
    """One claim about the rule, and the counts that it was tested with.

    Attributes:
        claim: `risk` claims that a risk is at most `bound`, `coverage` that exit coverage is at least `bound`.
        risk: the risk; None for coverage.
        subgroup: the subgroup it speaks of, empty for all rows.
        bound: what is claimed.
        level: level of the test.
        events: losses, or units that exit.
        trials: units among which they were counted.
        p_value: of the hypothesis that the claim is false.
    """

    claim: Literal["risk", "coverage"] = "risk"
    risk: Risk | None = None
    subgroup: str = ""
    bound: float = Field(gt=0, lt=1)
    level: float = Field(gt=0, lt=1)
    events: int = Field(ge=0, le=MOST_ROWS)
    trials: int = Field(ge=0, le=MOST_ROWS)
    p_value: float = Field(ge=0, le=1)

    @classmethod
    def of(
        cls, risk: Risk | None, counted: tuple[int, int], *, bound: float, level: float, subgroup: str = ""
    ) -> Evidence:
        """Evidence from counts; risk None for coverage."""
        events, trials = counted
        claim: Literal["risk", "coverage"] = "coverage" if risk is None else "risk"
        p = p_value(trials - events, trials, 1 - bound) if risk is None else p_value(events, trials, bound)
        return cls(
            claim=claim,
            risk=risk,
            subgroup=subgroup,
            bound=bound,
            level=level,
            events=events,
            trials=trials,
            p_value=p,
        )

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if (self.claim == "coverage") != (self.risk is None):
            raise ValueError(f"a claim of {self.claim} about {self.risk or 'no risk'}")
        events, bound = (
            (self.events, self.bound) if self.claim == "risk" else (self.trials - self.events, 1 - self.bound)
        )
        p = p_value(events, self.trials, bound)
        if not math.isclose(p, self.p_value, rel_tol=1e-6, abs_tol=1e-300):
            raise ValueError(f"the p-value is {self.p_value}, but {self.events} of {self.trials} give {p}")
        return self

    @property
    def holds(self) -> bool:
        """The claim is proved at its level."""
        return self.p_value <= self.level


class ScrcParams(Artifact):
    """Parameters of `ScrcPolicy` and their certificate.

    Attributes:
        status: INFEASIBLE means that no rule could be certified, and everything is deferred.
        reason: why it is infeasible, and what it would take; empty if certified.
        statement: the certificate in words.
        mode: what was asked for.
        algorithm: how t0 was found.
        multiplicity: how algorithm C paid for several gates.
        risk: the risk that is certified.
        alpha: certified level of that risk; the level of the settings if nothing was.
        delta: one minus the confidence in all certificates on these calibration rows together.
        spending: how delta is divided among them.
        looks: how many share it where it is divided equally.
        spent: the part of delta that this one spends.
        spent_before: the part of delta that earlier ones spent.
        unit: what is independent, a row or a group.
        seed: seed of the draw of one row a group, and of what the stream does to each row.
        stream: what the calibration rows went through; a file of version 2 is one of originals.
        stream_weights: how often each era was drawn in a mixture, up to a factor.
        rule: the thresholds, None if infeasible.
        gate_score: what tells how far an image is to be trusted; see `ExitRule`.
        ambiguous_below: deferred images with a lower gate score are AMBIGUOUS.
        chosen: the chain that the rule comes from.
        evidence: every claim that was tested at the rule, or at the most cautious rule if infeasible.
        rows: rows of val_calib.
        positives: positive units of val_calib.
        bound_delta: one minus the confidence of each bound below, each by itself.
        risks: every risk at the certified rule.
        exit_coverage: units that exit, with bounds.
        positives_exited: positive units that exit, with bounds.
        subgroups: the certified risk in each subgroup of mode `balanced`.
        prior_uses: earlier certifications on some of the same val_calib rows.
        tolerance: largest difference of an output from that of the engine on another machine; decides how far from
            every score of val_select the thresholds lie.
        binding: what the certificate is true of.
        code_version: version of the program that computed it.
        chains: what was tested on val_calib, in order.
        seal: hash of every other field.
    """

    SCHEMA_VERSION: ClassVar[int] = 3
    schema_version: int = 3

    status: Status
    reason: str = ""
    statement: str
    mode: Mode = "risk"
    algorithm: Algorithm = "B"
    multiplicity: Multiplicity = "chains"
    risk: Risk = Risk.MISS_EXIT
    alpha: float = Field(gt=0, lt=1)
    delta: float = Field(gt=0, lt=1)
    spending: Spending
    looks: int = Field(ge=1, le=MOST_LOOKS)
    spent: float = Field(gt=0, lt=1)
    spent_before: float = Field(ge=0)
    tolerance: float = Field(gt=0, le=1)
    unit: Unit
    seed: int
    stream: Stream = "originals"
    stream_weights: EraWeights = Field(default_factory=even_weights)
    rule: ExitRule | None
    gate_score: GateScore = "select_score"
    ambiguous_below: float
    chosen: int = Field(default=0, ge=0, le=MOST_ROWS)
    evidence: tuple[Evidence, ...] = ()
    rows: int = Field(ge=0, le=MOST_ROWS)
    positives: int = Field(ge=0, le=MOST_ROWS)
    bound_delta: float = Field(default=0.5, gt=0, lt=1)
    risks: dict[Risk, Rate] = Field(default_factory=dict)
    exit_coverage: Rate | None = None
    positives_exited: Rate | None = None
    subgroups: dict[str, Rate] = Field(default_factory=dict)
    prior_uses: int = Field(default=0, ge=0, le=MOST_USES)
    binding: Binding
    code_version: str
    chains: tuple[Chain, ...] = ()
    seal: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_version_2(cls, content: object) -> object:
        """Take over a certificate of the version before, whose seal is checked here; a bundle that serves has one."""
        if not isinstance(content, dict) or content.get("schema_version") != 2:
            return content
        later = SINCE_VERSION_2 & content.keys()
        if later:
            raise ValueError(f"a file of schema_version 2 has {min(later)}: it was edited; calibrate again")
        known = {name: value for name, value in content.items() if name != "seal"}
        if content.get("seal") != sha256_json(known):
            raise ValueError("the seal is broken: the file was edited after it was computed; calibrate again")
        delta, spent, uses = (known.get(name) for name in ("delta", "spent", "prior_uses"))
        if not isinstance(delta, float) or not isinstance(spent, float) or not isinstance(uses, int):
            return content
        spending: Spending = "single_use" if math.isclose(delta, spent) else "nights"
        before = Budget(spending, delta, 1, min(uses, MOST_USES)).spent
        known |= {"schema_version": 3, "spending": spending, "looks": 1, "spent_before": before, "tolerance": TOLERANCE}
        known |= {"stream": "originals", "stream_weights": even_weights()}
        return known | {"seal": sha256_json(known)}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """A rule that exits more than was proved is refused."""
        if (self.status == "CERTIFIED") != (self.rule is not None):
            raise ValueError(f"status is {self.status} but the rule is {'missing' if self.rule is None else 'present'}")
        if not math.isclose(self.spent, self.budget.level):
            raise ValueError(f"{self.spent} of a delta of {self.delta} is spent after {self.prior_uses} uses")
        if self.rule is not None and not self.budget.affordable:
            raise ValueError(f"{self.spent_before} of a delta of {self.delta} was spent before: nothing is left")
        if self.rule is not None:
            self._check_place(self.rule)
            self._check_proof()
        return self

    @model_validator(mode="after")
    def _sealed(self, info: ValidationInfo) -> Self:
        """What is computed here is sealed; a file whose seal is missing or broken was edited, and is refused."""
        seal = sha256_json(self.model_dump(mode="json", exclude={"seal"}))
        if self.seal == "" and info.mode == "python":
            object.__setattr__(self, "seal", seal)
        elif self.seal != seal:
            raise ValueError("the seal is broken: the file was edited after it was computed; calibrate again")
        return self

    @model_serializer(mode="wrap")
    def _named_if_new(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_old_gate(handler(self))

    @property
    def name(self) -> str:
        """What the certificate is called: the beginning of its seal, 16 hex digits."""
        return self.seal[:16]

    @property
    def budget(self) -> Budget:
        """What this certification might spend."""
        return Budget(self.spending, self.delta, self.looks, self.prior_uses, self.spent_before)

    def _check_place(self, rule: ExitRule) -> None:
        """The rule is one that the search can have ended at."""
        if self.chosen >= len(self.chains):
            raise ValueError(f"the rule comes from chain {self.chosen} of {len(self.chains)}")
        chain = self.chains[self.chosen]
        if rule.gate_score != self.gate_score:
            raise ValueError(f"the gate of the rule asks {rule.gate_score}, the certificate is of {self.gate_score}")
        if (rule.tau, rule.t1) != (chain.tau, chain.t1):
            raise ValueError("tau and t1 are not those that were tested")
        walked = self.mode != "coverage" and self.algorithm != "A" and self.multiplicity == "chains"
        if walked and not chain.may_end_at(rule.t0):
            raise ValueError(f"t0 = {rule.t0} is not where a walk of {chain.tested} steps over this grid stops")
        if not walked and chain.grid and rule.t0 not in chain.grid:
            raise ValueError(f"t0 = {rule.t0} is not among the values that were tested")

    def _check_proof(self) -> None:
        """Every claim holds at a level that the mode and the algorithm grant, and none is missing."""
        for item in self.evidence:
            if not item.holds:
                raise ValueError(f"the p-value {item.p_value} does not certify {item.claim} at level {item.level:g}")
            granted = self.spent / self._shares()
            if item.level > granted * (1 + 1e-9):
                raise ValueError(f"a claim was tested at level {item.level:g}, {granted:g} is granted")
        main = [item for item in self.evidence if item.risk is self.risk and not item.subgroup]
        if len(main) != 1 or main[0].bound != self.alpha:
            raise ValueError(f"the evidence that {self.risk} is at most {self.alpha} is missing")
        proved = self.risks.get(self.risk)
        if proved is None or (proved.events, proved.trials) != (main[0].events, main[0].trials):
            raise ValueError(f"the count of {self.risk} is not that of the evidence")
        if self.mode == "coverage" and not any(item.claim == "coverage" for item in self.evidence):
            raise ValueError("the evidence of the exit coverage is missing")
        self._check_rates()

    def _check_rates(self) -> None:
        """What is printed beside the proof follows from its counts, and no subgroup is missing."""
        loose = [item.subgroup for item in self.evidence if item.subgroup and item.bound > MOST_SLACK * self.alpha]
        if loose:
            raise ValueError(f"the bound of subgroup {loose[0]!r} is above {MOST_SLACK} times {self.alpha}")
        for rate in (*self.risks.values(), self.exit_coverage, self.positives_exited):
            if rate is not None and not rate.follows(self.bound_delta):
                raise ValueError("a bound is not that of its counts")
        tested = {item.subgroup for item in self.evidence if item.subgroup}
        if self.mode == "balanced" and (not tested or tested != set(self.subgroups)):
            raise ValueError("the evidence of a subgroup is missing")

    def _shares(self) -> int:
        """Into how many parts the level was divided: claims about one rule share none."""
        return len(self.chains) if self.mode == "coverage" or self.multiplicity == "chains" else 1

    def check_binding(self, *, engine_sha256: Sha256, preprocess_sha256: Sha256) -> None:
        """Refuse to be used with anything but what was calibrated.

        Raises:
            CertificateError: the engine file or the preprocess settings are others.
        """
        for what, certified, found in (
            ("engine", self.binding.engine_sha256, engine_sha256),
            ("preprocess", self.binding.preprocess_sha256, preprocess_sha256),
        ):
            if certified != found:
                raise CertificateError(
                    f"the certificate is for {what} {certified[:12]}, this is {found[:12]}: calibrate again"
                )
