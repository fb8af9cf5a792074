"""What a unit found, one JSON file each, under a name that says what decided it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from offline.data.dataset import Dataset
from stage1.artifacts import Artifact
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.errors import ArtifactError
from stage1.outputs import Stage1Outputs


class Answers(BaseModel):
    """What a trained network says of N rows.

    Attributes:
        rows: their ids.
        labels: 0 or 1 each.
        groups: of each.
        logits: two each.
        select_score: of each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[str, ...]
    labels: tuple[int, ...]
    groups: tuple[str, ...]
    logits: tuple[tuple[float, float], ...]
    select_score: tuple[float, ...]

    @classmethod
    def of(cls, data: Dataset, outputs: Stage1Outputs) -> Answers:
        """Outputs for some rows."""
        return cls(
            rows=tuple(data.ids),
            labels=tuple(data.labels.tolist()),
            groups=tuple(data.groups),
            logits=tuple((float(zero), float(one)) for zero, one in outputs.logits.tolist()),
            select_score=tuple(outputs.select_score.tolist()),
        )

    @property
    def labelled(self) -> LabelledOutputs:
        """The same as certificates see it."""
        outputs = Stage1Outputs(
            np.asarray(self.logits, np.float32).reshape(-1, 2), np.asarray(self.select_score, np.float32)
        )
        return LabelledOutputs(outputs, np.asarray(self.labels, np.int8), self.rows, self.groups)


class UnitResult(Artifact):
    """`<unit>.<key>.json`.

    Attributes:
        unit: name of the unit.
        key: of everything that decided it.
        refused: why nothing was trained; empty if something was.
        note: what else is to be known of it.
        wall_s: seconds of training.
        cpu_s: seconds of processor time in them, without what was kept of frozen blocks.
        whole_cpu_s: seconds of processor time of the whole process.
        memory_mib: most memory that the process had.
        answers: by set; of `val_calib` only where there is one.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    unit: str
    key: str
    refused: str = ""
    note: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    whole_cpu_s: float = 0.0
    memory_mib: float = 0.0
    answers: Mapping[str, Answers] = Field(default_factory=dict)


def result_path(home: Path, unit: str, key: str) -> Path:
    """Where the result of a unit lies."""
    return home / "results" / f"{unit}.{key}.json"


def write_result(home: Path, result: UnitResult) -> None:
    """Keep the result of a unit."""
    path = result_path(home, result.unit, result.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    result.write(path)


def read_results(home: Path, keys: Mapping[str, str]) -> dict[str, UnitResult]:
    """The results that there are, by name of the unit; a file that was cut off counts as none.

    Args:
        home: where everything is kept.
        keys: key of each unit by its name.
    """
    found = {}
    for unit, key in keys.items():
        try:
            found[unit] = UnitResult.read(result_path(home, unit, key))
        except ArtifactError:
            continue
    return found


def outdated(home: Path, keys: Mapping[str, str]) -> Sequence[Path]:
    """Results of other settings, data or code."""
    current = {result_path(home, unit, key) for unit, key in keys.items()}
    return sorted(set((home / "results").glob("*.json")) - current)
