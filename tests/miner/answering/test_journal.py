"""The journal on a disk that is full, and behind a line that a crash cut short."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from engines.machine.tally import Tally
from miner.answering.journal import FILE, Journal, JournalFile, newest_first, read_journal
from miner.answering.record import RequestRecord

LIMIT_S = 60.0


def record(number: int) -> RequestRecord:
    return RequestRecord(
        request_id=str(number),
        at=datetime(2026, 1, 1, tzinfo=UTC),
        hotkey="5F",
        result="answered",
        answer=0.5,
        total_ms=1.0,
    )


def read(directory: Path) -> list[str]:
    return [found.request_id for found in read_journal(directory)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to be had")
def test_a_full_disk_is_told_once_and_costs_no_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It was a traceback that is no JSON for every request."""
    (tmp_path / FILE).symlink_to("/dev/full")
    with capture_logs() as logs:
        journal = JournalFile(tmp_path)
        for number in range(1000):
            journal.append(record(number))
        assert journal.lost == 1000
        # There is room again.
        (tmp_path / FILE).unlink()
        journal.append(record(1000))
        journal.append(record(1001))
        journal.close()
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("journal_failed", "record_lost")]
    assert "No space left" in logs[0]["example"]["message"]
    assert read(tmp_path) == ["1000", "1001"]
    assert capfd.readouterr().err == ""


def test_a_line_that_a_crash_cut_short_swallows_no_other(tmp_path: Path) -> None:
    journal = JournalFile(tmp_path)
    journal.append(record(1))
    journal.append(record(2))
    journal.close()
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-20])
    journal = JournalFile(tmp_path)
    for number in (3, 4):
        journal.append(record(number))
    journal.close()
    assert read(tmp_path) == ["1", "3", "4"]


def test_a_line_that_was_cut_within_a_letter_is_skipped(tmp_path: Path) -> None:
    """A reason is in the words of a server: it may have letters of several bytes."""
    whole = record(2).model_copy(update={"stage2_reason": "überlastet"}).model_dump_json(exclude_none=True).encode()
    torn = whole[: whole.index("ü".encode()) + 1]
    lines = [record(1).model_dump_json().encode(), torn, record(3).model_dump_json().encode()]
    (tmp_path / FILE).write_bytes(b"\n".join(lines))
    assert read(tmp_path) == ["1", "3"]
    assert [found.request_id for found in newest_first(tmp_path)] == ["3", "1"]


def test_a_record_of_the_version_before_is_read(tmp_path: Path) -> None:
    line = record(1).model_dump_json(exclude_none=True).replace('"schema_version":2', '"schema_version":1')
    (tmp_path / FILE).write_text(f"{line}\n")
    assert read(tmp_path) == ["1"]


