"""Labelled images: rows of a data directory, and their pictures through the serving preprocess."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Protocol, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from engines.machine.cores import usable_cores
from offline.data.values import identity, one_of, said, word
from offline.errors import DatasetError
from stage1.artifacts import sha256_json
from stage1.column_names import column_name, columns_called
from stage1.errors import ImageError
from stage1.preprocess import Pixels, PreprocessSettings, preprocess

DECODED_AHEAD = 8


def _relative(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise ValueError("must be a relative path inside the data directory")
    # One spelling, so that a picture is not two rows.
    return str(pure)


def _named(metadata: dict[str, str]) -> dict[str, str]:
    found = {column_name(name): value for name, value in metadata.items()}
    if len(found) != len(metadata):
        raise ValueError(f"two of the columns {', '.join(map(repr, metadata))} have the same name")
    return found


def _kind(source: str) -> str:
    return word(said(source) or "")


class Row(BaseModel):
    """One labelled image.

    Attributes:
        image: path relative to the data directory; the id of the row.
        label: 1 if roadwork is in it.
        group: what is dependent on it: a drive, a place, a scene. Its own image if the file names none.
        source: where it comes from, in the one spelling of such names (see `word`).
        metadata: every other column by its name (see `column_name`), as the file has it.
        train_only: it may train, and never choose, certify or report.
        as_sent: its picture came from a caller, so what callers do to pictures was done to it already.
    """

    model_config = ConfigDict(frozen=True)

    image: Annotated[str, Field(min_length=1), AfterValidator(_relative)]
    label: int = Field(ge=0, le=1)
    group: str
    source: Annotated[str, AfterValidator(_kind)] = ""
    metadata: Annotated[dict[str, str], AfterValidator(_named)] = Field(default_factory=dict)
    train_only: bool = False
    as_sent: bool = False

    @property
    def mark(self) -> dict[str, object]:
        """What it is hashed by; the hash of a row that no caller sent is that of programs that know no such rows."""
        return self.model_dump(exclude=None if self.as_sent else {"as_sent"})

    def about(self, column: str, known: Collection[str] = ()) -> str | None:
        """What a metadata column says of this row, None if nothing; `vid_id` also finds `video_info.vid_id`.

        Args:
            column: its name, or the end of a dotted one.
            known: values that are meant in any spelling, though they may be words for nothing elsewhere.

        Returns:
            The known value that is meant, or what the file has.
        """
        for name in columns_called(column, tuple(self.metadata)):
            text = self.metadata[name].strip()
            if (meant := one_of(text, known)) is not None:
                return meant
            if (value := said(text)) is not None:
                return value
        return None

    def sequence(self, column: str) -> str | None:
        """The id in a metadata column in the one spelling of ids, None if there is none.

        Raises:
            DatasetError: it cannot be told from others; the message names the row.
        """
        value = self.about(column)
        try:
            return None if value is None else identity(value)
        except DatasetError as error:
            raise DatasetError(f"row {self.image!r}, column {column}: {error}") from error


class FileState(Protocol):
    """What tells one state of a file from another, as `os.stat` has it."""

    @property
    def st_size(self) -> int:
        """Bytes."""
        ...

    @property
    def st_mtime_ns(self) -> int:
        """When it was last changed, as programs that copy may set it."""
        ...

    @property
    def st_ctime_ns(self) -> int:
        """When its inode was last changed."""
        ...

    @property
    def st_ino(self) -> int:
        """Number of the inode."""
        ...


class Picture(Protocol):
    """The file of a picture: a path, or a part of a larger file that holds many."""

    def read_bytes(self) -> bytes:
        """The encoded picture.

        Raises:
            OSError: it cannot be read.
        """
        ...

    def stat(self) -> FileState:
        """The state of the file; of a part, that of the file that it is in.

        Raises:
            OSError: it is not there.
        """
        ...

    def is_file(self) -> bool:
        """Whether it is there."""
        ...

    def __hash__(self) -> int:
        """The same picture has the same hash."""
        ...


class Sender(Protocol):
    """Turns a picture of the data into what arrives at a miner; those that there are, are in `offline.stream`."""

    def __call__(self, name: str, content: bytes, settings: PreprocessSettings) -> bytes:
        """The bytes that are sent.

        Args:
            name: id of the row; it decides everything that is drawn.
            content: of its file.
            settings: limits of what is decoded.

        Raises:
            ImageError: it is no image, or over a limit.
        """
        ...


class Kept(Protocol):
    """What a workspace keeps of pictures; see `offline.data.pictures`."""

    def content(self, rows: Dataset, row: str) -> bytes:
        """The bytes of a picture, or of its copy where the rows are seen through their copies."""
        ...

    def stored(self, rows: Dataset, row: str, settings: PreprocessSettings) -> Pixels | None:
        """The pixels of a row, uint8 `(3, H, W)`; None if they are not there."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Rows of a data directory, in file order.

    Attributes:
        root: the directory.
        rows: the labelled images, each at most once.
        sender: sends their pictures, but for those that came as they are sent; None for pictures as they are. It
            changes no row and no hash.
        paths: path below the directory, or an absolute one, of each row that lies elsewhere than its id says.
        packed: the picture of each row that has no file of its own.
        missing: ids of rows that were listed and left out, because their image is not there.
        contents: hash of the file of each row, None where it cannot be read; empty where nobody took them.
        kept: what a workspace keeps of the pictures; None for nothing.
        copied: the pictures are seen through their copies, which are smaller; for what certifies nothing.
    """

    root: Path
    rows: tuple[Row, ...]
    sender: Sender | None = None
    paths: Mapping[str, str] = field(default_factory=dict)
    packed: Mapping[str, Picture] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    contents: Mapping[str, str | None] = field(default_factory=dict)
    kept: Kept | None = field(default=None, repr=False, compare=False)
    copied: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def by_id(self) -> dict[str, Row]:
        """Rows by their image path."""
        return {row.image: row for row in self.rows}

    @cached_property
    def sha256(self) -> str:
        """Hash of every row and of the content of every image file, whatever their order; of its size without that."""
        ordered = sorted(self.rows, key=lambda row: row.image)
        marked = [[row.mark, self._file_mark(row.image)] for row in ordered]
        return sha256_json([*marked, *sorted(self.missing)])

    def _file_mark(self, row: str) -> str | int | None:
        """What tells the file of a row from another one, None if it is not there."""
        if row in self.contents:
            return self.contents[row]
        try:
            return self.file_of(row).stat().st_size
        except OSError:
            return None

    def file_of(self, row: str) -> Picture:
        """The file of the row with this id, or the part of a file that it is."""
        return self.packed[row] if row in self.packed else self.path_of(row)

    def path_of(self, row: str) -> Path:
        """The path of the file of the row with this id.

        Raises:
            DatasetError: it has no file of its own.
        """
        if row in self.packed:
            raise DatasetError(
                f"{self.packed[row]}: is inside of a larger file, and files are needed here: write the pictures into a "
                "directory with labels.csv"
            )
        return self.root / self.paths.get(row, row)

    def only(self, rows: Sequence[Row]) -> Self:
        """Some of the rows."""
        return replace(self, rows=tuple(rows))

    def hashed(self) -> Self:
        """This very object, with the hash taken now: what changes on the disk later does not change it."""
        assert self.sha256
        return self

    def pick(self, ids: Sequence[str]) -> Self:
        """The rows with these ids, in their order.

        Raises:
            DatasetError: an id is not in the data.
        """
        missing = [row_id for row_id in ids if row_id not in self.by_id]
        if missing:
            raise DatasetError(f"{self.root}: {len(missing)} rows are gone, for example {missing[0]!r}")
        return replace(self, rows=tuple(self.by_id[row_id] for row_id in ids))

    def regrouped(self, groups: Mapping[str, str]) -> Self:
        """The same rows, each in the group that is given for its id."""
        rows = tuple(row.model_copy(update={"group": groups[row.image]}) for row in self.rows)
        return replace(self, rows=rows)

    def sent_by(self, sender: Sender) -> Self:
        """The same rows, whose pictures arrive as they are sent."""
        return replace(self, sender=sender)

    def through_copies(self) -> Self:
        """The same rows, whose pictures are decoded from their copies where a workspace keeps those."""
        return replace(self, copied=True)

    def keeping(self, kept: Kept) -> Self:
        """This data set, with its hash, whose pictures are kept in a workspace."""
        found = replace(self, kept=kept)
        # The hash was taken when the rows were read.
        found.__dict__.update({name: self.__dict__[name] for name in ("sha256",) if name in self.__dict__})
        return found

    def called(self, names: Mapping[str, str]) -> Self:
        """The rows by the ids under which somebody knows them; their files stay where they are.

        Args:
            names: id here of each id that is known. A row whose id is known of another one is left out under it.
        """
        known = [self.by_id[here].model_copy(update={"image": name}) for name, here in names.items()]
        others = [row for row in self.rows if row.image not in names]
        moved = {name: here for name, here in names.items() if name != here}
        paths = {name: self.paths.get(here, here) for name, here in moved.items() if here not in self.packed}
        packed = {name: self.packed[here] for name, here in moved.items() if here in self.packed}
        return replace(self, rows=(*known, *others), paths={**self.paths, **paths}, packed={**self.packed, **packed})

    @property
    def labels(self) -> np.ndarray:
        """Labels, int8 `(N,)`."""
        return np.asarray([row.label for row in self.rows], dtype=np.int8)

    @property
    def ids(self) -> list[str]:
        """Row ids."""
        return [row.image for row in self.rows]

    @property
    def groups(self) -> list[str]:
        """Group of each row."""
        return [row.group for row in self.rows]

    @property
    def metadata(self) -> dict[str, list[str]]:
        """Every metadata column by its name, each value in one spelling, empty where a row has none."""
        names = sorted({name for row in self.rows for name in row.metadata})
        return {name: [word(said(row.metadata.get(name, "")) or "") for row in self.rows] for name in names}

    def pixels(self, settings: PreprocessSettings) -> Generator[Pixels, None, None]:
        """Every image through the serving preprocess, in order, decoded on all cores.

        Raises:
            DatasetError: an image cannot be read; the message names it.
        """
        cores = usable_cores()
        waiting: deque[Future[Pixels]] = deque()
        with ThreadPoolExecutor(cores) as pool:
            for row in self.rows:
                waiting.append(pool.submit(self._one, row, settings))
                # Not `pool.map`: it decodes everything at once, and an engine is slower than the decoder.
                if len(waiting) > DECODED_AHEAD * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def array(self, settings: PreprocessSettings) -> Pixels:
        """All images at once, uint8 `(N, 3, *settings.shape)`."""
        images = np.empty((len(self), 3, *settings.shape), np.uint8)
        for index, image in enumerate(self.pixels(settings)):
            images[index] = image
        return images

    def content(self, row: str, settings: PreprocessSettings) -> bytes:
        """The encoded picture that arrives for the row with this id: its file, as it is sent.

        Raises:
            DatasetError: it cannot be read.
        """
        content = self.file_content(row)
        try:
            if self.sender is None or self.by_id[row].as_sent:
                return content
            return self.sender(row, content, settings)
        except ImageError as error:
            raise DatasetError(f"{self.file_of(row)}: {error}") from error

    def file_content(self, row: str) -> bytes:
        """The bytes of the file of the row with this id, or of its copy.

        Raises:
            DatasetError: it cannot be read.
        """
        try:
            return self.file_of(row).read_bytes() if self.kept is None else self.kept.content(self, row)
        except (OSError, ImageError) as error:
            raise DatasetError(f"{self.file_of(row)}: {error}") from error

    def _one(self, row: Row, settings: PreprocessSettings) -> Pixels:
        stored = None if self.kept is None else self.kept.stored(self, row.image, settings)
        if stored is not None:
            return stored
        content = self.content(row.image, settings)
        try:
            return preprocess(content, settings)
        except ImageError as error:
            raise DatasetError(f"{self.file_of(row.image)}: {error}") from error
