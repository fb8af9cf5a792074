"""The stage that trains what the report sets beside the model; torch is imported only when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offline.pipeline.run_files import BEST, COMPARISON, SUPERVISED
from offline.pipeline.stage import Stage
from offline.stages.common.distributions import FOR_TRAINING
from offline.stages.common.inputs import rows_of
from offline.stages.common.outside_files import training_start
from offline.stages.common.sent_rows import sent_rows_of

if TYPE_CHECKING:
    from offline.stages.common.context import Context, NightStage


def run_compare_training(context: Context) -> None:
    """Train what the report sets beside the model; writes `comparison.json`."""
    from offline.stages.common.ablations import Ablations, Weights  # noqa: PLC0415
    from offline.stages.common.network import images_of  # noqa: PLC0415

    supervised, final = context.inputs["train_supervised"], context.inputs["train_conformal_risk"]
    Ablations(
        config=context.config,
        train=images_of(context, rows_of(context, "train")),
        val_select=images_of(context, sent_rows_of(context, "val_select")),
        test=images_of(context, sent_rows_of(context, "test")),
        weights=Weights(supervised / SUPERVISED, final / BEST),
        checkpoints=context.checkpoints,
        cache=context.prefixes,
        originals=context.originals,
        progress=context.progress.step,
    ).run().write(context.out / COMPARISON)


STAGE: NightStage = Stage(
    name="compare_training",
    needs=("splits", "train_supervised", "train_conformal_risk"),
    sections=(
        "seed",
        "preprocess",
        "model",
        "adapt_domain.enabled",
        "train_supervised",
        "train_conformal_risk",
        "compare_training",
        "learn.teacher",
        "calibrate_scrc",
    ),
    run=run_compare_training,
    distributions=FOR_TRAINING,
    outside=training_start,
)
