"""Whether what a config names is in the data: a name that matches nothing is a mistake, and told before anything runs.

Defaults that a data set does not have are no mistake; only what differs from them is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from offline.config import RunConfig
from offline.data.dataset import Dataset
from offline.data.place_and_time import check_fixes
from offline.data.sources.formats.export_row import GROUP
from offline.data.values import word
from offline.splits.settings import ColumnDifficulty, SplitSettings
from stage1.certificate.settings import CalibrationSettings
from stage1.column_names import column_name
from stage1.errors import SettingsError

SHOWN = 30


def check_settings_on_data(config: RunConfig, data: Dataset, now: datetime) -> None:
    """Refuse settings that match nothing in the data, and places and times that cannot be read where they are used.

    Args:
        config: of a run.
        data: all rows.
        now: wall-clock time, UTC.

    Raises:
        SettingsError: a setting matches nothing; says what there is.
        offline.errors.DatasetError: a row has a place or a time that cannot be read.
    """
    wrong = [*_sources(config, data), *_columns(config, data), *_agreement(config)]
    if wrong:
        raise SettingsError("; ".join(wrong))
    if config.splits.gps_cell_m is not None:
        check_fixes(data.rows, now)


def _sources(config: RunConfig, data: Dataset) -> Iterable[str]:
    there = sorted({row.source for row in data.rows})
    for name in config.splits.train_only:
        if word(name) not in there:
            yield f"splits.train_only: no row has the source {name!r}; there is {_list(there)}"


def _columns(config: RunConfig, data: Dataset) -> Iterable[str]:
    there = sorted({name for row in data.rows for name in row.metadata})
    for setting, column in _named(config):
        if not any(row.about(column) is not None for row in data.rows):
            why = f"no row has a value in a column {column!r}; there is {_list(there)}"
            if column_name(column) == GROUP:
                why = f"the column {column!r} joins its rows by itself, and is read for nothing else: take it out"
            yield f"{setting}: {why}"
    for name, head in config.model.heads.items():
        if not any(row.about(head.column, known=head.classes) is not None for row in data.rows):
            yield f"model.heads.{name}.column: no row has a value in {head.column!r}; there is {_list(there)}"


def _named(config: RunConfig) -> Iterable[tuple[str, str]]:
    """Each setting that names a column and differs from its default, and the column."""
    splits, calibration = config.splits, config.calibrate_scrc
    usual = SplitSettings()
    yield from (("splits.strata", name) for name in _others(splits.strata, usual.strata))
    yield from (("splits.sequence_columns", name) for name in _others(splits.sequence_columns, usual.sequence_columns))
    if isinstance(splits.difficulty, ColumnDifficulty):
        yield "splits.difficulty.column", splits.difficulty.column
    # Only mode balanced needs it.
    if calibration.mode == "balanced" or _others([calibration.subgroups], [CalibrationSettings().subgroups]):
        yield "calibrate_scrc.subgroups", calibration.subgroups


def _others(names: Iterable[str], usual: Iterable[str]) -> list[str]:
    """Names of columns that are not the usual ones, in any spelling."""
    known = {column_name(name) for name in usual}
    return [name for name in names if column_name(name) not in known]


def _agreement(config: RunConfig) -> Iterable[str]:
    heads = sorted(config.model.heads)
    for name in config.calibrate_scrc.agreement:
        if name not in heads:
            yield f"calibrate_scrc.agreement: no head of model.heads is called {name!r}; there is {_list(heads)}"


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(name or "the empty name" for name in names[:SHOWN]) or "none"
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown
