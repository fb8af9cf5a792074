"""One certificate that is in use: its audits, the scores of its images, and how it stands."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from miner.live_risk.audit_log import LOG, STATE, AuditLog
from miner.live_risk.hourly import Value
from miner.live_risk.settings import LiveRiskSettings
from stage1.artifacts import Artifact
from stage1.certificate.caution import NO_CAUTION, Caution, statement_under
from stage1.certificate.params import ScrcParams
from stage1.errors import ArtifactError
from stage1.monitor.levels import Standing, standing
from stage1.monitor.martingale import ScoreMartingale
from stage1.monitor.risk_monitor import MonitorState, MonitorTerms
from stage1.policy import ScrcPolicy

SCORES = "scores.json"


class SeenScores(Artifact):
    """`scores.json`: the martingale of scores; written every hour and at the end.

    Attributes:
        counts: scores seen in each cell.
        logs: log wealth of its bets.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    counts: list[int]
    logs: tuple[float, float, float]


def certificate_id(params: ScrcParams) -> str:
    """Names a certificate; see `ScrcParams.name`."""
    return params.name


def caution_after(state: MonitorState, settings: LiveRiskSettings) -> Caution:
    """With what caution the rule of a certificate is used, given what its audits told."""
    if state.alarms and settings.reaction == "defer_all":
        return Caution(state.theta, exits=False)
    if state.alarms and settings.reaction != "observe":
        return Caution(state.theta, exits0=False)
    return Caution(state.theta) if settings.adapt and state.theta else NO_CAUTION


def last_caution(directory: Path, settings: LiveRiskSettings) -> Caution:
    """With what caution a certificate was last used, as far as its directory tells: an alarm is not forgotten.

    Where something is there that cannot be read, nothing exits: it may be an alarm.
    """
    try:
        return caution_after(MonitorState.read(directory / STATE), settings)
    except ArtifactError:
        begun = any(_says_something(directory / name) for name in (STATE, LOG))
        ever = settings.adapt or settings.reaction != "observe"
        return Caution(exits=False) if begun and ever else NO_CAUTION


def _says_something(path: Path) -> bool:
    """Whether there may be anything in a file; a full disk leaves empty ones."""
    try:
        return path.stat().st_size > 0
    except OSError as error:
        return not isinstance(error, FileNotFoundError)


def policy_with(params: ScrcParams, caution: Caution) -> ScrcPolicy:
    """The policy of a certificate under a caution."""
    policy = ScrcPolicy(params, caution)
    # Computed here, and not by the first request.
    _ = policy.rule
    return policy


def terms_of(params: ScrcParams, settings: LiveRiskSettings) -> MonitorTerms:
    """What is watched of a certificate."""
    return MonitorTerms.for_certificate(params.risk, params.alpha, settings.shares, settings.test, settings.adaptation)


class CertificateWatch:
    """The watch on one certificate.

    Args:
        directory: of this certificate.
        params: the certificate.
        bundle: that it was met in.
        settings: of the watch.
        now: the time to record.

    Attributes:
        settings: of the watch; those of its tests are in force from the beginning.

    Raises:
        ArtifactError: what was written before cannot be read.
    """

    def __init__(
        self, directory: Path, params: ScrcParams, bundle: str, settings: LiveRiskSettings, *, now: datetime
    ) -> None:
        self.params = params
        self.bundle = bundle
        self.audits = AuditLog(directory, certificate_id(params), terms_of(params, settings), now=now)
        self.scores = _read_scores(directory / SCORES)
        self.standing = Standing()
        self.settings = settings
        self.stand(now)

    @property
    def caution(self) -> Caution:
        """With what caution its rule is used now."""
        return caution_after(self.audits.book.state, self.settings)

    def stand(self, now: datetime) -> Standing | None:
        """Look at it again; what it was before, if the level or a reason changed."""
        before, book = self.standing, self.audits.book
        self.standing = standing(
            before,
            book.state,
            book.terms,
            self.settings.levels,
            log_drift=self.scores.log_wealth,
            backlog_h=self.backlog_h(now),
        )
        same = (
            before.level == self.standing.level
            and (before.reasons or {}).keys() == (self.standing.reasons or {}).keys()
        )
        return None if same else before

    def backlog_h(self, now: datetime) -> float:
        """Age of the oldest audit that waits, in hours."""
        oldest = next(iter(self.audits.book.waiting.values()), None)
        return 0.0 if oldest is None else max(0.0, (now - oldest.drawn.at).total_seconds() / 3600)

    def keep_scores(self) -> None:
        """Write what only memory knows."""
        logs = self.scores.logs[0], self.scores.logs[1], self.scores.logs[2]
        SeenScores(counts=self.scores.counts, logs=logs).write(self.audits.directory / SCORES)

    def readings(self) -> dict[str, Value]:
        """What the row of an hour says of it."""
        book = self.audits.book
        state, (lower, upper) = book.state, book.state.interval(book.terms)
        return {
            "losses": state.losses,
            "trials": state.trials,
            "estimate": None if state.estimate is None else round(state.estimate, 6),
            "lower": lower,
            "upper": upper,
            "e_value": float(f"{math.exp(min(state.log_e_value, 700.0)):.6g}"),
            "change": float(f"{math.exp(min(state.log_change, 700.0)):.6g}"),
            "drift": float(f"{math.exp(min(self.scores.log_wealth, 700.0)):.6g}"),
            "theta": round(state.theta, 6),
            "level": self.standing.level,
            "waiting": len(book.waiting),
        }

    def status(self, now: datetime, *, has_stage2: bool = True) -> dict[str, Any]:
        """Plain values for the status.

        Args:
            now: UTC.
            has_stage2: whether there is anybody but people to ask.
        """
        book = self.audits.book
        rule, caution = self.params.rule, self.caution
        used = caution.applied(rule)
        return {
            "certificate": certificate_id(self.params),
            "bundle": self.bundle,
            "level": self.standing.level,
            "sentence": self.standing.sentence,
            "reasons": sorted(self.standing.reasons or {}),
            "watched": {"risk": book.terms.risk.value, "alpha": book.terms.alpha},
            **{name: value for name, value in self.readings().items() if name != "level"},
            "waiting_h": round(self.backlog_h(now), 2),
            "for_people": len(book.unlabelled(has_stage2=has_stage2)),
            "alarms": dict(book.state.alarms),
            "alarmed_at": None if book.state.alarmed_at is None else book.state.alarmed_at.isoformat(),
            "t0_certified": None if rule is None else rule.t0,
            "t0_used": None if used is None or not caution.exits0 else used.t0,
            "exits_as_0": used is not None and caution.exits0,
            "exits": used is not None,
            "statement": statement_under(self.params, caution),
        }


def _read_scores(path: Path) -> ScoreMartingale:
    """What a martingale has seen; nothing, where that cannot be read: it is an early warning, and no evidence."""
    try:
        seen = SeenScores.read(path)
    except ArtifactError:
        return ScoreMartingale()
    return ScoreMartingale(seen.counts, seen.logs)
