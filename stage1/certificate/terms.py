"""The terms of a certificate: what it promises, apart from the numbers that were only measured.

Two certificates are only compared where their terms are the same: more exits at a weaker promise are no improvement. In
mode `coverage` the bound on the risk is found and not asked for, and it is promised all the same: it is one of the
terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from stage1.certificate.params import ScrcParams
from stage1.certificate.risks import Risk
from stage1.certificate.settings import CalibrationSettings, Mode
from stage1.certificate.statistics.percent import at_most, confidence
from stage1.certificate.stream import Era, Stream, era_shares

EXIT_COVERAGE = "exit coverage"
# A bound that is found may differ in its last digits on another machine.
SAME_BOUND = 1e-9


@dataclass(frozen=True)
class Terms:
    """What a certificate promises.

    Attributes:
        mode: what was asked for.
        risk: the risk that is bounded.
        alpha: the bound on it; None in mode `coverage` where nothing is certified.
        delta: one minus the confidence.
        unit: what counts once, a row or a group.
        stream: the pictures that it is true of.
        each_alone: certificates on the same rows hold each by itself, and not together.
        beside: other risks and subgroups that are bounded too, with their bounds.
    """

    mode: Mode
    risk: Risk
    alpha: float | None
    delta: float
    unit: str
    stream: str
    each_alone: bool
    beside: tuple[tuple[str, str, float], ...] = ()

    @classmethod
    def of(cls, params: ScrcParams) -> Terms:
        """Terms of a certificate, or of what was asked for where nothing is certified."""
        main = (params.risk, "")
        beside = sorted(
            {
                (str(e.risk or EXIT_COVERAGE), _spelled(e.subgroup), e.bound)
                for e in params.evidence
                if (e.risk, e.subgroup) != main
            }
        )
        return cls(
            mode=params.mode,
            risk=params.risk,
            alpha=None if params.mode == "coverage" and params.status == "INFEASIBLE" else params.alpha,
            delta=params.delta,
            unit=params.unit,
            stream=_stream(params.stream, params.stream_weights),
            each_alone=params.spending == "single_use",
            beside=tuple(beside),
        )

    @classmethod
    def asked(cls, settings: CalibrationSettings, beside: Terms) -> Terms:
        """Terms of a certificate that is to be made, with the other bounds of one that there is.

        Args:
            settings: what is asked for.
            beside: the certificate that there is; which subgroups a new one bounds, and in mode `coverage` what bound
                it finds, is known when it is made.
        """
        return cls(
            mode=settings.mode,
            risk=settings.risk,
            alpha=beside.alpha if settings.mode == "coverage" else settings.alpha,
            delta=settings.delta,
            unit=settings.unit,
            stream=_stream(settings.stream, settings.stream_weights),
            each_alone=settings.spending == "single_use",
            beside=tuple(sorted(_bounds(settings, beside))),
        )

    @property
    def asked_for(self) -> Terms:
        """The terms without a bound that the calibration found."""
        return replace(self, alpha=None) if self.mode == "coverage" else self

    def weaker_than(self, other: Terms) -> list[str]:
        """In which respects this promises less than another, or something else; empty if in none."""
        found = []
        if self.alpha is not None and other.alpha is not None and self.alpha > other.alpha * (1 + SAME_BOUND):
            found.append("the bound is {} instead of {}".format(*_told_apart(self.alpha, other.alpha)))
        if self.delta > other.delta:
            found.append(f"the confidence is {confidence(self.delta)} instead of {confidence(other.delta)}")
        if self.each_alone and not other.each_alone:
            found.append("each certificate holds only by itself")
        if (self.unit, other.unit) == ("row", "group"):
            found.append("images count and not groups")
        found += [
            f"{field.name} is {getattr(self, field.name)} instead of {getattr(other, field.name)}"
            for field in fields(self)
            if field.name in {"risk", "mode", "stream"} and getattr(self, field.name) != getattr(other, field.name)
        ]
        bounds = {(risk, name): bound for risk, name, bound in self.beside}
        for risk, name, held in other.beside:
            what, bound = f"{risk}{f' of {name}' if name else ''}", bounds.get((risk, name))
            if bound is None:
                found.append(f"{what} is not bounded")
            elif bound < held if risk == EXIT_COVERAGE else bound > held:
                found.append(f"{what} is bounded by {bound:g} instead of {held:g}")
        return found


def _told_apart(ours: float, theirs: float) -> tuple[str, str]:
    """Two bounds in print, with more digits where they would look the same."""
    found = at_most(ours), at_most(theirs)
    return found if found[0] != found[1] else (f"{ours:.10%}", f"{theirs:.10%}")


def _bounds(settings: CalibrationSettings, beside: Terms) -> list[tuple[str, str, float]]:
    """What is asked for beside the main risk, for the subgroups of a certificate that there is."""
    found = [(str(risk), "", bound) for risk, bound in settings.also.items()]
    if settings.mode == "coverage":
        found.append((EXIT_COVERAGE, "", settings.coverage))
    if settings.mode == "balanced":
        bound = settings.subgroup_slack * settings.alpha
        found += [(risk, name, bound) for risk, name, _ in beside.beside if name]
    return found


def _spelled(subgroup: str) -> str:
    """A subgroup in the spelling that tables are read in; a certificate may be older than that."""
    return " ".join(subgroup.casefold().split())


def _stream(stream: Stream, weights: Mapping[Era, float]) -> str:
    """The stream, with the shares of a mixture."""
    if stream != "mixture":
        return stream
    return "mixture of " + ", ".join(f"{share:.0%} {era}" for era, share in era_shares(stream, weights).items())
