"""The state of a certificate that is in use, and how an audit changes it: a pure function, restored to the last bit."""

from __future__ import annotations

import math
from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field

from stage1.artifacts import Artifact
from stage1.certificate.risks import Risk
from stage1.monitor.adaptation import theta_after
from stage1.monitor.audit import Audit, increment, watched_risk
from stage1.monitor.e_process import detector_after, log_mean_detector, log_mean_wealth, wagers, wealth_after
from stage1.monitor.interval import Table, fresh_games, games_after, interval
from stage1.monitor.settings import LEAST_SHARE, AdaptationSettings, AuditShares, SequentialSettings
from stage1.settings import Section

Alarm = Literal["violated", "changed"]


class MonitorTerms(Section):
    """What is watched, and how.

    Attributes:
        risk: D2, D3 or D4.
        alpha: the certified limit of it.
        shares: of exits that are audited.
        test: the tests.
        adaptation: of t0.
    """

    risk: Risk = Risk.MISS_EXIT
    alpha: float = Field(default=0.02, gt=0, lt=1)
    shares: AuditShares = AuditShares()
    test: SequentialSettings = SequentialSettings()
    adaptation: AdaptationSettings = AdaptationSettings()

    @classmethod
    def for_certificate(
        cls, risk: Risk, alpha: float, shares: AuditShares, test: SequentialSettings, adaptation: AdaptationSettings
    ) -> MonitorTerms:
        """The terms under which a certificate of this risk is watched; see `watched_risk`."""
        return cls(risk=watched_risk(risk), alpha=alpha, shares=shares, test=test, adaptation=adaptation)


class MonitorState(Artifact):
    """Everything that audits have told of one certificate.

    Attributes:
        certificate: id of the certificate.
        audits: audits that were counted.
        trials: trials among them.
        losses: losses among them.
        weighted_trials: sum of the weighted trials.
        weighted_losses: sum of the weighted losses.
        log_wealth: of the e-process, by bet.
        log_detector: log(1 + M) of the change detector, by bet.
        games: log wealth of the games of the interval.
        most_log_wealth: the largest log mean wealth so far; the e-process has alarmed once it was large enough.
        theta: what is taken off t0, in logits.
        alarms: which tests have alarmed, and at which audit.
        alarmed_at: when the first of them did.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    certificate: str
    audits: int = Field(default=0, ge=0)
    trials: int = Field(default=0, ge=0)
    losses: int = Field(default=0, ge=0)
    weighted_trials: float = 0.0
    weighted_losses: float = 0.0
    log_wealth: tuple[float, ...]
    log_detector: tuple[float, ...]
    games: Table = Field(default_factory=fresh_games)
    most_log_wealth: float = 0.0
    theta: float = Field(default=0.0, ge=0)
    alarms: dict[Alarm, int] = Field(default_factory=dict)
    alarmed_at: datetime | None = None

    @classmethod
    def fresh(cls, certificate: str, terms: MonitorTerms) -> MonitorState:
        """The state of a certificate that has just gone live."""
        zeros = (0.0,) * len(terms.test.bets)
        return cls(certificate=certificate, log_wealth=zeros, log_detector=zeros)

    @property
    def estimate(self) -> float | None:
        """Risk by weighted counts, None without a trial."""
        return self.weighted_losses / self.weighted_trials if self.weighted_trials > 0 else None

    def interval(self, terms: MonitorTerms) -> tuple[float, float]:
        """Lower and upper end of the risk; see `stage1.monitor.interval.interval`."""
        return interval(self.games, terms.test.interval_delta)

    @property
    def log_e_value(self) -> float:
        """Log of the evidence that the risk is above its limit."""
        return log_mean_wealth(self.log_wealth)

    @property
    def log_change(self) -> float:
        """Log of the statistic of the change detector, -inf at the beginning."""
        return log_mean_detector(self.log_detector)


def after_audit(state: MonitorState, audit: Audit, terms: MonitorTerms, *, at: datetime | None = None) -> MonitorState:
    """The state after one more audit; audits are taken in the order of their requests.

    A hit that comes late would keep the wealth larger than it is, so later audits wait for it.

    Args:
        state: before it.
        audit: with its verdict.
        terms: what is watched.
        at: the time to record of an alarm.
    """
    added = increment(terms.risk, audit)
    # Shares may have been larger when this audit was drawn; the bets that all audits allow are known before it.
    least = min(terms.shares.least, audit.share)
    bets = wagers(terms.test.bets, terms.alpha, least)
    x = added.loss - terms.alpha * added.trial
    log_wealth, log_detector, games = state.log_wealth, state.log_detector, state.games
    if added.loss or added.trial:
        log_wealth, log_detector = wealth_after(log_wealth, bets, x), detector_after(log_detector, bets, x)
        labelled = min(terms.shares.labelled or 1.0, audit.least_label_share)
        games = games_after(games, added.loss, added.trial, least, labelled)
    most = max(state.most_log_wealth, log_mean_wealth(log_wealth))
    audits = state.audits + 1
    alarms = dict(state.alarms)
    if most >= -math.log(terms.test.delta):
        alarms.setdefault("violated", audits)
    if log_mean_detector(log_detector) >= math.log(terms.test.run_length):
        alarms.setdefault("changed", audits)
    return state.model_copy(
        update={
            "audits": audits,
            "trials": state.trials + added.trial_seen,
            "losses": state.losses + added.loss_seen,
            "weighted_trials": state.weighted_trials + added.trial,
            "weighted_losses": state.weighted_losses + added.loss,
            "log_wealth": log_wealth,
            "log_detector": log_detector,
            "games": games,
            "most_log_wealth": most,
            "theta": theta_after(state.theta, x, gamma=step(terms), most=terms.adaptation.most),
            "alarms": alarms,
            "alarmed_at": state.alarmed_at or (at if alarms else None),
        }
    )


def step(terms: MonitorTerms) -> float:
    """Step of the adaptation: rarer audits weigh more, and take smaller steps for it.

    `gamma` is that of exits with 0 of which 0.3 are audited; see the shares.
    """
    return terms.adaptation.gamma * min(1.0, max(terms.shares.exit0, LEAST_SHARE) / 0.3)
