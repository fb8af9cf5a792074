"""An adapter on disk: a directory with its tensors and a description, `adapter.json`, written last.

It is read back only into a model of exactly the same shape: peft's own loader builds a plain LoRA, with a warning at
most, where it does not know what it reads.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from offline.data.known_rows import KnownRows, NotedRow
from offline.errors import TrainingError
from offline.learning.checkpoints import Trained
from offline.pipeline.run_files import ADAPTER_DESCRIPTION, ADAPTER_TENSORS
from stage1.artifacts import Artifact, sha256_file
from stage1.errors import ArtifactError
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings
from stage1.model.weights import weights_sha256
from stage1.preprocess import Shape

INSTEAD = "start from an adapter of this workspace, or without train_supervised.warm_start"


@dataclass(frozen=True)
class AdapterOrigin:
    """What an adapter is trained in and on.

    Attributes:
        model: settings of the model.
        shape: height and width of the input, px.
        tiles: rows and columns that the network cuts it into; None for none.
        trained: the rows that train it, and those that trained what it starts from.
        chose: the rows that choose its checkpoint, those that chose the one that it starts from, and those that its
            teacher has learned from.
    """

    model: ModelSettings
    shape: Shape
    tiles: tuple[int, int] | None = None
    trained: frozenset[NotedRow] = frozenset()
    chose: frozenset[NotedRow] = frozenset()


@dataclass(frozen=True)
class Judges:
    """The rows that an adapter is judged by.

    Attributes:
        data: all rows.
        select: ids of those that choose; they may have chosen before.
        exams: ids of those that certify or report.
    """

    data: KnownRows
    select: Collection[str] = ()
    exams: Collection[str] = ()


class AdapterDescription(Artifact):
    """`adapter.json`.

    Attributes:
        model: settings of the model that it belongs to.
        size_px: height of the input that it was trained at.
        width_px: its width; None in the file of one for squares.
        tiles: rows and columns that the network cuts it into; None for none.
        frozen_sha256: hash of the frozen weights that it was trained on.
        rows: the rows that trained it, sorted.
        chose: the rows that chose it, or that its teacher has learned from, sorted; a file of version 1 does not say.
        tensors_sha256: hash of the tensors file.
    """

    SCHEMA_VERSION: ClassVar[int] = 2
    schema_version: int = 2

    model: ModelSettings
    size_px: int
    width_px: int | None = Field(default=None, exclude_if=lambda width: width is None)
    tiles: tuple[int, int] | None = Field(default=None, exclude_if=lambda tiles: tiles is None)
    frozen_sha256: str
    rows: tuple[NotedRow, ...]
    chose: tuple[NotedRow, ...]
    tensors_sha256: str

    @property
    def shape(self) -> Shape:
        """Height and width of the input that it was trained at, px."""
        return self.size_px, self.size_px if self.width_px is None else self.width_px

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, content: object) -> object:
        """Take over a file of the version before, which knew rows by their paths alone."""
        if not isinstance(content, dict) or content.get("schema_version") != 1 or "chose" in content:
            return content
        rows = content.get("rows")
        noted = [{"row": row} for row in rows] if isinstance(rows, list) else rows
        return content | {"schema_version": 2, "rows": noted, "chose": []}


def save_adapter(net: Stage1Net, origin: AdapterOrigin, directory: Path) -> None:
    """Write what trains of a network, adapters and heads, into a directory.

    Args:
        net: with adapters, not merged.
        origin: what it was trained in and on.
        directory: made if needed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path, (height, width) = directory / ADAPTER_TENSORS, origin.shape
    save_file({name: t.float().cpu().contiguous() for name, t in Trained(net=net).state_dict().items()}, path)
    AdapterDescription(
        model=origin.model,
        size_px=height,
        width_px=None if width == height else width,
        tiles=origin.tiles,
        frozen_sha256=_frozen_sha256(net),
        rows=_sorted(origin.trained),
        chose=_sorted(origin.chose),
        tensors_sha256=sha256_file(path),
    ).write(directory / ADAPTER_DESCRIPTION)


