from __future__ import annotations

from pathlib import Path

from miner.cli.doctor.release import release
from miner.settings import MinerSettings
from miner.update.check import FILE, UpdateAnswer, installed_version


def answer(state: Path, newest: str | None) -> MinerSettings:
    found = UpdateAnswer(checked_at="2026-12-01T00:00:00+00:00", installed="0.0.1", newest=newest)
    found.write(state / FILE)
    return MinerSettings(state=state)


def test_nothing_is_said_where_nobody_has_looked(tmp_path: Path) -> None:
    assert release(MinerSettings(state=tmp_path)) == []


def test_a_newer_release_is_a_warning_that_says_what_to_do(tmp_path: Path) -> None:
    [found] = release(answer(tmp_path, "99.0.0"))
    assert (found.check, found.verdict) == ("release", "warning")
    assert found.detail == f"99.0.0 is published, as of 2026-12-01; {installed_version()} is installed"
    assert "cascade update check" in found.todo


def test_an_answer_that_is_older_than_the_program_says_nothing_of_it(tmp_path: Path) -> None:
    for newest in (installed_version(), None):
        [found] = release(answer(tmp_path, newest))
        assert (found.verdict, found.detail) == ("ok", f"{installed_version()}, and nothing newer as of 2026-12-01")
