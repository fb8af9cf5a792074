"""The stage that certifies the exit rule on the compiled engine, because its numbers are those that will serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engines.batches import in_batches
from engines.store.bundle import certified_sha256_of
from engines.store.file_names import CALIBRATOR, GOLDEN, PARAMS, PREPROCESS
from engines.store.golden import write_golden
from offline.certify.calibration_ledger import claim_fold
from offline.certify.engine_agreement import machine_of
from offline.data.dataset import Dataset
from offline.data.engine_outputs import BATCH, run_engine
from offline.data.named_targets import NO_TARGET, named_targets
from offline.pipeline.content_key import code_version
from offline.pipeline.run_files import REFERENCES, THRESHOLDS
from offline.pipeline.stage import Stage
from offline.splits.balanced_placement import hash_key
from offline.stages.common.compiled_engine import agreed, compiled_engine, write_drift
from offline.stages.common.inputs import splits_of
from offline.stream.sender import sender_of
from stage1.baselines.literature import reference_rules
from stage1.baselines.softmax import swept_thresholds
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.search.candidates import select
from stage1.preprocess import PreprocessSettings
from stage1.probability.calibrator import ProbabilityCalibrator
from stage1.probability.fit import fit_calibrator, fit_head

if TYPE_CHECKING:
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
    `reference_rules.json` and `thresholds.json`.
    """
    config, export = context.config, context.inputs["export"]
    preprocess = PreprocessSettings.read(export / PREPROCESS)
    splits = splits_of(context)
    splits.check(context.data)
    engine = compiled_engine(context)
    settings = config.calibrate_scrc
    sender = sender_of(settings)
    select_rows = splits.dataset(context.data, "val_select").sent_by(sender)
    val_select = run_engine(engine, select_rows, preprocess, context.progress.step, "val_select")
    spec = engine.describe().spec
    reference = agreed(context, spec, select_rows, val_select)
    fold, prior_uses = claim_fold(context.workspace, splits, context.key, context.now().isoformat(timespec="seconds"))
    fold_rows = splits.pick(context.data, fold).sent_by(sender)
    val_calib = run_engine(engine, fold_rows, preprocess, context.progress.step, "val_calib")
    digest = certified_sha256_of(export, spec)
    binding = CalibrationContext(digest, preprocess.sha256, prior_uses, code_version(), sender.stream, sender.weights)
    params = calibrate(val_select, val_calib, settings, binding)
    params.write(context.out / PARAMS)
    calibrator_of(val_calib, named_targets(fold_rows, config.model.heads)).write(context.out / CALIBRATOR)
    compared = {"alpha": settings.alpha, "delta": settings.delta, "coverage": settings.coverage}
    reference_rules(val_select, val_calib, select(val_select, settings), **compared).write(context.out / REFERENCES)
    swept = swept_thresholds(val_select, alpha=settings.alpha, false_alarm_rate=settings.false_alarm_rate)
    swept.write(context.out / THRESHOLDS)
    golden = golden_rows(select_rows, config.seed).array(preprocess)
    write_golden(context.out / GOLDEN, golden, in_batches(engine, golden, BATCH))
    write_drift(context, spec, val_select, reference, params)


STAGE: NightStage = Stage(
    name="calibrate_scrc",
    needs=("splits", "export"),
    sections=("seed", "calibrate_scrc", "model.heads"),
    run=run_calibrate_scrc,
    distributions=("numpy", "pillow", "scipy", "simplejpeg"),
    machine=lambda config: machine_of(config.engine),
)
