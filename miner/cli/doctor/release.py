"""Whether the last look for a newer release has found one; the doctor itself asks nobody."""

from __future__ import annotations

from miner.cli.doctor.diagnosis import Finding, ok, warning
from miner.settings import MinerSettings
from miner.update.check import installed_version, last_answer


def release(settings: MinerSettings) -> list[Finding]:
    """What `cascade update check` or the miner found last; nothing where nobody has looked."""
    found = last_answer(settings.state)
    if found is None:
        return []
    installed, day = installed_version(), found.checked_at[:10]
    if found.newer_than(installed):
        told = f"{found.newest} is published, as of {day}; {installed} is installed"
        return [warning("release", told, "`cascade update check` says what is new, docs/updating.md how to take it")]
    return [ok("release", f"{installed}, and nothing newer as of {day}")]
