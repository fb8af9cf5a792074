"""What `cascade retrain` says when a night is over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from miner.cli.retrain import shown, told
from offline.night import NightOutcome

OUTCOME = NightOutcome(Path("runs/1"), "splits", notes=("6 rows are in no set", "3 rows are unreadable"))


def test_notes_on_the_rows_stand_before_where_the_files_are() -> None:
    assert told(OUTCOME).splitlines() == [
        "6 rows are in no set",
        "3 rows are unreadable",
        "splits is done; its files are in runs/1",
    ]


def test_a_program_is_told_the_notes_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(lambda _: OUTCOME, "json") == ""
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"message": "6 rows are in no set"},
        {"message": "3 rows are unreadable"},
        {"run": "runs/1"},
    ]
