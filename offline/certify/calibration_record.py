"""What a certificate was computed from, so that anybody with the rows can compute it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from engines.store.file_names import CALIBRATION
from offline.data.engine_outputs import read_outputs, write_outputs
from offline.pipeline.run_files import FOLD_OUTPUTS, SELECT_OUTPUTS
from stage1.artifacts import Artifact
from stage1.certificate.labelled_outputs import LabelledOutputs


class CalibrationRow(BaseModel):
    """One row as the calibration saw it.

    Attributes:
        row: its id.
        label: 1 if roadwork is in it.
        group: everything that depends on it.
        about: what is known of it, where the calibration read that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: str
    label: int = Field(ge=0, le=1)
    group: str
    about: dict[str, str] = {}


class CalibrationRecord(Artifact):
    """`calibration.json`; the outputs of the engine for these rows are beside it, in the same order.

    Attributes:
        key: key of the calibration stage, under which the ledger of its workspace knows it.
        val_select: rows that chose.
        val_calib: rows of the fold that certified.
        calib_share: share of newly labelled images that reached val_calib.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    key: str
    val_select: tuple[CalibrationRow, ...]
    val_calib: tuple[CalibrationRow, ...]
    calib_share: float

    def outputs(self, directory: Path) -> dict[str, LabelledOutputs]:
        """The rows of both sets with what the engine said of them."""
        return {
            name: _labelled(rows, directory / file)
            for name, rows, file in (
                ("val_select", self.val_select, SELECT_OUTPUTS),
                ("val_calib", self.val_calib, FOLD_OUTPUTS),
            )
        }


def write_record(
    directory: Path, sets: Mapping[str, LabelledOutputs], *, key: str, about: tuple[str, ...], calib_share: float
) -> None:
    """Write what a certificate is computed from.

    Args:
        directory: where to.
        sets: `val_select` and `val_calib`.
        key: key of the calibration stage.
        about: columns that the calibration reads.
        calib_share: share of newly labelled images that reaches val_calib.
    """
    rows = {name: _rows(data, about) for name, data in sets.items()}
    CalibrationRecord(
        key=key, val_select=rows["val_select"], val_calib=rows["val_calib"], calib_share=calib_share
    ).write(directory / CALIBRATION)
    write_outputs(directory / SELECT_OUTPUTS, sets["val_select"].outputs)
    write_outputs(directory / FOLD_OUTPUTS, sets["val_calib"].outputs)


def _rows(data: LabelledOutputs, about: tuple[str, ...]) -> tuple[CalibrationRow, ...]:
    columns = {name: data.about(name) for name in about}
    return tuple(
        CalibrationRow(
            row=row,
            label=int(data.labels[place]),
            group=data.groups[place],
            about={name: values[place] for name, values in columns.items()},
        )
        for place, row in enumerate(data.row_ids)
    )


def _labelled(rows: tuple[CalibrationRow, ...], path: Path) -> LabelledOutputs:
    names = sorted({name for row in rows for name in row.about})
    return LabelledOutputs(
        read_outputs(path),
        np.asarray([row.label for row in rows], np.int8),
        [row.row for row in rows],
        [row.group for row in rows],
        {name: [row.about.get(name, "") for row in rows] for name in names},
    )
