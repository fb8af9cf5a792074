"""Audits on disk: a process may be killed between any two writes, and in the middle of one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from miner.live_risk.audit_events import Drawn, Labelled, Said
from miner.live_risk.audit_log import BEFORE, IMAGES, LOG, AuditLog, read_book
from miner.live_risk.inbox import AuditLabel, Inbox
from stage1 import artifacts
from stage1.artifacts import append_bytes
from stage1.errors import ArtifactError
from stage1.monitor.risk_monitor import MonitorState, MonitorTerms
from stage1.monitor.settings import AuditShares, SequentialSettings

TERMS = MonitorTerms()
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CERTIFICATE = "c" * 16
# What exits as, what Stage-2 says, what a person says where asked.
STREAM = [(0, 0.1, 0), (1, 0.9, 1), (0, 0.8, 1), (0, 0.9, 0), (1, 0.2, 1), (0, 0.7, 1)]


def drawn(number: int, exit_label: int = 0, **changes: object) -> Drawn:
    fields: dict[str, object] = {
        "number": number,
        "at": NOON + timedelta(minutes=number),
        "request_id": f"r{number}",
        "hotkey": "validator",
        "image_sha256": "a" * 64,
        "picture": number,
        "site": number,
        "exit_label": exit_label,
        "score": -3.0,
        "select_score": 2.0,
        "probability": 0.05,
        "share": TERMS.shares.of(1 if exit_label else 0),
        "drawn": 0.01,
        "label_share": 0.0,
        "label_drawn": False,
        "theta": 0.0,
        "bundle": "b",
    }
    return Drawn.model_validate(fields | changes)


def said(number: int, probability: float) -> Said:
    return Said(number=number, at=NOON + timedelta(hours=1, minutes=number), server="expert", probability=probability)


def labelled(number: int, label: int) -> Labelled:
    return Labelled.model_validate({"number": number, "at": NOON + timedelta(hours=2), "label": label, "by": "person"})


def opened(directory: Path, terms: MonitorTerms = TERMS, most_bytes: int = 2**20) -> AuditLog:
    return AuditLog(directory, CERTIFICATE, terms, now=NOON, most_bytes=most_bytes)


def drive(directory: Path, most_bytes: int = 2**20) -> None:
    """What a miner does with a stream; begins anew wherever it was ended."""
    log, inbox = opened(directory / "stream", most_bytes=most_bytes), Inbox(directory)
    for number, (exit_label, probability, _) in enumerate(STREAM, start=1):
        if log.book.next_number <= number:
            log.draw(drawn(number, exit_label), b"picture of %d" % number)
        if (one := log.book.waiting.get(number)) is not None and one.said is None:
            assert log.picture(number) == b"picture of %d" % number
            log.add(said(number, probability))
    wanted = {one.drawn.number for one in log.book.unlabelled()}
    if wanted and not list(inbox.waiting()):
        labels = [AuditLabel(certificate=CERTIFICATE, number=n, label=STREAM[n - 1][2]) for n in sorted(wanted)]
        inbox.put(labels)
    for path, labels in inbox.waiting():
        for label in labels:
            log.add(labelled(label.number, label.label))
        path.unlink()


def killed_at(write: int, work: Callable[[], None]) -> bool:
    """Run it in a child that is killed at its n-th write, of a line in the middle; whether that came."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)
    writes = 0

    def once_more(cut: Callable[[], None] = lambda: None) -> None:
        nonlocal writes
        writes += 1
        if writes == write:
            cut()
            os.kill(os.getpid(), signal.SIGKILL)

    def before(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **kwargs: object) -> object:
            once_more()
            return call(*args, **kwargs)

        return counted

    def appended(path: Path, lines: bytes) -> None:
        def half() -> None:
            with path.open("ab") as file:
                file.write(lines[: len(lines) // 2])

        once_more(half)
        append_bytes(path, lines)
        once_more()

    artifacts.append_bytes = appended
    # A file that was written and not yet renamed is as good as none.
    os.replace, os.unlink = before(os.replace), before(os.unlink)  # type: ignore[assignment]
    try:
        work()
    except BaseException:  # noqa: BLE001  a child of a test says so by its status
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize("most_bytes", [2**20, 3000])
def test_a_kill_between_any_two_writes_loses_nothing_and_counts_nothing_twice(tmp_path: Path, most_bytes: int) -> None:
    drive(tmp_path / "whole", most_bytes)
    whole = read_book(tmp_path / "whole" / "stream", CERTIFICATE, TERMS)
    assert whole.state.audits == len(STREAM)
    assert whole.state.losses == 2
    assert whole.waiting == {}
    write = 0
    while True:
        write += 1
        home = tmp_path / f"killed at {write}"
        was_killed = killed_at(write, lambda home=home: drive(home, most_bytes))  # type: ignore[misc]
        drive(home, most_bytes)
        found = read_book(home / "stream", CERTIFICATE, TERMS)
        assert found.state.to_json() == whole.state.to_json(), f"killed at write {write}"
        assert list((home / "stream" / IMAGES).iterdir()) == []
        if not was_killed:
            break
    assert write > 40
    assert (tmp_path / "whole" / "stream" / BEFORE).exists() == (most_bytes < 2**20)


def test_a_later_verdict_waits_for_an_earlier_one(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for number in (1, 2, 3):
        log.draw(drawn(number, 1), b"x")
    log.add(said(3, 0.9))
    log.add(said(2, 0.9))
    assert log.book.state.audits == 0
    log.add(said(1, 0.9))
    assert log.book.state.audits == 3


def test_a_flag_waits_for_a_person_and_nothing_is_counted_before(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.draw(drawn(1), b"x")
    log.add(said(1, 0.99))
    assert [one.drawn.number for one in log.book.flagged()] == [1]
    assert (log.book.state.audits, log.picture(1)) == (0, b"x")
    log.add(labelled(1, 1))
    assert (log.book.state.losses, log.picture(1)) == (1, None)


def test_what_is_told_twice_counts_once(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for _ in range(2):
        log.draw(drawn(1, 1), b"x")
        log.add(said(1, 0.9))
        log.add(said(1, 0.1))
        log.add(labelled(1, 0))
    assert (log.book.state.audits, log.book.state.trials) == (1, 1)


def test_what_is_labelled_without_being_asked_for_does_not_count(tmp_path: Path) -> None:
    """With a labelled share: only what was drawn for it may stand for the rest."""
    terms = MonitorTerms(shares=AuditShares(labelled=0.1))
    log = opened(tmp_path, terms)
    log.draw(drawn(1, label_share=0.1, label_drawn=False), b"x")
    log.draw(drawn(2, label_share=0.1, label_drawn=True), b"x")
    log.add(said(1, 0.1))
    log.add(said(2, 0.1))
    assert log.book.state.audits == 1
    assert [one.drawn.number for one in log.book.unlabelled()] == [2]
    log.add(labelled(2, 1))
    assert log.book.state.weighted_losses == pytest.approx(1 / 0.3 / 0.1)


def test_a_certificate_keeps_its_tests_and_takes_other_shares(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.draw(drawn(1, 1), b"x")
    log.add(said(1, 0.9))
    other = MonitorTerms(shares=AuditShares(exit0=0.5), test=SequentialSettings(delta=0.5, bets=(0.5,)))
    again = opened(tmp_path, other)
    assert again.book.terms.test == TERMS.test
    assert again.book.terms.shares.exit0 == 0.5
    assert again.book.state == log.book.state


def test_a_certificate_without_audits_begins_with_the_tests_of_its_first_event(tmp_path: Path) -> None:
    opened(tmp_path)
    again = opened(tmp_path, MonitorTerms(test=SequentialSettings(bets=(0.5,))))
    again.draw(drawn(1, 1), b"x")
    again.add(said(1, 0.9))
    assert len(again.book.state.log_wealth) == len(TERMS.test.bets)


def test_a_damaged_event_is_named(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.draw(drawn(1), b"x")
    path = tmp_path / LOG
    path.write_bytes(path.read_bytes().replace(b'"share":0.3', b'"share":7.0'))
    with pytest.raises(ArtifactError, match=r"line 2: .*share.*move .* away"):
        opened(tmp_path)


def test_the_state_is_there_to_be_read(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.draw(drawn(1, 1), b"x")
    log.add(said(1, 0.9))
    assert MonitorState.read(tmp_path / "monitor.json") == log.book.state
