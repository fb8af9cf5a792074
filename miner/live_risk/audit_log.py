"""The audits of one certificate on disk. Each event is written and flushed before anything follows from it.

    streams/CERTIFICATE/audits.jsonl    every event; the state is a function of them
    streams/CERTIFICATE/audits.1.jsonl  those before the first line of `audits.jsonl`, kept for whoever checks the draws
    streams/CERTIFICATE/images/         pictures of the audits that wait
    streams/CERTIFICATE/monitor.json    the state, for people and programs to read; nothing is read from it here

A process that is killed between any two writes loses nothing and counts nothing twice: a picture without its event is
removed, an event whose consequence was not drawn is taken again, and one that was cut short did not happen.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from miner.live_risk.audit_book import AuditBook
from miner.live_risk.audit_events import EVENT, AuditEvent, Drawn, Labelled, TermsSet
from stage1.artifacts import append_line, write_atomic
from stage1.errors import ArtifactError
from stage1.monitor.risk_monitor import MonitorState, MonitorTerms
from stage1.settings import first_problem

LOG, BEFORE, IMAGES, STATE = "audits.jsonl", "audits.1.jsonl", "images", "monitor.json"
MOST_BYTES = 8 * 2**20


class AuditLog:
    """The events of one certificate, and what follows from them.

    Args:
        directory: created if it is not there.
        certificate: its id.
        terms: what is watched; a certificate keeps the tests that it began with.
        now: the time to record.
        most_bytes: of a file, before its events are summed up.

    Attributes:
        book: what follows from the events.

    Raises:
        ArtifactError: an event that was written whole cannot be read.
    """

    def __init__(
        self, directory: Path, certificate: str, terms: MonitorTerms, *, now: datetime, most_bytes: int = MOST_BYTES
    ) -> None:
        self.directory = directory
        self._most_bytes = most_bytes
        self._images.mkdir(parents=True, exist_ok=True)
        self.book = read_book(directory, certificate, terms)
        kept = terms.model_copy(update={"test": self.book.terms.test})
        if kept != self.book.terms or not self._log.exists():
            self.add(TermsSet(at=now, terms=kept))
        self._forget_pictures()

    @property
    def _log(self) -> Path:
        return self.directory / LOG

    @property
    def _images(self) -> Path:
        return self.directory / IMAGES

    def draw(self, event: Drawn, content: bytes) -> None:
        """Keep the picture, then the event."""
        write_atomic(self._picture(event.number), content)
        self.add(event)

    def add(self, event: AuditEvent) -> None:
        """Write an event, then take it.

        Raises:
            OSError: it could not be written; what is on the disk counts.
        """
        try:
            append_line(self._log, event)
        except OSError:
            # It may be there in part, or as a whole.
            self.book = read_book(self.directory, self.book.state.certificate, self.book.terms)
            raise
        before = set(self.book.waiting)
        self.book.take(event)
        write_atomic(self.directory / STATE, self.book.state.to_json())
        for number in before - self.book.waiting.keys():
            self._picture(number).unlink(missing_ok=True)
        if self._log.stat().st_size > self._most_bytes:
            self._sum_up(event.at)

    def picture(self, number: int) -> bytes | None:
        """The picture of an audit that waits; None if it is gone."""
        try:
            return self._picture(number).read_bytes()
        except OSError:
            return None

    def _picture(self, number: int) -> Path:
        return self._images / f"{number:08d}"

    def _sum_up(self, at: datetime) -> None:
        line = self.book.summed(at).model_dump_json() + "\n"
        if len(line) > self._most_bytes // 2:
            # Many wait: a new file would be full at once.
            self._most_bytes *= 2
        shutil.copyfile(self._log, self.directory / BEFORE)
        write_atomic(self._log, line.encode())

    def _forget_pictures(self) -> None:
        for path in self._images.iterdir():
            if not (path.name.isdigit() and int(path.name) in self.book.waiting):
                path.unlink(missing_ok=True)


def read_book(directory: Path, certificate: str, terms: MonitorTerms) -> AuditBook:
    """What the events of a directory amount to, without writing anything.

    Args:
        directory: of one certificate.
        certificate: its id.
        terms: where there is no event yet.

    Raises:
        ArtifactError: an event that was written whole cannot be read.
    """
    book = AuditBook(MonitorState.fresh(certificate, terms), terms)
    path = directory / LOG
    if not path.exists():
        return book
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            content = json.loads(line)
        except ValueError:
            # It was cut short, so it never happened.
            continue
        try:
            event = EVENT.validate_python(content, strict=False)
        except ValidationError as error:
            raise ArtifactError(
                f"{path}, line {number}: not an event of an audit ({first_problem(error, otherwise='the line')}); move "
                f"{directory} away to begin anew with this certificate"
            ) from error
        book.take(event)
    return book


def add_labels(directory: Path, certificate: str, labels: Sequence[Labelled], *, now: datetime) -> bool:
    """Write labels of a certificate that nobody watches at present: they count when it is live again.

    Args:
        directory: of the certificate.
        certificate: its id.
        labels: what pictures of its audits show.
        now: the time to record.

    Returns:
        Whether the certificate has any audit.

    Raises:
        ArtifactError: an event that was written whole cannot be read.
    """
    if not (directory / LOG).exists():
        return False
    known = AuditLog(directory, certificate, read_book(directory, certificate, MonitorTerms()).terms, now=now)
    for one in labels:
        known.add(one)
    return True
