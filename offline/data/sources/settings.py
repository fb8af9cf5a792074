"""`sources.toml`: where the labelled images of a data directory come from, if not from its own `labels.csv` alone."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stage1.settings import Section, UserPath

# In the words of NATIX's driving sets and of work zone data sets; compared without case, as parts of a text.
ROADWORK_WORDS = ("construction", "roadwork", "road work", "work zone")

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class _Source(Section):
    """What every source says.

    Attributes:
        name: what the ids of its rows begin with, and their source where they name none; None for that of its file.
        train_only: its rows may train, and never choose, certify or report.
    """

    name: Name | None = None
    train_only: bool = False


class FolderSource(_Source):
    """A directory of images with a `labels.csv`.

    Attributes:
        path: the directory; relative to the data directory.
        groups: what its groups begin with instead of the name: in two folders that give the same, a group of one name
            is one group.
        as_sent: its pictures came from callers, so what callers do to pictures was done to them already.
    """

    kind: Literal["folder"]
    path: UserPath
    groups: Name | None = None
    as_sent: bool = False


class ParquetSource(_Source):
    """Shards of a Hugging Face data set, whose images are read out of them.

    Attributes:
        path: a shard, or a directory that is searched for shards; relative to the data directory.
        repo: id of a data set on the hub instead, whose shards are downloaded once; they stay in the hub's own cache.
        revision: branch, tag or commit of the repository; a commit never changes.
    """

    kind: Literal["parquet"]
    path: UserPath | None = None
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    revision: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.repo is None):
            raise ValueError("give either path, of a local copy, or repo, on the hub")
        if self.revision is not None and self.repo is None:
            raise ValueError("revision is of a repo, and this is a local copy: leave it out")
        return self


class TripSource(_Source):
    """Trips of NATIX's driving sets, whose licence allows no commercial use and no redistribution.

    Attributes:
        path: the directory of the set; relative to the data directory.
        camera: beginning of the names of the folders of the camera whose frames are taken.
        every_s: least time between two frames of a clip.
        roadwork: words that the kind of an event has if roadwork is in the picture.
        others: what frames of other events are: `left out`, because nobody says that there is no roadwork, or
            `negative`.
    """

    kind: Literal["trips"]
    path: UserPath
    train_only: bool = True
    camera: str = Field(default="FRONT", min_length=1)
    every_s: float = Field(default=1.0, gt=0)
    roadwork: tuple[str, ...] = Field(default=ROADWORK_WORDS, min_length=1)
    others: Literal["left out", "negative"] = "left out"


class CocoSource(_Source):
    """Annotations in the format of COCO.

    Attributes:
        path: the JSON file; relative to the data directory.
        images: directory of the images; None for that of the file.
        roadwork: names of the categories that mean roadwork.
    """

    kind: Literal["coco"]
    path: UserPath
    images: UserPath | None = None
    roadwork: tuple[str, ...] = Field(min_length=1)


class LabelStudioSource(_Source):
    """An export of Label Studio in its format JSON.

    Attributes:
        path: the JSON file; relative to the data directory.
        images: directory of the images; None for that of the file.
        image_key: what a task calls its image.
        roadwork: choices and labels that mean roadwork.
        clear: choices that mean none.
    """

    kind: Literal["label_studio"]
    path: UserPath
    images: UserPath | None = None
    image_key: str = "image"
    roadwork: tuple[str, ...] = Field(min_length=1)
    clear: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _apart(self) -> Self:
        both = sorted(set(self.roadwork) & set(self.clear))
        if both:
            raise ValueError(f"{both[0]!r} is in roadwork and in clear")
        return self


AnySource = Annotated[
    FolderSource | ParquetSource | TripSource | CocoSource | LabelStudioSource, Field(discriminator="kind")
]


class SourcesFile(Section):
    """The content of `sources.toml`.

    Attributes:
        source: the sources, in the order of their rows.
    """

    source: tuple[AnySource, ...] = Field(min_length=1)
