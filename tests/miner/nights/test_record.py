"""What is kept of nights: room is made for new ones, and never at the cost of the last success."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from miner.nights.record import KEPT, VERDICT, Nights, NightVerdict, noted

NIGHT = datetime(2026, 3, 1, 3, 30, tzinfo=UTC)


def fill(nights: Nights, *outcomes: str) -> None:
    for number, outcome in enumerate(outcomes):
        at = NIGHT + timedelta(days=number)
        noted(nights.begin(at), outcome=outcome, ended_at=at, reason="" if outcome == "done" else "no labels")


@pytest.mark.parametrize(
    ("outcomes", "number"),
    [
        (("failed", "failed"), 2),
        (("failed", "done", "failed"), 1),
        (("failed", "stopped", "put_off", "lost", "failed"), 2),
        (("failed", "done"), 0),
        ((), 0),
    ],
)
def test_failures_in_a_row_are_those_since_the_last_success(
    tmp_path: Path, outcomes: tuple[str, ...], number: int
) -> None:
    fill(Nights(tmp_path), *outcomes)
    assert Nights(tmp_path).failures_in_a_row() == number


def test_old_nights_make_room_and_the_last_success_stays(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    fill(nights, "done", *["failed"] * (KEPT + 5))
    assert len(nights.all()) == KEPT + 1
    assert nights.last_success() == NIGHT
    assert nights.all()[0].outcome == "done"


def test_what_another_process_writes_is_seen(tmp_path: Path) -> None:
    nights, others = Nights(tmp_path), Nights(tmp_path)
    home = others.begin(NIGHT)
    assert [night.outcome for night in nights.all()] == ["running"]
    NightVerdict(at=NIGHT, bundle="0123456789", verdict="PROMOTE").write(home / VERDICT)
    noted(home, outcome="done", ended_at=NIGHT)
    [night] = nights.all()
    assert (night.outcome, night.in_words) == ("done", "PROMOTE 01234567")


def test_a_night_whose_record_a_crash_kept_from_being_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "nights" / "20260301T033000.000000Z").mkdir(parents=True)
    assert Nights(tmp_path).all() == []
