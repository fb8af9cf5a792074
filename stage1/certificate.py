"""`scrc_params.json`: the thresholds a policy uses, and what was proved about them."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from stage1.artifacts import Artifact, sha256_json
from stage1.binomial import p_value
from stage1.errors import CertificateError
from stage1.risks import Rate, Risk, Unit

Sha256 = str
Status = Literal["CERTIFIED", "INFEASIBLE"]


class ExitRule(BaseModel):
    """Thresholds of the exit rule, in logits.

    Attributes:
        tau: gate on the selection score.
        t0: exit with label 0 strictly below.
        t1: exit with label 1 at or above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tau: float
    t0: float
    t1: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.t0 > self.t1:
            raise ValueError(f"t0 = {self.t0} is above t1 = {self.t1}")
        return self


class Binding(BaseModel):
    """What a certificate is true of; another engine, preprocess or split needs another certificate.

    Attributes:
        engine_sha256: hash of the engine file whose numbers were calibrated.
        preprocess_sha256: hash of the preprocess settings.
        val_select_sha256: hash of the row ids that chose tau, t1 and the grid.
        val_calib_sha256: hash of the row ids that certified t0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine_sha256: Sha256
    preprocess_sha256: Sha256
    val_select_sha256: Sha256
    val_calib_sha256: Sha256


class ScrcParams(Artifact):
    """Parameters of `ScrcPolicy` and their certificate.

    Attributes:
        status: INFEASIBLE means that no rule could be certified, and everything is deferred.
        reason: why it is infeasible, and what it would take; empty if certified.
        statement: the certificate in words.
        algorithm: `B`, fixed-sequence testing of t0 with the exact binomial p-value.
        risk: the risk that is certified.
        alpha: certified level of that risk.
        delta: one minus the confidence.
        unit: what is independent, a row or a group.
        seed: seed of the draw of one row a group.
        rule: the thresholds, None if infeasible.
        ambiguous_below: deferred images with a lower selection score are AMBIGUOUS.
        grid: candidate values of t0 in the order of testing.
        tested: how many of them were tested.
        rows: rows of val_calib.
        positives: positive units of val_calib.
        p_value: p-value at the certified t0, or at the first value if infeasible; None if nothing was tested.
        risks: every risk at the certified rule, with bounds.
        exit_coverage: units that exit, with bounds.
        positives_exited: positive units that exit, with bounds.
        prior_uses: earlier certifications on the same val_calib rows.
        binding: what the certificate is true of.
        code_version: version of the program that computed it.
        seal: hash of every other field.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    status: Status
    reason: str = ""
    statement: str
    algorithm: Literal["B"] = "B"
    risk: Risk = Risk.MISS_EXIT
    alpha: float = Field(gt=0, lt=1)
    delta: float = Field(gt=0, lt=1)
    unit: Unit
    seed: int
    rule: ExitRule | None
    ambiguous_below: float
    grid: tuple[float, ...] = ()
    tested: int = Field(ge=0)
    rows: int = Field(ge=0)
    positives: int = Field(ge=0)
    p_value: float | None = None
    risks: dict[Risk, Rate] = Field(default_factory=dict)
    exit_coverage: Rate | None = None
    positives_exited: Rate | None = None
    prior_uses: int = Field(default=0, ge=0)
    binding: Binding
    code_version: str
    seal: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """A rule that exits more than was proved is refused."""
        if (self.status == "CERTIFIED") != (self.rule is not None):
            raise ValueError(f"status is {self.status} but the rule is {'missing' if self.rule is None else 'present'}")
        if self.rule is not None:
            self._check_proof(self.rule)
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

    def _check_proof(self, rule: ExitRule) -> None:
        # The last value tested is the one that failed, unless the walk came to the end of the grid.
        proved = {self.grid[self.tested - 2] if 2 <= self.tested <= len(self.grid) else None}
        if self.tested == len(self.grid) > 0:
            proved.add(self.grid[-1])
        if rule.t0 not in proved:
            raise ValueError(f"t0 = {rule.t0} is not where a walk of {self.tested} steps over this grid stops")
        misses = self.risks.get(self.risk)
        if misses is None or self.p_value is None:
            raise ValueError(f"the p-value or the count of {self.risk} is missing")
        p = p_value(misses.events, misses.trials, self.alpha)
        if not math.isclose(p, self.p_value, rel_tol=1e-6):
            raise ValueError(f"the p-value is {self.p_value}, but {misses.events} of {misses.trials} give {p}")
        if p > self.delta:
            raise ValueError(f"the p-value {self.p_value} does not certify at delta = {self.delta}")

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
