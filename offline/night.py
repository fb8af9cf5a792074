"""The stages of a night, in order. Each reads the files of the stages it needs and writes its own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engines.backends.compiled import compile_engine
from engines.engine import EngineSpec, in_batches, twin
from engines.store.bundle import (
    CALIBRATOR,
    ENGINE,
    ENGINE_PREFIXES,
    GOLDEN,
    PARAMS,
    PARITY_TOLERANCE,
    PREPROCESS,
    REQUIRED,
    SPEC,
    Provenance,
    certified_sha256_of,
    write_golden,
)
from offline.certify.calibration_ledger import BATCH, calibrator_of, claim_fold, code_version, golden_rows, run_engine
from offline.certify.engine_agreement import agreed, compiled_engine, machine_of, write_drift
from offline.config import PretrainedBackbone, RunConfig
from offline.data.dataset import Dataset
from offline.data.fingerprints import FINGERPRINTS, fingerprints
from offline.data.named_targets import check_named, named_targets
from offline.data.preflight import PREFLIGHT, run_preflight
from offline.evaluation.evaluate import EvaluationSettings, evaluate, metrics_csv
from offline.evaluation.training_comparison import TrainingComparison
from offline.pipeline.run_files import (
    ADAPTER_TENSORS,
    BEST,
    COMPARISON,
    METRICS,
    PAGE,
    PUBLICATION,
    REFERENCES,
    REPORT,
    SPLITS,
    THRESHOLDS,
    network_of,
    rows_of,
    splits_of,
)
from offline.pipeline.runner import CONFIG, Stage, StageContext
from offline.publish import gate
from offline.report.page import render
from offline.report.thumbnails import thumbnails
from offline.splits.assign import Looks, examined, split
from offline.splits.difficulty import difficulties
from offline.splits.split_ledger import SPLIT_LEDGER, append_events, read_ledger
from offline.stages.export import ExportRecord
from offline.stages.train_supervised import (
    run_adapt_domain,
    run_compare_training,
    run_train_conformal_risk,
    run_train_supervised,
)
from stage1.artifacts import write_atomic
from stage1.baselines.literature import ReferenceRules, Thresholds, reference_rules, swept_thresholds
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.candidates import select
from stage1.certificate.params import ScrcParams
from stage1.preprocess import PreprocessSettings
from stage1.probability.calibrator import ProbabilityCalibrator


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


def run_export(context: StageContext) -> None:
    """Export to ONNX, prove it equal to torch, and compile that for the engine of the config.

    Writes `model.onnx`, what the engine needs beside it, `spec.json` and `preprocess.json`.
    """
    from offline.certify.onnx_export import PARITY_BATCHES, check_export, export_bf16, export_onnx  # noqa: PLC0415
    from stage1.model.backbones import load_weights  # noqa: PLC0415

    config = context.config
    net = network_of(context, trained=True).cpu()
    load_weights(net, context.inputs["train_conformal_risk"] / BEST)
    path = context.out / ENGINE
    export_onnx(net, path, config.preprocess.size_px)
    rows = rows_of(context, "val_select")
    sample = Dataset(rows.root, rows.rows[: max(PARITY_BATCHES)])
    parity = check_export(net, path, sample.array(config.preprocess))
    spec = config.engine
    if spec.backend == "tensorrt" and spec.precision == "bf16":
        # A strongly typed engine takes its precision from the graph.
        export_bf16(net, twin(path, "bf16"), config.preprocess.size_px)
    compile_engine(spec, path, refittable=config.compile.refittable, timing_cache=context.workspace / "timing")
    spec.write(context.out / SPEC)
    config.preprocess.write(context.out / PREPROCESS)
    digest = certified_sha256_of(context.out, spec)
    ExportRecord(parity=parity, engine_sha256=digest).write(context.out / "export.json")


def run_calibrate_scrc(context: StageContext) -> None:
    """Certify the exit rule on the compiled engine.

    Writes `scrc_params.json`, `calibrator.json`, the golden set, and what stands beside the certificate in the report:
    `reference_rules.json` and `thresholds.json`.
    """
    config, export = context.config, context.inputs["export"]
    preprocess = PreprocessSettings.read(export / PREPROCESS)
    splits = splits_of(context)
    splits.check(rows_of(context))
    engine = compiled_engine(context)
    select_rows = rows_of(context, "val_select")
    val_select = run_engine(engine, select_rows, preprocess, context.progress.step, "val_select")
    spec = engine.describe().spec
    reference = agreed(context, spec, val_select)
    fold, prior_uses = claim_fold(context.workspace, splits, context.key, context.now().isoformat(timespec="seconds"))
    fold_rows = splits.pick(rows_of(context), fold)
    val_calib = run_engine(engine, fold_rows, preprocess, context.progress.step, "val_calib")
    digest = certified_sha256_of(export, spec)
    binding = CalibrationContext(digest, preprocess.sha256, prior_uses, code_version())
    settings = config.calibrate_scrc
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


def run_eval_selective(context: StageContext) -> None:
    """Evaluate on the test rows; writes `metrics.csv`, `report.json` and `report.html`."""
    export, calibrated = context.inputs["export"], context.inputs["calibrate_scrc"]
    params = ScrcParams.read(calibrated / PARAMS)
    calibrator = ProbabilityCalibrator.read(calibrated / CALIBRATOR)
    preprocess = PreprocessSettings.read(export / PREPROCESS)
    rows = rows_of(context, "test")
    test = run_engine(compiled_engine(context), rows, preprocess, context.progress.step, "test")
    rules, thresholds = ReferenceRules.read(calibrated / REFERENCES), Thresholds.read(calibrated / THRESHOLDS)
    report = evaluate(test, params, calibrator, rules, thresholds, EvaluationSettings(seed=context.config.seed))
    report.write(context.out / REPORT)
    write_atomic(context.out / METRICS, metrics_csv(report).encode())
    pictures = thumbnails(rows, [mistake.row for mistake in report.mistakes], preprocess)
    title = f"Stage-1 report, run {context.run}"
    comparison = TrainingComparison.read(context.inputs["compare_training"] / COMPARISON)
    page = render(report, params, title=title, data=_about(rows), thumbnails=pictures, comparison=comparison)
    write_atomic(context.out / PAGE, page.encode())


def _about(rows: Dataset) -> str:
    sources = sorted({row.source or "unnamed source" for row in rows.rows})
    text = f"Data: {', '.join(sources)}."
    if "synthetic" in sources:
        text += " Synthetic pictures say nothing about accuracy on real streets."
    return text


def run_publish(context: StageContext) -> None:
    """Put the bundle into the store; make it current if the gate lets it pass. Writes `publish.json`."""
    sources = [context.inputs[name] for name in BUNDLE_STAGES]
    files = context.out / "bundle"
    names = [name for name in (*REQUIRED, SPEC, BEST, REPORT, REFERENCES, THRESHOLDS) if name != CONFIG]
    beside = {path.name for path in context.inputs["export"].iterdir() if path.name.startswith(ENGINE_PREFIXES)}
    names += sorted(beside - set(names))
    gate.assemble(sources, names, files)
    context.config.write(files / CONFIG)
    data = rows_of(context)
    now = context.now()
    at = now.isoformat(timespec="seconds")
    provenance = Provenance(run=context.run, created_at=at, code_version=code_version(), data_sha256=data.sha256)
    bundle = context.store.publish(files, provenance, parity_tolerance=_tolerance(context.config.engine))
    shutil.rmtree(files)
    test = rows_of(context, "test")
    champion, reasons, rows = gate.judge_champion(
        context.store, context.store.path(bundle), test, test.ids, context.config.gate, context.progress
    )
    if not reasons:
        context.store.activate(bundle, now=now, action="publish")
    context.store.prune(context.config.gate.keep)
    gate.Publication(
        bundle=bundle, champion=champion, accepted=not reasons, reasons=tuple(reasons), test_rows=rows
    ).write(context.out / PUBLICATION)


def _tolerance(spec: EngineSpec) -> float:
    """Largest difference of an engine from its own golden outputs, in logits."""
    # On a GPU, each batch size has kernels of its own, and sums in bf16 depend on their order.
    return 2e-2 if spec.device == "cuda" and spec.precision == "bf16" else PARITY_TOLERANCE


def _backbone(config: RunConfig) -> list[Path]:
    """The backbone, if it is a directory."""
    backbone = config.model.backbone
    return [Path(backbone.name)] if isinstance(backbone, PretrainedBackbone) and Path(backbone.name).is_dir() else []


def _unlabelled(config: RunConfig) -> list[Path]:
    return [*_backbone(config), *(config.adapt_domain.images if config.adapt_domain.enabled else ())]


def _start(config: RunConfig) -> list[Path]:
    """What supervised training starts from."""
    start = config.train_supervised.warm_start
    return _backbone(config) if start is None else [*_backbone(config), start / ADAPTER_TENSORS]


BUNDLE_STAGES = ("splits", "train_conformal_risk", "export", "calibrate_scrc", "eval_selective")
_TORCH = ("torch", "transformers", "peft")
# What `open_engine` may import is found only when it does.
_ENGINES = ("engines.backends.opened", "engines.backends.openvino", "engines.backends.tensorrt.engine")
_MODEL = ("stage1.model.backbones", "stage1.model.adapters.attach", "offline.stages.export", "stage1.model.net")

_STAGES: tuple[Stage, ...] = (
    Stage(
        "splits",
        (),
        ("preprocess", "preflight", "splits", "model.heads"),
        (
            "offline.splits.assign",
            "offline.splits.split_ledger",
            "offline.data.fingerprints",
            "offline.splits.difficulty",
            "offline.data.preflight",
        ),
        run_splits,
        ("imagehash", "numpy", "pillow", "scipy", "simplejpeg"),
    ),
    Stage(
        "adapt_domain",
        ("splits",),
        ("seed", "preprocess", "model.backbone", "model.views", "splits.hash_distance", "adapt_domain"),
        (
            *_MODEL,
            "offline.learning.self_distillation.adapt",
            "offline.learning.self_distillation.probe",
            "offline.data.unlabelled",
            "stage1.preprocess",
        ),
        run_adapt_domain,
        (*_TORCH, "imagehash", "pillow", "scipy", "simplejpeg"),
        outside=_unlabelled,
    ),
    Stage(
        "train_supervised",
        ("splits", "adapt_domain"),
        ("seed", "preprocess", "model", "train_supervised", "calibrate_scrc"),
        (*_MODEL, "offline.learning.supervised.train", "stage1.preprocess", "stage1.certificate.calibrate"),
        run_train_supervised,
        (*_TORCH, "kornia", "pillow", "pytorch_optimizer", "simplejpeg"),
        outside=_start,
    ),
    Stage(
        "train_conformal_risk",
        ("splits", "train_supervised"),
        ("seed", "preprocess", "model", "train_conformal_risk", "calibrate_scrc"),
        (
            *_MODEL,
            "offline.learning.conformal.train",
            "offline.learning.supervised.train",
            "stage1.preprocess",
            "stage1.certificate.calibrate",
        ),
        run_train_conformal_risk,
        (*_TORCH, "pillow", "simplejpeg"),
    ),
    Stage(
        "compare_training",
        ("splits", "train_supervised", "train_conformal_risk"),
        (
            "seed",
            "preprocess",
            "model",
            "adapt_domain.enabled",
            "train_supervised",
            "train_conformal_risk",
            "compare_training",
            "calibrate_scrc",
        ),
        (*_MODEL, "offline.stages.ablations", "stage1.preprocess"),
        run_compare_training,
        (*_TORCH, "kornia", "pillow", "pytorch_optimizer", "simplejpeg"),
        outside=_start,
    ),
    Stage(
        "export",
        ("splits", "train_conformal_risk"),
        ("preprocess", "model", "engine", "compile"),
        (*_MODEL, "offline.certify.onnx_export", "engines.store.bundle", "engines.backends.compiled"),
        run_export,
        (*_TORCH, "onnx", "onnxscript"),
        machine=machine_of,
    ),
    Stage(
        "calibrate_scrc",
        ("splits", "export"),
        ("seed", "calibrate_scrc", "model.heads"),
        (
            "offline.certify.calibration_ledger",
            "engines.store.bundle",
            *_ENGINES,
            "offline.stages.export",
            "stage1.certificate.calibrate",
            "stage1.policy",
            "stage1.probability.calibrator",
            "stage1.baselines.literature",
        ),
        run_calibrate_scrc,
        ("numpy", "pillow", "scipy", "simplejpeg"),
        machine=machine_of,
    ),
    Stage(
        "eval_selective",
        ("splits", "compare_training", "export", "calibrate_scrc"),
        (),
        (
            "offline.evaluation.evaluate",
            "offline.certify.calibration_ledger",
            *_ENGINES,
            "offline.report.page",
            "offline.report.thumbnails",
        ),
        run_eval_selective,
        ("numpy", "pillow", "scipy", "simplejpeg"),
        machine=machine_of,
    ),
    Stage("publish", BUNDLE_STAGES, ("gate",), ("offline.publish.gate",), run_publish, always=True),
)


# All read through the same few functions; what those import is named by each stage as far as it matters.
_COMPILED = ("offline.certify.engine_agreement",)
STAGES = tuple(
    replace(stage, helpers=("offline.pipeline.run_files", *(_COMPILED if stage.machine is machine_of else ())))
    for stage in _STAGES
)


def stage_names(stages: Sequence[Stage] = STAGES) -> tuple[str, ...]:
    """Names of the stages in order."""
    return tuple(stage.name for stage in stages)


def published(run: Path) -> gate.Publication:
    """What became of the challenger of a run.

    Raises:
        stage1.errors.ArtifactError: the run has not published.
    """
    return gate.Publication.read(run / PUBLICATION)
