"""Train what the report sets beside the model."""

from __future__ import annotations

from offline.pipeline.run_files import BEST, COMPARISON, SUPERVISED
from offline.pipeline.stage import StageContext
from offline.stages.inputs import images_of


def run_compare_training(context: StageContext) -> None:
    """Train what the report sets beside the model; writes `comparison.json`."""
    from offline.stages.ablations import Ablations, Weights  # noqa: PLC0415

    supervised, final = context.inputs["train_supervised"], context.inputs["train_conformal_risk"]
    Ablations(
        config=context.config,
        train=images_of(context, "train"),
        val_select=images_of(context, "val_select"),
        test=images_of(context, "test"),
        weights=Weights(supervised / SUPERVISED, final / BEST),
        checkpoints=context.checkpoints,
        cache=context.prefixes,
        progress=context.progress.step,
    ).run().write(context.out / COMPARISON)
