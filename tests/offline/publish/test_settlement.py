"""One night at a time settles a store: the others wait, are told for whom, and take the place of the dead alone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import offline.publish.settlement
from engines.machine.clock import utc_now
from offline.errors import PipelineBusy
from offline.publish.settlement import RECORD, Holder, settlement

CHILD = Path(__file__).with_name("settlement_child.py")
AT = datetime(2026, 4, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline.publish.settlement, "POLL_S", 0.01)


class Clock:
    """Monotonic time that passes by a second a look."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        self.at += 1.0
        return self.at


def record(**changes: Any) -> Holder:
    fields: dict[str, Any] = {
        "token": "t",
        "owner": "/other/workspace",
        "host": "other-host",
        "boot": "another machine",
        "pid": 77,
        "since": AT,
        "expires_at": AT,
        "silence_s": 20.0,
    }
    return Holder.model_validate(fields | changes)


@contextmanager
def child(store: Path, silence_s: float = 60.0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(CHILD), str(store), "/first/workspace", str(silence_s)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def test_it_is_taken_and_given_back_without_a_trace(tmp_path: Path) -> None:
    for _ in range(2):
        with settlement(tmp_path, tmp_path / "work", now=utc_now) as held:
            held.check()
            there = Holder.read(tmp_path / RECORD)
            assert there.owner == str(tmp_path / "work")
        assert not (tmp_path / RECORD).exists()
    assert [path.name for path in tmp_path.iterdir()] in ([], [".settlement.lock"])


def test_an_error_gives_it_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), settlement(tmp_path, tmp_path, now=utc_now):
        raise ZeroDivisionError
    assert not (tmp_path / RECORD).exists()


def test_another_process_is_told_who_holds_it_and_takes_it_when_that_is_killed(tmp_path: Path) -> None:
    notes: list[str] = []
    with child(tmp_path) as first:
        told = r"the night of /first/workspace on .*, process \d+, since .* settles this store; try again when it has"
        with (
            pytest.raises(PipelineBusy, match=told),
            settlement(tmp_path, tmp_path, now=utc_now, note=notes.append, wait_s=0.1),
        ):
            pass
        assert len(notes) == 1
        assert f"process {first.pid}," in notes[0]
        assert Holder.read(tmp_path / RECORD).pid == first.pid
        first.kill()
        first.wait()
        assert Holder.read(tmp_path / RECORD).pid == first.pid, "a killed process leaves its record"
        with settlement(tmp_path, tmp_path, now=utc_now, wait_s=0.0) as held:
            held.check()
            assert Holder.read(tmp_path / RECORD).owner == str(tmp_path)


def test_who_waits_goes_on_when_the_other_one_ends(tmp_path: Path) -> None:
    begun, told, ended = threading.Event(), threading.Event(), list[str]()

    def first() -> None:
        with settlement(tmp_path, tmp_path / "first", now=utc_now):
            begun.set()
            told.wait()
            ended.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    with settlement(tmp_path, tmp_path / "second", now=utc_now, note=lambda _: told.set()) as held:
        held.check()
        ended.append("second")
    thread.join()
    assert ended == ["first", "second"]


def test_the_place_of_a_host_that_cannot_be_asked_is_not_taken_before_it_expires(tmp_path: Path) -> None:
    """Its clock may be wrong, so what counts is how long it has not counted up while somebody waited."""
    record().write(tmp_path / RECORD)
    with (
        pytest.raises(PipelineBusy, match="the night of /other/workspace on other-host, process 77, since 2026-04-01"),
        settlement(tmp_path, tmp_path, now=utc_now, wait_s=10.0, clock=Clock()),
    ):
        pass
    assert Holder.read(tmp_path / RECORD) == record()
    clock = Clock()
    with settlement(tmp_path, tmp_path, now=utc_now, wait_s=1000.0, clock=clock) as held:
        held.check()
    assert clock.at > 20


def test_a_host_that_counts_up_is_waited_for(tmp_path: Path) -> None:
    beats = iter(range(100))

    class Alive(Clock):
        def __call__(self) -> float:
            record(beat=next(beats), silence_s=4.0).write(tmp_path / RECORD)
            return super().__call__()

    with (
        pytest.raises(PipelineBusy, match="other-host"),
        settlement(tmp_path, tmp_path, now=utc_now, wait_s=12.0, clock=Alive()),
    ):
        pass
    assert Holder.read(tmp_path / RECORD).host == "other-host"


def test_one_that_was_silent_too_long_changes_nothing_any_more(tmp_path: Path) -> None:
    with settlement(tmp_path, tmp_path, now=utc_now) as held:
        record(token="of another night").write(tmp_path / RECORD)
        with pytest.raises(PipelineBusy, match="was silent for too long and does not settle the store"):
            held.check()
    assert Holder.read(tmp_path / RECORD).token == "of another night", "it is not the one to remove it"


def test_it_counts_up_while_it_works(tmp_path: Path) -> None:
    with settlement(tmp_path, tmp_path, now=utc_now, silence_s=0.2) as held:
        while Holder.read(tmp_path / RECORD).beat < 3:
            held.check()


def test_a_record_that_was_cut_short_is_taken_for_that_of_a_host_that_cannot_be_asked(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_bytes(b'{"schema_version": 1, "tok')
    with (
        pytest.raises(PipelineBusy, match="another night settles this store"),
        settlement(tmp_path, tmp_path, now=utc_now, wait_s=5.0, clock=Clock()),
    ):
        pass
    with settlement(tmp_path, tmp_path, now=utc_now, wait_s=1000.0, clock=Clock()) as held:
        held.check()
