"""What a stage reads: it is handed this and nothing else, and the hash of this is its key.

A stage that reads more than it declares fails, in a test or in the night, and never takes a result of other inputs for
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from offline.errors import PipelineError
from offline.pipeline.settings_view import ALL

if TYPE_CHECKING:
    from offline.pipeline.stage import Data

DataT = TypeVar("DataT", bound="Data")


@runtime_checkable
class Parted(Protocol):
    """Data that say which parts of them differ."""

    @property
    def parts(self) -> Mapping[str, str]:
        """Hash of each part by its name; together they are all that is in the data."""
        ...


class Directory(Protocol):
    """Where the files of another stage are."""

    def __truediv__(self, name: str) -> Path:
        """The place of a file."""
        ...


@dataclass(frozen=True)
class DeclaredFiles:
    """Those files of a stage that another stage has declared to read.

    Attributes:
        stage: name of the stage that wrote them.
        directory: where they are.
        names: of the declared ones.
    """

    stage: str
    directory: Path
    names: frozenset[str]

    def __truediv__(self, name: str) -> Path:
        """The place of a declared file, which need not be there.

        Raises:
            PipelineError: it is not declared.
        """
        if name not in self.names:
            raise PipelineError(f"{name} of {self.stage} is read, and what the stage reads does not name it")
        return self.directory / name


def everything(data: Any, _inputs: Mapping[str, Path]) -> Any:  # noqa: ANN401  of any kind
    """All of the data, whatever they are."""
    return data


@dataclass(frozen=True)
class Reads(Generic[DataT]):
    """What a stage reads with one config.

    Attributes:
        settings: fields of the config or whole sections, by dotted path; `*` for all of it.
        files: names of the files of each other stage; `*` among them for all of them.
        rows: the data that it sees, from all of them and the directories of the stages that it needs.
        outside: files and directories beside the data and the workspace.
    """

    settings: tuple[str, ...] = ()
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rows: Callable[[DataT, Mapping[str, Path]], DataT] = everything
    outside: tuple[Path, ...] = ()

    def directory(self, stage: str, home: Path) -> Directory:
        """What the stage sees of the directory of another one."""
        names = self.files.get(stage, ())
        return home if ALL in names else DeclaredFiles(stage, home, frozenset(names))

    def contents(self, stage: str, files: Mapping[str, str]) -> dict[str, str]:
        """Hash of each file that it reads of another stage, `none` for one that is not there.

        Args:
            stage: the other one.
            files: hash of each of its files.
        """
        names: Iterable[str] = self.files.get(stage, ())
        if ALL in names:
            names = sorted(files)
        return {name: files.get(name, "none") for name in names}
