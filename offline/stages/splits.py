"""The stage that checks the data and splits what is usable by group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.store.file_names import SPLITS
from offline.data.checks.file_looks import FILE_LOOKS
from offline.data.checks.fingerprints import FINGERPRINTS, fingerprints
from offline.data.checks.preflight import PREFLIGHT, run_preflight
from offline.data.inventory import InventoryRecord, inventory_of
from offline.data.named_targets import check_named
from offline.errors import DatasetError
from offline.pipeline.reads import Reads
from offline.pipeline.run_files import INVENTORY
from offline.pipeline.stage import Stage
from offline.splits.assign import Looks, examined, split
from offline.splits.difficulty import difficulties
from offline.splits.old_split_ledger import take_over_splits
from offline.splits.settings import CERTIFYING
from offline.splits.split_ledger import SPLIT_LEDGER, append_events, read_split_ledger
from offline.splits.store_history import ask_store
from offline.stages.common.outside_files import scorer_files
from stage1.certificate.calibrate import check_unit

if TYPE_CHECKING:
    from offline.config import RunConfig
    from offline.data.dataset import Dataset
    from offline.splits.splits_file import Splits
    from offline.stages.common.context import Context, NightStage
    from stage1.certificate.settings import CalibrationSettings


def run_splits(context: Context) -> None:
    """Check the data and split what is usable by group.

    Writes `preflight.json`, `inventory.json`, `splits.json` and into the ledger.
    """
    config, told = context.config, context.progress.step
    cache = context.workspace / FILE_LOOKS
    data, report = run_preflight(context.data, config.preprocess, config.preflight, told, cache=cache)
    # A value that no head knows is found now, and not when training begins.
    check_named(data, config.model.heads)
    settings = config.splits
    inventory = inventory_of(context.data, settings.sequence_columns, places=settings.gps_cell_m is not None)
    report.write(context.out / PREFLIGHT)
    # A file of its own: whoever reads the findings has not read every cell.
    InventoryRecord(inventory=inventory).write(context.out / INVENTORY)
    prints = fingerprints(data, context.workspace / FINGERPRINTS, told)
    scorer, scores = difficulties(examined(data, settings), prints, settings.difficulty, told)
    contents = {row: taken.sha256 for row, taken in prints.items()}
    looks = Looks({row: taken.phash for row, taken in prints.items()}, scorer, scores, contents)
    ledger = context.workspace / SPLIT_LEDGER
    take_over_splits(ledger, contents, {row.image: row.label for row in data.rows})
    at = context.now().isoformat(timespec="seconds")
    placed, history = read_split_ledger(ledger), ask_store(context.store)
    splits, events = split(data, looks, placed, settings, at, data_sha256=context.data.sha256, history=history)
    splits.check(data)
    # Not after hours of training.
    check_unit(config.calibrate_scrc, splits.dataset(data, "val_calib").groups)
    check_subgroups(config.calibrate_scrc, splits, data)
    # Before the splits: what is in the ledger and not in a file yet is found there by the next run.
    append_events(ledger, events)
    splits.write(context.out / SPLITS)


def check_subgroups(settings: CalibrationSettings, splits: Splits, data: Dataset) -> None:
    """Refuse sets that say nothing of the subgroups that are to be certified.

    Args:
        settings: of the calibration.
        splits: the sets.
        data: the rows that were split.

    Raises:
        DatasetError: no row of val_select or of val_calib has a value in their column.
    """
    if settings.mode != "balanced":
        return
    for name in CERTIFYING:
        if not any(row.about(settings.subgroups) for row in splits.dataset(data, name).rows):
            raise DatasetError(
                f"no row of {name} has a value in the column {settings.subgroups!r}, whose subgroups "
                "calibrate_scrc.mode=balanced certifies: fill it in for more rows, or name another column in "
                "calibrate_scrc.subgroups"
            )


def reads(config: RunConfig) -> Reads[Dataset]:
    """All rows, all of their columns, and what decides where they go."""
    return Reads(
        settings=(
            "preprocess.max_bytes",
            "preprocess.max_pixels",
            "preflight",
            "splits",
            "model.heads",
            "calibrate_scrc.mode",
            "calibrate_scrc.subgroups",
            "calibrate_scrc.unit",
            "calibrate_scrc.allow_row_unit",
        ),
        outside=tuple(scorer_files(config)),
    )


STAGE: NightStage = Stage(
    name="splits",
    needs=(),
    reads=reads,
    run=run_splits,
    distributions=("imagehash", "numpy", "pillow", "scipy", "simplejpeg"),
    rehearsed=(SPLIT_LEDGER, FINGERPRINTS, FILE_LOOKS),
)
