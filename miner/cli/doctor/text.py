"""Findings for a person: one line each in a file or a pipe, a table with room to read it in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from miner.cli.doctor.diagnosis import Finding, Verdict

if TYPE_CHECKING:
    from rich.console import Console

COLOURS: dict[Verdict, str] = {"ok": "green", "warning": "yellow", "error": "bold red"}


def rendered(findings: Sequence[Finding]) -> str:
    """A line for each finding: verdict, check, what was found, what to do."""
    width = max((len(finding.check) for finding in findings), default=0)
    return "\n".join(f"{f.verdict:<8} {f.check:<{width}}  {_whole(f)}" for f in findings)


def _whole(finding: Finding) -> str:
    # A message of a library may have several lines.
    return " ".join(f"{finding.detail}; {finding.todo}".split() if finding.todo else finding.detail.split())


def summary(findings: Sequence[Finding]) -> str:
    """How many there are of each verdict."""
    errors, warnings = (sum(one.verdict == verdict for one in findings) for verdict in ("error", "warning"))
    told = [_counted(errors, "error"), _counted(warnings, "warning")]
    good = len(findings) - errors - warnings
    return f"{', '.join(one for one in told if one) or 'all is well'}; {good} of {len(findings)} checks are ok"


def _counted(number: int, word: str) -> str:
    return "" if not number else f"{number} {word}{'' if number == 1 else 's'}"


def show(findings: Sequence[Finding], console: Console) -> None:
    """Draw a table.

    Args:
        findings: of the checks.
        console: a terminal.
    """
    from rich.table import Table  # noqa: PLC0415  a pipe does not need it
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for options in ({"no_wrap": True}, {"no_wrap": True}, {"overflow": "fold", "ratio": 1}):
        table.add_column(**options)
    before = ""
    for finding in findings:
        # What was found is text, also where it holds brackets.
        told = Text(" ".join(finding.detail.split()))
        if finding.todo:
            told.append(f"\nto do: {' '.join(finding.todo.split())}", style="bold")
        name = "" if finding.check == before else finding.check
        table.add_row(Text(finding.verdict, style=COLOURS[finding.verdict]), Text(name), told)
        before = finding.check
    console.print(table)
    console.print(Text(f"\n{summary(findings)}", style="bold"))
