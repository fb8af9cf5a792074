"""An adapter on disk: a directory with its tensors and a description, `adapter.json`, written last.

It is read back only into a model of exactly the same shape: peft's own loader builds a plain LoRA, with a warning at
most, where it does not know what it reads.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from offline.errors import TrainingError
from offline.learning.checkpoints import Trained
from offline.pipeline.run_files import ADAPTER_TENSORS
from stage1.artifacts import Artifact, sha256_file
from stage1.errors import ArtifactError
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings
from stage1.model.weights import weights_sha256

DESCRIPTION = "adapter.json"


@dataclass(frozen=True)
class AdapterOrigin:
    """What an adapter is trained in and on.

    Attributes:
        model: settings of the model.
        size_px: side of the input.
        rows: ids of the rows that train it.
    """

    model: ModelSettings
    size_px: int
    rows: frozenset[str]


class AdapterDescription(Artifact):
    """`adapter.json`.

    Attributes:
        model: settings of the model that it belongs to.
        size_px: side of the input that it was trained at.
        frozen_sha256: hash of the frozen weights that it was trained on.
        rows: ids of the rows that trained it, sorted.
        tensors_sha256: hash of the tensors file.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    model: ModelSettings
    size_px: int
    frozen_sha256: str
    rows: tuple[str, ...]
    tensors_sha256: str


def save_adapter(net: Stage1Net, origin: AdapterOrigin, directory: Path) -> None:
    """Write what trains of a network, adapters and heads, into a directory.

    Args:
        net: with adapters, not merged.
        origin: what it was trained in and on.
        directory: made if needed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ADAPTER_TENSORS
    save_file({name: t.float().cpu().contiguous() for name, t in Trained(net=net).state_dict().items()}, path)
    AdapterDescription(
        model=origin.model,
        size_px=origin.size_px,
        frozen_sha256=_frozen_sha256(net),
        rows=tuple(sorted(origin.rows)),
        tensors_sha256=sha256_file(path),
    ).write(directory / DESCRIPTION)


def load_adapter(net: Stage1Net, origin: AdapterOrigin, directory: Path, judged: Collection[str]) -> None:
    """Read what `save_adapter` wrote into a network with the same adapters on the same weights.

    Args:
        net: with adapters, not merged; changed in place.
        origin: what it is about to be trained in and on.
        directory: of the adapter.
        judged: ids of the rows that choose, certify or report; an adapter that has seen one would make them worthless.

    Raises:
        TrainingError: it is no adapter of this program, of another model, on other weights, damaged, has other tensors,
            or was trained on a row that judges.
    """
    try:
        found = AdapterDescription.read(directory / DESCRIPTION)
    except ArtifactError as error:
        theirs = (directory / "adapter_config.json").exists()
        hint = "peft wrote this one, which does not say what it was trained on" if theirs else str(error)
        raise TrainingError(f"{directory}: no adapter of this program: {hint}") from error
    _check_origin(found, net, origin, judged, directory)
    tensors = _tensors(directory / ADAPTER_TENSORS, found.tensors_sha256)
    try:
        Trained(net=net).load_state_dict(tensors)
    except TrainingError as error:
        raise TrainingError(f"{directory}: its tensors are others than those that train in this model") from error


def _check_origin(
    found: AdapterDescription, net: Stage1Net, origin: AdapterOrigin, judged: Collection[str], directory: Path
) -> None:
    ours = origin.model
    different = [name for name in ModelSettings.model_fields if getattr(found.model, name) != getattr(ours, name)]
    shown = [f"model.{name} {getattr(found.model, name)!r}, not {getattr(ours, name)!r}" for name in different]
    if found.size_px != origin.size_px:
        shown.append(f"preprocess.size_px {found.size_px}, not {origin.size_px}")
    if shown:
        raise TrainingError(f"{directory}: an adapter of another model: {', '.join(shown)}")
    if found.frozen_sha256 != _frozen_sha256(net):
        raise TrainingError(
            f"{directory}: this adapter was trained on other backbone weights, for example before or after a domain "
            "adaptation; start without train_supervised.warm_start"
        )
    seen = sorted(set(found.rows) & set(judged))
    if seen:
        raise TrainingError(
            f"{directory}: this adapter was trained on {len(seen)} rows that judge here, for example {seen[0]!r}, so "
            "no certificate would be true; start from an adapter of this workspace, or without "
            "train_supervised.warm_start"
        )


def _frozen_sha256(net: Stage1Net) -> str:
    frozen = [(name, p) for name, p in net.backbone.named_parameters() if not p.requires_grad]
    return weights_sha256(frozen, "frozen")


def _tensors(path: Path, expected: str) -> dict[str, Tensor]:
    try:
        if sha256_file(path) != expected:
            raise TrainingError(f"{path}: damaged, its hash is not the one in {DESCRIPTION}")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: cannot be read: {error}") from error
