"""What one check of `cascade doctor` found."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["ok", "warning", "error"]
ORDER: tuple[Verdict, ...] = ("ok", "warning", "error")


class Finding(BaseModel):
    """One check.

    Attributes:
        check: what was looked at.
        verdict: how it is; `error` where the miner does not start, earns nothing or is in danger.
        detail: what was found.
        todo: what to do about it; empty where nothing is to be done.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: str
    verdict: Verdict
    detail: str
    todo: str = ""

    @property
    def failed(self) -> bool:
        """It is an error."""
        return self.verdict == "error"


class Diagnosis(BaseModel):
    """What `cascade doctor --json` writes. A later version may have more fields, and keeps these.

    Attributes:
        schema_version: of this record.
        program: version of this program.
        at: when it was looked, UTC, ISO 8601.
        subject: the state directory of the miner, or the address of the peer.
        verdict: the worst of the findings.
        findings: in the order of the checks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    program: str
    at: datetime
    subject: str
    verdict: Verdict
    findings: tuple[Finding, ...]


def ok(check: str, detail: str) -> Finding:
    """A check that found nothing wrong."""
    return Finding(check=check, verdict="ok", detail=detail)


def warning(check: str, detail: str, todo: str = "") -> Finding:
    """A check that found what a person should know."""
    return Finding(check=check, verdict="warning", detail=detail, todo=todo)


def error(check: str, detail: str, todo: str = "") -> Finding:
    """A check that found what keeps the miner from its work."""
    return Finding(check=check, verdict="error", detail=detail, todo=todo)


def worst(findings: Iterable[Finding]) -> Verdict:
    """The worst verdict; `ok` if there is none."""
    return max((finding.verdict for finding in findings), key=ORDER.index, default="ok")
