"""Which exits are audited, and what an audit adds to the statistics.

References:
    Waudby-Smith, Ramdas (2024), Estimating means of bounded random variables by betting, JRSS B 86(1).
    Zhang, Cai, Yu, Simeone (2026), Prediction-powered risk monitoring, arXiv 2602.02229.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from stage1.certificate.risks import Risk

ExitLabel = Literal[0, 1]
WATCHED = frozenset({Risk.MISS_EXIT, Risk.FALSE_OMISSION, Risk.ERROR_EXIT})
_WORDS_64 = 2.0**64


def drawn_number(secret: bytes, what: str) -> float:
    """A number in [0, 1) that nobody can foresee without the secret, and everybody can check with it.

    Args:
        secret: key of the hash, 16 to 64 bytes.
        what: names what is drawn for; another text gives an independent number.
    """
    digest = hashlib.blake2b(what.encode(), key=secret, digest_size=8).digest()
    return min(int.from_bytes(digest, "big") / _WORDS_64, 1 - 2.0**-53)


def watched_risk(certified: Risk) -> Risk:
    """The risk that audited exits tell of: the certified one where exits decide it, else the miss rate on exits.

    D1, D2' and D5 are at most D2 (D1, D2') or count what is deferred (D1, D5). Audits of exits say nothing of what is
    deferred, so for those D2 is watched in their place, and an alarm contradicts D2 alone.
    """
    return certified if certified in WATCHED else Risk.MISS_EXIT


def counted(risk: Risk, exit_label: ExitLabel, label: ExitLabel) -> tuple[int, int]:
    """Whether an exit of this label is a loss, and whether it is a trial: `(Z, S)`, each 0 or 1.

    Args:
        risk: D2, D3 or D4.
        exit_label: what the image exits with.
        label: what it shows.
    """
    if risk is Risk.MISS_EXIT:
        return int(label == 1 and exit_label == 0), label
    if risk is Risk.FALSE_OMISSION:
        return (label, 1) if exit_label == 0 else (0, 0)
    if risk is Risk.ERROR_EXIT:
        return int(label != exit_label), 1
    raise ValueError(f"audits of exits do not tell of {risk}")


@dataclass(frozen=True, slots=True)
class Audit:
    """An audited exit whose verdict is known.

    Attributes:
        exit_label: what the image exited with.
        share: chance that it was drawn for an audit.
        said: what Stage-2 says that it shows; None if it was not asked.
        label: what it shows, as a person or a second model that agrees with the first says; None if neither was asked.
        label_share: chance that a label was asked for, given what Stage-2 says; 1 where that is always so, 0 where it
            never is.
        least_label_share: the smallest that it could become, known when the audit was drawn.
    """

    exit_label: ExitLabel
    share: float
    said: ExitLabel | None = None
    label: ExitLabel | None = None
    label_share: float = 1.0
    least_label_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Increment:
    """What an audit adds.

    Attributes:
        loss: weighted loss `Z`.
        trial: weighted trial `S`.
        loss_seen: whether a loss was seen, 0 or 1.
        trial_seen: whether a trial was seen, 0 or 1.
    """

    loss: float
    trial: float
    loss_seen: int
    trial_seen: int


def needs_label(risk: Risk, exit_label: ExitLabel, said: ExitLabel | None, *, confirm_hits: bool = False) -> bool:
    """Whether an audit cannot be counted by what Stage-2 says.

    What would count as a loss is only a flag: nearly all exits with 0 show no roadwork, so a small share of false
    verdicts would make as many misses as there are. A hit that Stage-2 does not see is no trial: the risk is then that
    among the roadwork that Stage-2 sees, which is no larger unless it sees misses better than hits.

    Args:
        risk: D2, D3 or D4.
        exit_label: what the image exited with.
        said: what Stage-2 says; None if it cannot be asked.
        confirm_hits: have such hits labelled as well, so that nothing is assumed of Stage-2.
    """
    if said is None:
        return True
    if said == exit_label:
        return False
    return exit_label == 0 or risk is Risk.ERROR_EXIT or confirm_hits


def increment(risk: Risk, audit: Audit) -> Increment:
    """The weighted counts of one audit.

    Without a label, what Stage-2 says is counted; with one that was drawn with probability q the difference is added
    q times too rarely and weighs 1 / q (augmented inverse propensity weights).

    Args:
        risk: D2, D3 or D4.
        audit: the exit.

    Raises:
        ValueError: it needs a label and has none.
    """
    if audit.label is None and needs_label(risk, audit.exit_label, audit.said):
        raise ValueError("Stage-2 contradicts the exit or was not asked: the audit cannot be counted without a label")
    loss = trial = 0.0
    if audit.said is not None and not needs_label(risk, audit.exit_label, audit.said):
        loss, trial = counted(risk, audit.exit_label, audit.said)
    seen = loss, trial
    if audit.label is not None:
        seen = counted(risk, audit.exit_label, audit.label)
        loss += (seen[0] - loss) / audit.label_share
        trial += (seen[1] - trial) / audit.label_share
    return Increment(loss / audit.share, trial / audit.share, int(seen[0]), int(seen[1]))
