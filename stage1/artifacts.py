"""The one way to write and read files that matter.

A file is written beside its place, flushed to the disk and renamed over it, so a reader sees the old content or the new
one and a crash leaves no half of either.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from stage1.errors import ArtifactError
from stage1.settings import first_problem

RecordT = TypeVar("RecordT", bound=BaseModel)


class Artifact(BaseModel):
    """A JSON file with a version: every on-disk model derives from it.

    Attributes:
        schema_version: version of the file's layout; a file with another version is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    SCHEMA_VERSION: ClassVar[int] = 1
    schema_version: int = 1

    @model_validator(mode="before")
    @classmethod
    def _of_this_version(cls, content: object) -> object:
        """Refuse a file of another version before anything in it is believed, or found missing."""
        if isinstance(content, dict):
            found = content.get("schema_version", cls.model_fields["schema_version"].default)
            if found != cls.SCHEMA_VERSION:
                raise ValueError(f"schema_version is {found}, this program reads {cls.SCHEMA_VERSION}")
        return content

    def to_json(self) -> bytes:
        """The file's content: UTF-8, indented, keys in declaration order, a newline at the end."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    def write(self, path: Path) -> None:
        """Write atomically (see `write_atomic`)."""
        write_atomic(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and validate.

        Raises:
            ArtifactError: the file is missing, is not valid JSON, or does not fit the model.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read ({error.strerror or error})") from error
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            problem = first_problem(error, otherwise="the file")
            raise ArtifactError(f"{path}: not a valid {cls.__name__}: {problem}") from error


def write_atomic(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, or leave it untouched.

    Args:
        path: the file; its directory must exist.
        content: the whole new content.

    Raises:
        OSError: the disk is full or the directory cannot be written; the temporary file is removed.
    """
    write_parts(path, [content])


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Replace the file at `path` as `write_atomic` does, by content that is never in memory as a whole.

    Args:
        path: the file; its directory must exist.
        parts: of the new content, in order.

    Raises:
        OSError: the disk is full or the directory cannot be written; the temporary file is removed.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as handle:
            for part in parts:
                handle.write(part)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def append_line(path: Path, record: BaseModel) -> None:
    """Append one record as a line of JSON and flush it to the disk.

    A line that a crash cut short is ended first, so that it does not take the new one with it.
    """
    append_lines(path, [record])


def append_lines(path: Path, records: Iterable[BaseModel]) -> None:
    """Append records, each as a line of JSON, and flush them to the disk; a crash leaves the first few of them."""
    append_bytes(path, "".join(record.model_dump_json() + "\n" for record in records).encode())


def append_bytes(path: Path, lines: bytes) -> None:
    """Append whole lines and flush them to the disk; a line that a crash cut short is ended first."""
    with path.open("ab+") as handle:
        end = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, end - 1))
        torn = handle.read(1) not in {b"", b"\n"}
        handle.write(b"\n" * torn + lines)
        handle.flush()
        os.fsync(handle.fileno())


class Line(NamedTuple):
    """A whole line of a file of JSON records: its number from 1, its bytes, and the record."""

    number: int
    text: bytes
    record: dict[str, Any]


def whole_lines(path: Path) -> Iterator[Line]:
    """The lines of an append-only file, none if there is no file; one that a crash cut short is left out."""
    if not path.exists():
        return
    with path.open("rb") as handle:
        for number, text in enumerate(handle, start=1):
            try:
                record = json.loads(text)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield Line(number, text.rstrip(b"\r\n"), record)


def records(path: Path, kind: type[RecordT]) -> Iterator[RecordT | bytes]:
    """The records of an append-only file in order, and the bytes of lines of another kind.

    Args:
        path: the file; one that is not there has no lines.
        kind: of record.
    """
    for line in whole_lines(path):
        try:
            yield kind.model_validate_json(line.text)
        except ValidationError:
            yield line.text


def fsync_directory(directory: Path) -> None:
    """Make renames inside `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(directory: Path) -> None:
    """Flush every file below `directory`, then the directories that name them."""
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir():
            fsync_directory(path)
        else:
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
    fsync_directory(directory)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces), 64 hex digits."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
