"""The stage that sets the trainings of a night side by side on the test rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offline.data.dataset import Dataset
from offline.data.engine_outputs import read_outputs
from offline.evaluation.training_comparison import VariantName, compare
from offline.pipeline.reads import Reads
from offline.pipeline.run_files import ABLATIONS, COMPARISON, ablation_outputs
from offline.pipeline.stage import Stage
from offline.stages.common.inputs import rows_of
from offline.stages.common.seen_rows import LABELLED, RowsOf
from offline.stages.train_ablations import AblationsRecord, outputs_files
from stage1.certificate.labelled_outputs import LabelledOutputs

if TYPE_CHECKING:
    from offline.config import RunConfig
    from offline.splits.settings import Split
    from offline.stages.common.context import Context, NightStage


def run_compare_training(context: Context) -> None:
    """Compare what was trained beside the model; writes `comparison.json`."""
    config, home = context.config, context.inputs["train_ablations"]
    names = AblationsRecord.read(home / ABLATIONS).variants

    def outputs(rows: Split) -> dict[VariantName, LabelledOutputs]:
        data = rows_of(context, rows)
        return {
            name: LabelledOutputs(read_outputs(home / ablation_outputs(name, rows)), data.labels, data.ids, data.groups)
            for name in names
        }

    compare(
        outputs("test"),
        outputs("val_select"),
        [("final", name) for name in names if name != "final"],
        # Without heads that must agree: not every variant has them.
        config.calibrate_scrc.model_copy(update={"agreement": ()}),
        repetitions=config.compare_training.repetitions,
        seed=config.seed,
    ).write(context.out / COMPARISON)


def reads(_config: RunConfig) -> Reads[Dataset]:
    """What each variant says of the rows of val_select and test, and their labels."""
    return Reads(
        settings=("seed", "compare_training.repetitions", "calibrate_scrc"),
        files={"train_ablations": (ABLATIONS, *outputs_files())},
        rows=RowsOf({"val_select": LABELLED, "test": LABELLED}),
    )


STAGE: NightStage = Stage(
    name="compare_training",
    needs=("splits", "train_ablations"),
    reads=reads,
    run=run_compare_training,
    distributions=("numpy", "scipy"),
)
