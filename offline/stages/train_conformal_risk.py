"""The stage that fine-tunes the heads for the exit risk; torch is imported only when it runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from engines.store.shared_file import share
from offline.pipeline.reads import Reads
from offline.pipeline.run_files import BEST, CONFORMAL_TRAINING, SUPERVISED
from offline.pipeline.stage import Stage
from offline.stages.common.declared import JUDGEMENT
from offline.stages.common.inputs import rows_of
from offline.stages.common.outside_files import backbone_files
from offline.stages.common.seen_rows import LABELLED, RowsOf
from offline.stages.common.sent_rows import sent_rows_of
from stage1.artifacts import Artifact

if TYPE_CHECKING:
    from offline.config import RunConfig
    from offline.data.dataset import Dataset
    from offline.stages.common.context import Context, NightStage


class ConformalRecord(Artifact):
    """`conformal_training.json`: what conformal risk training gained, on rows of val_select that chose nothing.

    Attributes:
        enabled: it ran.
        kept: its heads replace the supervised ones.
        exits_before: mean share that exits at miss rates around alpha by the supervised heads.
        exits_after: that of the trained heads.
        gain_lower: the difference is above this with 95 % confidence; None where a class is missing.
    """

    SCHEMA_VERSION: ClassVar[int] = 2
    schema_version: int = 2

    enabled: bool
    kept: bool = False
    exits_before: float | None = None
    exits_after: float | None = None
    gain_lower: float | None = None


def run_train_conformal_risk(context: Context) -> None:
    """Fine-tune the heads for the exit risk; writes `model_best.safetensors`."""
    supervised = context.inputs["train_supervised"] / SUPERVISED
    config = context.config
    if not config.train_conformal_risk.enabled:
        share(supervised, context.out / BEST)
        ConformalRecord(enabled=False).write(context.out / CONFORMAL_TRAINING)
        return
    from offline.learning.challenge_views import certified_views  # noqa: PLC0415
    from offline.learning.conformal.train import train_conformal_risk  # noqa: PLC0415
    from offline.stages.common.network import images_of, network_of  # noqa: PLC0415
    from stage1.model.weights import load_weights, save_weights  # noqa: PLC0415

    net = network_of(context, trained=True)
    load_weights(net, supervised)
    train = images_of(context, rows_of(context, "train"))
    outcome = train_conformal_risk(
        net,
        train,
        images_of(context, sent_rows_of(context, "val_select")),
        config.train_conformal_risk,
        config.calibrate_scrc,
        seed=config.seed,
        progress=context.progress.step,
        challenges=certified_views(train.data, config.preprocess, config.calibrate_scrc),
        checkpoints=context.checkpoints,
    )
    save_weights(net, context.out / BEST)
    ConformalRecord(
        enabled=True,
        kept=outcome.gain.kept,
        exits_before=defined(outcome.before),
        exits_after=defined(outcome.after),
        gain_lower=defined(outcome.gain.lower),
    ).write(context.out / CONFORMAL_TRAINING)


def defined(value: float) -> float | None:
    """None for what is not defined, which JSON has no number for."""
    return value if math.isfinite(value) else None


def reads(config: RunConfig) -> Reads[Dataset]:
    """Where it is switched off, the supervised model alone."""
    files = {"train_supervised": (SUPERVISED,)}
    if not config.train_conformal_risk.enabled:
        return Reads(settings=("train_conformal_risk.enabled",), files=files, rows=RowsOf({}))
    return Reads(
        settings=("seed", "preprocess", "model", "train_conformal_risk", *JUDGEMENT),
        files=files,
        rows=RowsOf({"train": LABELLED, "val_select": LABELLED}),
        outside=tuple(backbone_files(config)),
    )


STAGE: NightStage = Stage(
    name="train_conformal_risk",
    needs=("splits", "train_supervised"),
    reads=reads,
    run=run_train_conformal_risk,
    distributions=("torch", "transformers", "peft", "numpy", "pillow", "scipy", "simplejpeg"),
)
