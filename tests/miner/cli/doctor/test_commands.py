"""`cascade doctor` as a person and as a program read it."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from miner.cli.doctor.diagnosis import Diagnosis, Finding, error, ok, warning, worst
from miner.cli.doctor.text import rendered, show, summary
from miner.cli.main import app

FINDINGS: list[Finding] = [
    ok("bundle", "[bold]a[/bold] is well"),
    warning("traffic", "nobody\n asks", "wait"),
    warning("traffic", "nobody at all"),
    error("coldkey", "is here", "shred it"),
]


def test_a_line_has_verdict_check_what_was_found_and_what_to_do() -> None:
    assert rendered(FINDINGS).splitlines() == [
        "ok       bundle   [bold]a[/bold] is well",
        "warning  traffic  nobody asks; wait",
        "warning  traffic  nobody at all",
        "error    coldkey  is here; shred it",
    ]


def test_a_terminal_shows_the_same_and_how_many_there_are() -> None:
    console = Console(file=io.StringIO(), width=60, color_system=None)
    show(FINDINGS, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for part in ("[bold]a[/bold] is well", "to do: wait", "to do: shred it", "1 error, 2 warnings"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 60


def test_the_worst_decides_and_all_is_well_without_one() -> None:
    assert [worst(FINDINGS), worst(FINDINGS[:3]), worst(FINDINGS[:1]), worst([])] == ["error", "warning", "ok", "ok"]
    assert summary(FINDINGS[:1]) == "all is well; 1 of 1 checks are ok"


def test_the_record_for_programs_keeps_its_form() -> None:
    """Programs read it: a field may be added, and none of these may go or change its meaning."""
    told = Diagnosis(
        program="1.2.3",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        subject="/state",
        verdict="error",
        findings=tuple(FINDINGS[2:]),
    )
    assert json.loads(told.model_dump_json()) == {
        "schema_version": 1,
        "program": "1.2.3",
        "at": "2026-01-01T00:00:00Z",
        "subject": "/state",
        "verdict": "error",
        "findings": [
            {"check": "traffic", "verdict": "warning", "detail": "nobody at all", "todo": ""},
            {"check": "coldkey", "verdict": "error", "detail": "is here", "todo": "shred it"},
        ],
    }


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chain.json").write_text("{}")
    return tmp_path


OFFLINE = ["--set", "chain.kind=offline", "--set", "chain.snapshot=chain.json", "--set", "wallet.path=none"]


def test_json_is_all_that_stands_on_standard_output(elsewhere: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--json", *OFFLINE])
    told = Diagnosis.model_validate_json(done.stdout)
    assert (done.exit_code, told.verdict) == (1, "error")
    assert told.subject == str(elsewhere / "cascade-data" / "state")
    checks = {one.check for one in told.findings}
    assert {"bundle", "hotkey", "coldkey", "state", "port", "endpoint", "wire", "chain", "clock", "traffic"} <= checks
    assert {"gpu", "disk", "emission", "registered"} <= checks
    for one in told.findings:
        assert one.verdict == "ok" or one.todo or "; " in one.detail or ": " in one.detail


def test_a_peer_is_looked_at_in_place_of_this_machine() -> None:
    done = CliRunner().invoke(app, ["doctor", "--json", "--peer", "http://127.0.0.1:9", *OFFLINE])
    told = Diagnosis.model_validate_json(done.stdout)
    assert (done.exit_code, told.subject) == (1, "http://127.0.0.1:9")
    assert [one.check for one in told.findings] == ["connect", "on chain"]
    wrong = CliRunner().invoke(app, ["doctor", "--peer", "ftp://x", *OFFLINE])
    assert (wrong.exit_code, "is no address" in wrong.output) == (2, True)
