"""Labels that people gave, on their way to a miner that runs: files that it takes over and removes."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engines.machine.tally import Tally
from miner.live_risk.audit_events import Labelled
from miner.live_risk.audit_log import add_labels
from stage1.artifacts import write_atomic
from stage1.errors import ArtifactError
from stage1.monitor.audit import ExitLabel

FOLDER, BAD = "inbox", ".unreadable"


class AuditLabel(BaseModel):
    """What a picture of an audit shows.

    Attributes:
        certificate: id of the certificate.
        number: of the audit.
        label: 1 for roadwork.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate: str = Field(pattern=r"^[0-9a-f]{16}$")
    number: int = Field(ge=1)
    label: ExitLabel


class Inbox:
    """The folder of these files.

    Args:
        directory: of the watch.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / FOLDER

    def put(self, labels: Sequence[AuditLabel]) -> Path:
        """Leave labels for the miner, all or none of them."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{secrets.token_hex(8)}.jsonl"
        write_atomic(path, "".join(one.model_dump_json() + "\n" for one in labels).encode())
        return path

    def waiting(self) -> Iterator[tuple[Path, list[AuditLabel]]]:
        """Files that are there; whoever took one over removes it. One that cannot be read is put aside."""
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob("*.jsonl")):
            try:
                labels = [AuditLabel.model_validate_json(line) for line in path.read_bytes().splitlines() if line]
            except (OSError, ValidationError):
                path.replace(path.with_name(path.name + BAD))
                continue
            yield path, labels


def label_unwatched(
    streams: Path, labels: Sequence[AuditLabel], watched: Collection[str], now: datetime, lost: Tally
) -> None:
    """Take labels of certificates that were not live since this process began; it may not have a bundle yet.

    Args:
        streams: directory of all certificates.
        labels: of these and of others.
        watched: ids of the others, whose watches take their labels themselves.
        now: the time to record.
        lost: counts those that cannot be taken.
    """
    for name in {one.certificate for one in labels}.difference(watched):
        given = [
            Labelled(number=one.number, at=now, label=one.label, by="person")
            for one in labels
            if one.certificate == name
        ]
        try:
            known = add_labels(streams / name, name, given, now=now)
        except ArtifactError as error:
            lost.add("label_not_taken", str(error))
            continue
        if not known:
            lost.add("label_without_audit", f"labels came for audits of certificate {name}, which has none")
