"""What a stage is, and what it may use. Nothing here knows what the config, the data or the stages are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar

from pydantic import Field

from offline.pipeline.reads import Directory, Reads
from stage1.artifacts import Artifact, sha256_file
from stage1.errors import ArtifactError

if TYPE_CHECKING:
    from engines.store.store import Store
    from offline.pipeline.progress import Progress

MANIFEST = "stage.json"
CHECKPOINTS = "checkpoints"
PREFIXES = "prefixes"
PIXELS = "pixels"
ORIGINALS = "originals"
# Of directories that are there only while engines are tried, or a plan runs a stage on copies.
SCORING, REHEARSAL = ".scoring-", ".rehearsal-"


class Data(Protocol):
    """What a run works on, read once."""

    @property
    def sha256(self) -> str:
        """Hash of all of it, taken when it was read."""
        ...


# A config is everything that decides the outcome of a run but the data.
ConfigT = TypeVar("ConfigT", bound=Artifact)
DataT = TypeVar("DataT", bound=Data)


class StageManifest(Artifact):
    """`stage.json`, the last file written into a stage's directory.

    Attributes:
        stage: name of the stage.
        key: hash of everything that decided its outcome.
        run: id of the run that made it; empty where a plan ran it on copies.
        inputs: key of each stage that it needs, by name.
        reads: everything that decided its outcome, each part by its name: values of settings, hashes of rows, of files
            of other stages, of files elsewhere and of code, versions of packages.
        files: hash of each file it wrote.
        started_at: UTC, ISO 8601.
        finished_at: UTC, ISO 8601.
    """

    SCHEMA_VERSION: ClassVar[int] = 2
    schema_version: int = 2

    stage: str
    key: str
    run: str = ""
    inputs: dict[str, str]
    reads: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str]
    started_at: str
    finished_at: str


@dataclass(frozen=True)
class StageContext(Generic[ConfigT, DataT]):
    """What a running stage may use.

    Attributes:
        config: config of the run.
        data: the data of the run; no stage reads them from the disk again.
        workspace: the workspace; only ledgers and checkpoints are written there directly.
        store: where bundles are published.
        out: empty directory for the stage's files.
        inputs: directory of each stage it needs, by name, with the files that it reads.
        key: the stage's key.
        run: id of the run.
        now: the clock, UTC.
        progress: where to tell how far it is.
    """

    config: ConfigT
    data: DataT
    workspace: Path
    store: Store
    out: Path
    inputs: Mapping[str, Directory]
    key: str
    run: str
    now: Callable[[], datetime]
    progress: Progress

    def kept(self, name: str) -> Path | None:
        """A file that an earlier run of a stage with `always` left under this very key; None if there is none."""
        home = self.out.parent / self.key
        try:
            whole = StageManifest.read(home / MANIFEST).files[name] == sha256_file(home / name)
        except (ArtifactError, OSError, KeyError):
            return None
        return home / name if whole else None

    @property
    def prefixes(self) -> Path:
        """Where what frozen blocks make of images is kept over the nights."""
        return self.workspace / PREFIXES

    @property
    def pixels(self) -> Path:
        """Where pictures as an engine sees them are kept for the stages of a night."""
        return self.workspace / PIXELS

    @property
    def originals(self) -> Path:
        """Where larger copies of pictures that train are kept over the nights."""
        return self.workspace / ORIGINALS

    @property
    def checkpoints(self) -> Path:
        """Where a stage that takes hours keeps what it needs to go on; stays if the stage is killed."""
        return self.workspace / CHECKPOINTS / self.key


def _any_machine(_config: object) -> str:
    return ""


def _never(_config: object) -> bool:
    return False


def _nothing(_store: Path) -> Sequence[Path]:
    return ()


def _unguarded(_context: object) -> None:
    pass


@dataclass(frozen=True)
class Stage(Generic[ConfigT, DataT]):
    """One step of the pipeline. Its code, the module of `run` and what that imports of this program, is in its key.

    Attributes:
        name: name on the command line and on disk.
        needs: names of the stages whose files it reads.
        reads: what it reads with a config; it is handed nothing else, and all of it is in its key.
        run: does the work, writing into `context.out`.
        distributions: packages whose installed version, or that they are not there, is part of its key.
        always: runs every time, because its effect is outside its directory.
        in_store: files beside the bundles of the store that it reads; their content is part of its key.
        machine: what of this machine decides its result; part of its key.
        decides: the config of the run after what a finished directory of this stage has decided, or None if it decides
            nothing. It runs before every stage after it, which see that config alone and have in their keys what it
            changed of their settings; a stage before it whose settings it changed is made again.
        may_decide: whether it may decide anything with a config; whatever it decides.
        guard: looks at everything before it runs, and may refuse to; it hands nothing on, so it is in no key.
        rehearsed: files of the workspace that it adds to. Where it has any, a plan runs it beside copies of these, and
            so knows what it will write.
    """

    name: str
    needs: tuple[str, ...]
    reads: Callable[[ConfigT], Reads[DataT]]
    run: Callable[[StageContext[ConfigT, DataT]], None]
    distributions: tuple[str, ...] = ()
    always: bool = False
    in_store: Callable[[Path], Sequence[Path]] = _nothing
    machine: Callable[[ConfigT], str] = _any_machine
    decides: Callable[[ConfigT, Path], ConfigT] | None = None
    may_decide: Callable[[ConfigT], bool] = _never
    guard: Callable[[StageContext[ConfigT, DataT]], None] = _unguarded
    rehearsed: tuple[str, ...] = ()