def load_adapter(net: Stage1Net, origin: AdapterOrigin, directory: Path, judges: Judges) -> AdapterOrigin:
    """Read what `save_adapter` wrote into a network with the same adapters on the same weights.

    Args:
        net: with adapters, not merged; changed in place.
        origin: what it is about to be trained in and on.
        directory: of the adapter.
        judges: the rows that it is to be judged by; an adapter that has seen one of them would make it worthless.

    Returns:
        The same origin with the rows that the adapter has seen before.

    Raises:
        TrainingError: it is no adapter of this program, of another model, on other weights, damaged, has other tensors,
            was trained on a row that judges, or was chosen by one that certifies or reports.
    """
    try:
        found = AdapterDescription.read(directory / ADAPTER_DESCRIPTION)
    except ArtifactError as error:
        theirs = (directory / "adapter_config.json").exists()
        hint = "peft wrote this one, which does not say what it was trained on" if theirs else str(error)
        raise TrainingError(f"{directory}: no adapter of this program: {hint}") from error
    _check_model(found, net, origin, directory)
    _check_rows(found, judges, directory)
    tensors = _tensors(directory / ADAPTER_TENSORS, found.tensors_sha256)
    try:
        Trained(net=net).load_state_dict(tensors)
    except TrainingError as error:
        raise TrainingError(f"{directory}: its tensors are others than those that train in this model") from error
    return replace(origin, trained=origin.trained.union(found.rows), chose=origin.chose.union(found.chose))


def _check_model(found: AdapterDescription, net: Stage1Net, origin: AdapterOrigin, directory: Path) -> None:
    ours = origin.model
    different = [name for name in ModelSettings.model_fields if getattr(found.model, name) != getattr(ours, name)]
    shown = [f"model.{name} {getattr(found.model, name)!r}, not {getattr(ours, name)!r}" for name in different]
    theirs, mine = _input(found.shape, found.tiles), _input(origin.shape, origin.tiles)
    if theirs != mine:
        shown.append(f"an input of {theirs}, not {mine} (preprocess.size_px and geometry)")
    if shown:
        raise TrainingError(f"{directory}: an adapter of another model: {', '.join(shown)}")
    if found.frozen_sha256 != _frozen_sha256(net):
        raise TrainingError(
            f"{directory}: this adapter was trained on other backbone weights, for example before or after a domain "
            "adaptation; start without train_supervised.warm_start"
        )


def _input(shape: Shape, tiles: tuple[int, int] | None) -> str:
    cut = "" if tiles is None else f" in {tiles[0]} x {tiles[1]} tiles"
    return f"{shape[0]} x {shape[1]} px{cut}"


def _check_rows(found: AdapterDescription, judges: Judges, directory: Path) -> None:
    for did, rows, asked in (
        ("trained on", found.rows, {*judges.select, *judges.exams}),
        ("chosen by", found.chose, judges.exams),
    ):
        seen = judges.data.among(rows, asked)
        if seen:
            raise TrainingError(
                f"{directory}: this adapter was {did} {len(seen)} rows that judge here, for example {seen[0]!r}, so no "
                f"certificate would be true; {INSTEAD}"
            )
    gone = judges.data.unknowable(found.rows)
    if gone:
        raise TrainingError(
            f"{directory}: this adapter was trained on {len(gone)} rows that are not here by their names, for example "
            f"{gone[0]!r}, and does not say what was in them, so that they may judge here by others; start without "
            "train_supervised.warm_start"
        )


def _sorted(rows: Collection[NotedRow]) -> tuple[NotedRow, ...]:
    return tuple(sorted(rows, key=lambda noted: (noted.row, noted.sha256 or "")))


def _frozen_sha256(net: Stage1Net) -> str:
    frozen = [(name, p) for name, p in net.backbone.named_parameters() if not p.requires_grad]
    return weights_sha256(frozen, "frozen")


def _tensors(path: Path, expected: str) -> dict[str, Tensor]:
    try:
        if sha256_file(path) != expected:
            raise TrainingError(f"{path}: damaged, its hash is not the one in {ADAPTER_DESCRIPTION}")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: cannot be read: {error}") from error
