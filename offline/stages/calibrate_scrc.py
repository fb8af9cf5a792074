"""The stage that certifies the exit rule on the compiled engine, because its numbers are those that will serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engines.backends.registry import backend
from engines.batches import in_batches
from engines.store.bundle import certified_sha256_of
from engines.store.file_names import CALIBRATOR, GOLDEN, PARAMS, PREPROCESS, SPEC, SPLITS
from engines.store.golden import golden_count, write_golden
from offline.certify.calibration_ledger import (
    earlier_than,
    looks_of,
    one_look_at_a_time,
    read_certifications,
    record_look,
)
from offline.certify.calibration_record import write_record
from offline.certify.compact_look import LedgerEntry
from offline.certify.engine_agreement import machine_of
from offline.certify.folds import Fold, budget_of, folds_on_offer, most_powerful, opened_since
from offline.certify.sample_words import sample_words
from offline.certify.second_look import SecondLook, second_look
from offline.certify.use_history import bring_up_to_date
from offline.data.dataset import Dataset
from offline.data.engine_outputs import BATCH, labelled, read_outputs, run_engine, unseen
from offline.data.named_targets import NO_TARGET, named_targets
from offline.errors import DatasetError
from offline.pipeline.content_key import code_version
from offline.pipeline.reads import Reads
from offline.pipeline.run_files import REFERENCES, SCREEN, SECOND_LOOK, SELECT_OUTPUTS, THRESHOLDS
from offline.pipeline.settings_view import ALL
from offline.pipeline.stage import Stage
from offline.publish.after_alarm import unanswered_alarm
from offline.splits.balanced_placement import hash_key
from offline.splits.splits_file import Splits
from offline.splits.store_history import ask_store, check_unspent
from offline.stages.common.compiled_engine import agreed, compiled_engine, write_drift
from offline.stages.common.declared import head_columns
from offline.stages.common.distributions import FOR_JUDGEMENT
from offline.stages.common.inputs import rows_of, splits_of
from offline.stages.common.seen_rows import RowsOf, Seen, splits_in
from offline.stages.screen import Screen
from offline.stream.sender import sender_of
from stage1.baselines.literature import ReferenceRules, reference_rules
from stage1.baselines.softmax import swept_thresholds
from stage1.certificate.calibrate import AMONG_POSITIVES, CalibrationContext, calibrate, infeasible, obstacle
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.search.candidates import select
from stage1.certificate.statistics.binomial import trials_needed
from stage1.preprocess import PreprocessSettings
from stage1.probability.calibrator import ProbabilityCalibrator
from stage1.probability.fit import fit_calibrator, fit_head

if TYPE_CHECKING:
    from offline.config import RunConfig
    from offline.stages.common.context import Context, NightStage

GOLDEN_IMAGES = 64


def calibrator_of(
    rows: LabelledOutputs, targets: Mapping[str, NDArray[np.int64]] | None = None
) -> ProbabilityCalibrator:
    """Calibrators fitted on rows of val_calib; the probability as it is where they show one class only.

    The exit decision never reads a probability, so this does not touch what is certified on the same rows.

    Args:
        rows: of val_calib.
        targets: class of each row for each named head, `(N,)`, `NO_TARGET` where there is none. A head whose rows do
            not show all of its classes has no calibrator.
    """
    if not 0 < rows.labels.sum() < len(rows):
        return ProbabilityCalibrator()
    heads = dict(fit_calibrator(rows.outputs, rows.labels).heads)
    for name, classes in (targets or {}).items():
        known = classes != NO_TARGET
        if len(np.unique(classes[known])) == rows.outputs.heads[name].shape[1]:
            heads[name] = fit_head(name, rows.outputs.heads[name][known], classes[known])
    return ProbabilityCalibrator(heads=heads)


def golden_rows(data: Dataset, seed: int, most: int = GOLDEN_IMAGES) -> Dataset:
    """A few rows of each class, picked by hash, for the golden set.

    Args:
        data: where to pick.
        seed: of the hash.
        most: rows of both classes together.
    """
    ordered = sorted(data.rows, key=lambda row: hash_key(seed, row.image))
    half = most // 2
    picked = [row for label in (0, 1) for row in [r for r in ordered if r.label == label][:half]]
    return replace(data, rows=tuple(picked))


def run_calibrate_scrc(context: Context) -> None:
    """Certify the exit rule on the compiled engine.

    Writes `scrc_params.json`, `calibrator.json`, the golden set, and what stands beside the certificate in the report:
    `reference_rules.json` and `thresholds.json`. The rows of a fold of val_calib are looked at only if something could
    be certified on them, and that is written down before; else the calibrators are those of val_select.
    """
    config, export = context.config, context.inputs["export"]
    preprocess, settings = PreprocessSettings.read(export / PREPROCESS), config.calibrate_scrc
    splits = splits_of(context)
    engine = compiled_engine(context)
    spec = engine.describe().spec
    sender = sender_of(settings)
    select_rows = rows_of(context, "val_select").sent_by(sender)
    val_select = labelled(select_rows, read_outputs(context.inputs["screen"] / SELECT_OUTPUTS))
    reference = agreed(context, spec, select_rows, val_select)
    with one_look_at_a_time(context.store.root):
        history = ask_store(context.store)
        at = context.now().isoformat(timespec="seconds")
        bring_up_to_date(context.workspace, history, at, looks_of(context.store.root))
        earlier, own = earlier_than(read_certifications(context.workspace), context.key)
        fold = fold_of(context, splits, earlier, own)
        fold_rows = context.data.pick(fold.rows).sent_by(sender)
        binding = CalibrationContext(
            certified_sha256_of((export / SPEC).parent, spec),
            preprocess.sha256,
            fold.uses,
            code_version(),
            tolerance=backend(spec.backend).tolerance(spec),
            spent_before=fold.spent,
            calib_share=config.splits.val_calib,
            sample=sample_words(splits, fold.from_store),
            stream=sender.stream,
            stream_weights=sender.weights,
        )
        screen = Screen.read(context.inputs["screen"] / SCREEN)
        why_not = obstacle(val_select, unseen(fold_rows), settings, binding) or screen.reason
        # Unless this certification was killed after it had written it down.
        if not why_not and own is None:
            look(context, splits, fold)
    if why_not:
        params = infeasible(val_select, unseen(fold_rows), settings, binding, why_not)
        shown, shown_rows = val_select, select_rows
        SecondLook().write(context.out / SECOND_LOOK)
    else:
        shown = run_engine(engine, fold_rows, preprocess, context.progress.step, "val_calib")
        params, shown_rows = calibrate(val_select, shown, settings, binding), fold_rows
        sets = {"val_select": val_select, "val_calib": shown}
        second_look(params, shown, config.seed).write(context.out / SECOND_LOOK)
        about = (settings.subgroups,) if settings.mode == "balanced" else ()
        write_record(context.out, sets, key=context.key, about=about, calib_share=config.splits.val_calib)
    params.write(context.out / PARAMS)
    calibrator_of(shown, named_targets(shown_rows, config.model.heads)).write(context.out / CALIBRATOR)
    _write_beside(context, val_select, None if why_not else shown, binding.tolerance)
    count = golden_count(preprocess.shape, GOLDEN_IMAGES)
    golden = golden_rows(select_rows, config.seed, count).array(preprocess)
    write_golden(context.out / GOLDEN, golden, in_batches(engine, golden, BATCH))
    write_drift(context, spec, val_select, reference, params)


def fold_of(context: Context, splits: Splits, earlier: Sequence[LedgerEntry], own: LedgerEntry | None) -> Fold:
    """The fold of val_calib that this certification may look at, with what was spent on it before.

    Args:
        context: of the stage.
        splits: the sets.
        earlier: the certifications before this one.
        own: its own look, if it was killed after it had written that down.

    Raises:
        DatasetError: its own look was at rows that no fold has.
    """
    settings = context.config.calibrate_scrc

    def units(rows: Sequence[str]) -> int:
        counted = context.data.pick(rows).rows
        if settings.risk in AMONG_POSITIVES and settings.mode != "coverage":
            counted = tuple(row for row in counted if row.label == 1)
        return len({row.image if settings.unit == "row" else row.group for row in counted})

    fresh = budget_of(Fold(()), settings)
    needed = trials_needed(0, settings.alpha, fresh.level)
    offers = folds_on_offer(splits, earlier, delta=settings.delta, enough=lambda rows: units(rows) >= needed)
    if own is None:
        alarm = unanswered_alarm(context.store)
        return most_powerful(opened_since(offers, None if alarm is None else alarm.at), units, settings)
    resumed = [fold for fold in offers if tuple(sorted(fold.rows)) == own.rows]
    if not resumed:
        raise DatasetError(
            f"{context.workspace}: the calibration ledger has a look of this very certification at other rows than "
            "there are now; restore the ledger that belongs to this workspace, or take a new workspace"
        )
    return resumed[0]


def look(context: Context, splits: Splits, fold: Fold) -> None:
    """Write down that the rows of a fold are looked at."""
    group_of, contents = splits.groups, splits.contents
    entry = LedgerEntry(
        key=context.key,
        rows=tuple(sorted(fold.rows)),
        contents=tuple(sorted({contents[row] for row in fold.rows if row in contents})),
        groups=tuple(sorted({group_of[row] for row in fold.rows})),
        level=budget_of(fold, context.config.calibrate_scrc).level,
        at=context.now().isoformat(timespec="seconds"),
    )
    record_look(context.workspace, entry, context.store.root)


def _write_beside(
    context: Context, val_select: LabelledOutputs, val_calib: LabelledOutputs | None, tolerance: float
) -> None:
    """The rules of the literature, certified on the same rows if these were looked at, and swept thresholds."""
    settings = context.config.calibrate_scrc
    compared = {"alpha": settings.alpha, "delta": settings.delta, "coverage": settings.coverage}
    if val_calib is None:
        rules = ReferenceRules(**compared, rules=())
    else:
        rules = reference_rules(val_select, val_calib, select(val_select, settings, tolerance), **compared)
    rules.write(context.out / REFERENCES)
    swept = swept_thresholds(val_select, alpha=settings.alpha, false_alarm_rate=settings.false_alarm_rate)
    swept.write(context.out / THRESHOLDS)


def reads(config: RunConfig) -> Reads[Dataset]:
    """The engine and its answers for val_select, the rows of val_calib, and what is asked for."""
    settings = config.calibrate_scrc
    about = (settings.subgroups,) if settings.mode == "balanced" else ()
    seen = Seen(("label", "group"), (*head_columns(config), *about))
    return Reads(
        settings=("seed", "calibrate_scrc", "model.heads", "splits.val_calib", "preprocess"),
        files={"export": (ALL,), "screen": (SCREEN, SELECT_OUTPUTS)},
        rows=RowsOf({"val_select": seen, "val_calib": seen}, facts=("folds", "places.val_calib", "lost")),
    )


def check_sets(context: Context) -> None:
    """Make sure that no two sets have anything in common, and that no bundle has learned from a row of val_calib.

    Raises:
        DatasetError: two have, or one has.
    """
    file = context.inputs["splits"] / SPLITS
    splits = splits_in(file)
    splits.check(context.data)
    check_unspent(ask_store(context.store), splits, file.parent)


STAGE: NightStage = Stage(
    name="calibrate_scrc",
    needs=("splits", "export", "screen"),
    reads=reads,
    run=run_calibrate_scrc,
    distributions=FOR_JUDGEMENT,
    machine=lambda config: machine_of(config.engine),
    guard=check_sets,
)
