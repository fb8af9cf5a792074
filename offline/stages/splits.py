"""Check the data and split them."""

from __future__ import annotations

from offline.data.fingerprints import FINGERPRINTS, fingerprints
from offline.data.named_targets import check_named
from offline.data.preflight import PREFLIGHT, run_preflight
from offline.pipeline.run_files import SPLITS
from offline.pipeline.stage import StageContext
from offline.splits.assign import Looks, examined, split
from offline.splits.difficulty import difficulties
from offline.splits.split_ledger import SPLIT_LEDGER, append_events, read_ledger
from offline.stages.inputs import rows_of


def run_splits(context: StageContext) -> None:
    """Check the data and split what is usable by group; writes `preflight.json`, `splits.json` and into the ledger."""
    config, told = context.config, context.progress.step
    data, report = run_preflight(rows_of(context), config.preprocess, config.preflight, told)
    # A value that no head knows is found now, and not when training begins.
    check_named(data, config.model.heads)
    report.write(context.out / PREFLIGHT)
    settings = config.splits
    prints = fingerprints(data, context.workspace / FINGERPRINTS, told)
    scorer, scores = difficulties(examined(data, settings), prints, settings.difficulty, told)
    looks = Looks({row: taken.phash for row, taken in prints.items()}, scorer, scores)
    ledger = context.workspace / SPLIT_LEDGER
    splits, events = split(data, looks, read_ledger(ledger), settings, context.now().isoformat(timespec="seconds"))
    splits.check(data)
    # Before the splits: what is in the ledger and not in a file yet is found there by the next run.
    append_events(ledger, events)
    splits.write(context.out / SPLITS)
