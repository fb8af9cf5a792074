"""Ledgers whose lines hang together, so that one which was edited is noticed.

Each line carries the seal of the line before it, and seals itself with it. Whoever edits, adds, moves or removes a line
breaks the chain; only a ledger that lost its last lines still hangs together, and it is compared with what the store
knows. One process writes at a time: the lock of the workspace is held by the run that does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from offline.data.jsonl import read_records
from offline.errors import DatasetError
from stage1.artifacts import append_bytes, sha256_json, whole_lines, write_atomic
from stage1.settings import first_problem

Record = TypeVar("Record")
Old = TypeVar("Old")

START = "0" * 64
REMEDY = "restore it from a backup, or start anew with a new workspace and rows that no certification has looked at"


def read_chain(path: Path, kind: TypeAdapter[Record]) -> list[Record]:
    """All records of a ledger, in order; none if there is no file.

    A line that a crash cut short is not JSON and says nothing. The one after it follows the one before it.

    Raises:
        DatasetError: a line is not such a record, or the chain is broken; the message names the line and says what to
            do.
    """
    return list(chain(path, kind))


def chain(path: Path, kind: TypeAdapter[Record]) -> Iterator[Record]:
    """The records of a ledger one by one, as `read_chain` has them, so that a long one is never in memory whole.

    Raises:
        DatasetError: as `read_chain`, at the line that is wrong.
    """
    before = START
    for number, _, line in whole_lines(path):
        where = f"{path}, line {number}"
        previous, seal = line.pop("previous", None), line.pop("seal", None)
        try:
            record = kind.validate_python(line)
        except ValidationError as error:
            problem = first_problem(error, otherwise="the line")
            raise DatasetError(f"{where}: {problem}; it was changed by hand or by another version; {REMEDY}") from error
        if seal != _seal(line, previous):
            raise DatasetError(f"{where}: the line was changed after it was written; {REMEDY}")
        if previous != before:
            raise DatasetError(
                f"{where}: it does not follow the line before it: one was removed, added or moved; {REMEDY}"
            )
        yield record
        before = str(seal)


def append_chain(path: Path, records: Sequence[BaseModel]) -> None:
    """Append records, each chained to the one before; a crash leaves the first few of them."""
    if records:
        append_bytes(path, _chained(records, _last_seal(path)))


def take_over(path: Path, old: TypeAdapter[Old], version: int, renewed: Callable[[list[Old]], list[BaseModel]]) -> bool:
    """Rewrite a ledger of the version before as a chain, whole and in one rename; the old file stays beside it.

    Args:
        path: the ledger.
        old: its records.
        version: schema version of the old records.
        renewed: makes new records of them.

    Returns:
        Whether it was such a ledger.

    Raises:
        DatasetError: a line of it is not an old record.
    """
    first = next((line.record for line in whole_lines(path)), None)
    if first is None or first.get("schema_version") != version:
        return False
    records = renewed(read_records(path, old))
    write_atomic(path.with_name(f"{path.name}.v{version}"), path.read_bytes())
    write_atomic(path, _chained(records, START))
    return True


def _chained(records: Iterable[BaseModel], before: str) -> bytes:
    lines = []
    for record in records:
        line = record.model_dump(mode="json")
        before, previous = _seal(line, before), before
        lines.append(json.dumps(line | {"previous": previous, "seal": before}, ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def _seal(line: dict[str, Any], previous: object) -> str:
    return sha256_json([previous, line])


def _last_seal(path: Path) -> str:
    seal = START
    for line in whole_lines(path):
        seal = str(line.record.get("seal"))
    return seal
