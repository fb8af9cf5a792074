"""What `cascade retrain` says when a night is over."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from miner.cli.retrain.outcome import shown, summary, told
from offline.certify.look_words import look_words
from offline.disk_use import DiskUse
from offline.night import NightOutcome
from offline.publish.gate import Publication
from stage1.certificate.params import ScrcParams

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


def test_a_night_ends_in_ten_lines_of_plain_text(certificate: Callable[..., ScrcParams]) -> None:
    params = certificate()
    publication = Publication(
        bundle="b" * 16,
        champion="c" * 16,
        verdict="KEEP",
        reasons=("worse by 0.1",),
        test_rows=120,
        mcc=0.8,
        reward=0.7,
    )
    night = NightOutcome(
        Path("runs/2"),
        "publish",
        publication,
        params,
        before=params,
        times=(("splits", 5.0), ("train_supervised", 4000.0), ("export", 50.0), ("publish", 1.0)),
        disk=DiskUse(2_300_000_000, 400_000_000, 80_000_000_000),
    )
    lines = summary(night, publication, params)
    assert len(lines) == 10
    assert [line.split("  ")[0].strip() for line in lines] == [
        "verdict",
        "why",
        "champion before",
        "certificate",
        "looks left",
        "exit coverage",
        "Stage-1 alone",
        "disk",
        "time",
        "report",
    ]
    text = "\n".join(lines)
    assert text.isascii() or text.isprintable()
    assert f"KEEP: bundle {'b' * 16} stays a challenger" in text
    assert "5 of 6 on these rows; 17% of delta is spent on these rows" in text
    rate = params.exit_coverage
    assert rate is not None
    share = f"{rate.events / rate.trials:.1%}"
    assert f"{share} before, {share} now" in text
    assert "workspace 2.3 GB, store 0.4 GB more, 80.0 GB free" in text
    assert "68 min, of which train_supervised 67 min, export 50 s, splits 5 s" in text
    assert "MCC 0.800, simulated reward 0.700, on 120 test rows" in text


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"looks": 3}, "2 of 3 on these rows; 33% of delta is spent on these rows"),
        ({"spending": "single_use"}, "each certificate has all of delta, and holds only by itself"),
        ({"spending": "nights"}, "without end, each of less; 61% of delta is spent on these rows"),
    ],
)
def test_the_looks_that_are_left_are_those_of_the_spending(
    certificate: Callable[..., ScrcParams], asked: dict[str, object], words: str
) -> None:
    assert look_words(certificate(**asked)) == words


def test_an_unfinished_night_is_told_before_the_one_after_it() -> None:
    night = replace(OUTCOME, first=replace(OUTCOME, run=Path("runs/0")))
    lines = told(night).splitlines()
    assert lines[0] == "The unfinished night:"
    assert lines.index("splits is done; its files are in runs/0") < lines.index("The night after it:")
    assert lines[-1] == "splits is done; its files are in runs/1"
