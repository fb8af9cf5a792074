"""The stage that trains what the report sets beside the model; torch is imported only when it runs.

Of the test rows it sees pictures alone: what a label says of the trainings is for the stage after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, get_args

from offline.data.engine_outputs import write_outputs
from offline.evaluation.training_comparison import VariantName
from offline.pipeline.reads import Reads
from offline.pipeline.run_files import ABLATIONS, BEST, SUPERVISED, ablation_outputs
from offline.pipeline.stage import Stage
from offline.stages.common.declared import JUDGEMENT, conformal_settings, learned
from offline.stages.common.distributions import FOR_TRAINING
from offline.stages.common.inputs import rows_of
from offline.stages.common.outside_files import backbone_files
from offline.stages.common.seen_rows import PICTURES, RowsOf
from offline.stages.common.sent_rows import sent_rows_of
from stage1.artifacts import Artifact

if TYPE_CHECKING:
    from offline.config import RunConfig
    from offline.data.dataset import Dataset
    from offline.stages.common.context import Context, NightStage


class AblationsRecord(Artifact):
    """`ablations.json`: which variants were trained, in the order of the report; their outputs lie beside it."""

    SCHEMA_VERSION: ClassVar[int] = 1

    variants: tuple[VariantName, ...]


def run_train_ablations(context: Context) -> None:
    """Train the variants; writes `ablations.json`, and what each says of the rows of val_select and test."""
    from offline.stages.common.ablations import Ablations, Weights  # noqa: PLC0415
    from offline.stages.common.network import images_of  # noqa: PLC0415

    supervised, final = context.inputs["train_supervised"], context.inputs["train_conformal_risk"]
    found = Ablations(
        config=context.config,
        train=images_of(context, rows_of(context, "train")),
        val_select=images_of(context, sent_rows_of(context, "val_select")),
        test=images_of(context, sent_rows_of(context, "test")),
        weights=Weights(supervised / SUPERVISED, final / BEST),
        checkpoints=context.checkpoints,
        cache=context.prefixes,
        originals=context.originals,
        progress=context.progress.step,
    ).run()
    for name, (test, val_select) in found.items():
        write_outputs(context.out / ablation_outputs(name, "test"), test)
        write_outputs(context.out / ablation_outputs(name, "val_select"), val_select)
    AblationsRecord(variants=tuple(found)).write(context.out / ABLATIONS)


def outputs_files() -> tuple[str, ...]:
    """Names of the files of all variants that there may be."""
    return tuple(ablation_outputs(name, rows) for name in get_args(VariantName) for rows in ("test", "val_select"))


def reads(config: RunConfig) -> Reads[Dataset]:
    """What training reads, and the pictures of the test rows."""
    wanted = ("baseline", "cross_entropy", "adaptation")
    return Reads(
        settings=(
            "seed",
            "preprocess",
            "model",
            "adapt_domain.enabled",
            "train_supervised",
            *conformal_settings(config),
            *(f"compare_training.{name}" for name in wanted),
            "learn.teacher",
            *JUDGEMENT,
        ),
        files={"train_supervised": (SUPERVISED,), "train_conformal_risk": (BEST,)},
        rows=RowsOf({"train": learned(config, "group"), "val_select": learned(config, "group"), "test": PICTURES}),
        outside=tuple(backbone_files(config)),
    )


STAGE: NightStage = Stage(
    name="train_ablations",
    needs=("splits", "train_supervised", "train_conformal_risk"),
    reads=reads,
    run=run_train_ablations,
    distributions=FOR_TRAINING,
)
