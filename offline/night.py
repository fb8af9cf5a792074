"""The stages of a night, in order. Each reads the files of the stages it needs and writes its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from offline.certify.engine_agreement import machine_of
from offline.config import RunConfig
from offline.pipeline.run_files import (
    ADAPTER_TENSORS,
)
from offline.pipeline.stage import Stage
from offline.stages.adapt_domain import run_adapt_domain
from offline.stages.calibrate_scrc import run_calibrate_scrc
from offline.stages.compare_training import run_compare_training
from offline.stages.eval_selective import run_eval_selective
from offline.stages.export import run_export
from offline.stages.publish import BUNDLE_STAGES, run_publish
from offline.stages.splits import run_splits
from offline.stages.train_conformal_risk import run_train_conformal_risk
from offline.stages.train_supervised import run_train_supervised
from stage1.model.settings import PretrainedBackbone


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