def test_a_new_file_that_cannot_be_opened_takes_no_full_one_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process has no file descriptor left for a moment."""
    monkeypatch.setattr("miner.answering.journal.MAX_BYTES", 500)
    journal, number = JournalFile(tmp_path), 0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    while not journal.lost:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            journal.append(record(number))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        number += 1
    lost, most = number - 1, number + 8
    for later in range(number, most):
        journal.append(record(later))
    journal.close()
    lines = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines() if line]
    found = {RequestRecord.model_validate_json(line).request_id for line in lines}
    assert found == {str(one) for one in range(most) if one != lost}


@pytest.mark.parametrize("moves", range(1, 4))
def test_a_crash_while_a_new_file_is_begun_loses_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    """Files are moved one after the other; whichever move is the last, every record is found and kept."""

    class Crash(BaseException):
        pass

    monkeypatch.setattr("miner.answering.journal.MAX_BYTES", 500)
    done: list[int] = []
    replace, rename = os.replace, os.rename

    def moving(move: Callable[..., None]) -> Callable[..., None]:
        def one(source: str, target: str) -> None:
            done.append(1)
            if len(done) > moves:
                raise Crash
            move(source, target)

        return one

    journal = JournalFile(tmp_path)
    for number in range(8):
        journal.append(record(number))
    with monkeypatch.context() as patch:
        patch.setattr("miner.answering.journal.os.replace", moving(replace))
        patch.setattr("logging.handlers.os.rename", moving(rename))
        written = 8
        try:
            for written in range(8, 30):
                journal.append(record(written))
        except Crash:
            pass
    assert done
    before = next(newest_first(tmp_path), None)
    assert before is not None
    assert before.request_id == str(written - 1)
    journal = JournalFile(tmp_path)
    for number in range(100, 104):
        journal.append(record(number))
    journal.close()
    kept = [found for path in tmp_path.iterdir() for found in path.read_text().splitlines()]
    numbers = {int(RequestRecord.model_validate_json(line).request_id) for line in kept}
    assert {*range(written), *range(100, 104)} <= numbers


@pytest.mark.parametrize("whole", [False, True], ids=["the file", "the directory"])
def test_records_go_where_the_path_leads_after_it_was_moved(tmp_path: Path, whole: bool) -> None:
    """They went into a file without a name, and nobody was told."""
    directory = tmp_path / "state"
    journal = JournalFile(directory)
    journal.append(record(1))
    if whole:
        directory.rename(tmp_path / "moved")
    else:
        (directory / FILE).rename(tmp_path / FILE)
    with capture_logs() as logs:
        journal.append(record(2))
        journal.append(record(3))
    journal.close()
    assert read(directory) == ["2", "3"]
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("journal_failed", "file_lost")]
    assert journal.lost == 0


def test_a_file_that_cannot_be_renamed_grows_on_and_takes_no_older_one_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miner.answering.journal.MAX_BYTES", 500)
    journal = JournalFile(tmp_path)
    for number in range(20):
        journal.append(record(number))
    before = sorted(path.name for path in tmp_path.iterdir())

    def refused(*_: object) -> None:
        raise PermissionError(1, "not permitted")

    with monkeypatch.context() as patch:
        patch.setattr("miner.answering.journal.os.replace", refused)
        for number in range(20, 40):
            journal.append(record(number))
    journal.close()
    assert journal.lost == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert read(tmp_path)[-20:] == [str(number) for number in range(20, 40)]


def test_records_are_read_from_the_end_across_files_and_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [record(number).model_dump_json() for number in range(40)]
    (tmp_path / f"{FILE}.1").write_text("\n".join(lines[:15]) + "\n")
    # A crash has cut the last line short.
    (tmp_path / FILE).write_text("\n".join(lines[15:]) + '\n{"request_id": "cut')
    for block in (1, 7, 300, 2**16):
        monkeypatch.setattr("miner.answering.journal.BLOCK_BYTES", block)
        assert [found.request_id for found in newest_first(tmp_path)] == [str(number) for number in range(39, -1, -1)]
    assert list(newest_first(tmp_path / "nowhere")) == []


class Stuck(JournalFile):
    """A file whose disk hangs until it is told to go on."""

    goes_on = threading.Event()

    def append(self, record: RequestRecord) -> None:
        assert threading.current_thread() is not threading.main_thread()
        self.goes_on.wait(LIMIT_S)
        super().append(record)


class TestThread:
    def test_a_record_is_in_the_file_when_its_answer_leaves(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("miner.answering.journal.MOMENT_S", LIMIT_S)

        async def scenario() -> None:
            journal = Journal(tmp_path)
            for number in range(20):
                journal.on_answer(record(number))
                await journal.written()
                assert read(tmp_path)[-1:] == [str(number)]
            journal.close()

        asyncio.run(scenario())

    def test_a_disk_that_hangs_costs_no_answer_and_after_so_many_records_the_next_ones(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("miner.answering.journal.JournalFile", Stuck)
        monkeypatch.setattr("miner.answering.journal.MOST_WAITING", 3)
        monkeypatch.setattr("miner.answering.journal.MOMENT_S", 0.01)
        monkeypatch.setattr("miner.answering.journal.CLOSE_S", 0.01)

        async def scenario() -> Journal:
            tally = Tally("journal_failed")
            journal = Journal(tmp_path, tally)
            journal.on_answer(record(0))
            while journal.disk.waiting:
                await asyncio.sleep(0.001)
            for number in range(1, 6):
                journal.on_answer(record(number))
                await journal.written()
            assert tally.counts == {"record_lost": 2}
            assert journal.disk.hangs_s > 0
            # The end of the miner does not wait for it either.
            journal.close()
            return journal

        journal = asyncio.run(scenario())
        Stuck.goes_on.set()
        journal.disk.submit(lambda: None).result(LIMIT_S)
        assert read(tmp_path) == ["0", "1", "2", "3"]

    @pytest.mark.parametrize("of", ["the file", "the machine"])
    def test_a_record_that_nobody_foresaw_to_be_lost_is_counted(
        self, of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: object) -> None:
            raise RuntimeError("nobody foresaw it")

        tally = Tally("journal_failed")
        journal = Journal(tmp_path, tally)
        with monkeypatch.context() as patched:
            if of == "the file":
                patched.setattr(JournalFile, "append", fails)
            else:
                patched.setattr(threading.Thread, "start", fails)
            journal.on_answer(record(0))
            if of == "the file":
                journal.disk.submit(lambda: None).result(LIMIT_S)
        assert tally.counts == {"record_lost": 1}
        journal.on_answer(record(1))
        journal.close()
        assert read(tmp_path) == ["1"]
