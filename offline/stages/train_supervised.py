"""The stage that trains adapter and heads; torch is imported only when it runs."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from offline.data.known_rows import KnownRows
from offline.learning.supervised.record import TrainingRecord
from offline.pipeline.reads import Reads
from offline.pipeline.run_files import BACKBONE, SUPERVISED, TRAINING, TRAINING_LOG
from offline.pipeline.stage import Stage
from offline.splits.settings import EXAMS
from offline.stages.common.declared import JUDGEMENT, learned
from offline.stages.common.distributions import FOR_TRAINING
from offline.stages.common.inputs import rows_of, splits_of
from offline.stages.common.outside_files import teacher_files, training_start
from offline.stages.common.seen_rows import PICTURES, RowsOf
from offline.stages.common.sent_rows import sent_rows_of

if TYPE_CHECKING:
    from offline.config import RunConfig
    from offline.data.dataset import Dataset
    from offline.stages.common.context import Context, NightStage


def run_train_supervised(context: Context) -> None:
    """Train adapter and heads.

    Writes `model_supervised.safetensors`, the adapter by itself, `training.csv` and `training.json`.
    """
    from offline.data.originals import Copies  # noqa: PLC0415
    from offline.learning.adapter_file import AdapterOrigin, Judges, load_adapter, save_adapter  # noqa: PLC0415
    from offline.learning.conformal.keep_rule import choosing  # noqa: PLC0415
    from offline.learning.supervised.train import Trainee, train_supervised  # noqa: PLC0415
    from offline.learning.training_views import training_views  # noqa: PLC0415
    from offline.stages.common.network import images_of, network_of  # noqa: PLC0415
    from offline.stages.common.taught_rows import taught_rows  # noqa: PLC0415
    from stage1.model.adapters.attach import add_adapters, merge_adapters  # noqa: PLC0415
    from stage1.model.weights import load_weights, save_weights  # noqa: PLC0415

    config = context.config
    settings = config.train_supervised
    net = network_of(context, trained=False)
    adapted = context.inputs["adapt_domain"] / BACKBONE
    if adapted.exists():
        load_weights(net.backbone, adapted)
    add_adapters(net, config.model)
    taught = taught_rows(context, rows_of(context, "train"))
    train = images_of(context, taught.rows)
    select = sent_rows_of(context, "val_select")
    known = KnownRows(frozenset(context.data.ids), splits_of(context).contents)
    about = AdapterOrigin(
        config.model,
        config.preprocess.shape,
        config.preprocess.tiles,
        trained=known.note(rows_of(context, "train").ids) | taught.unlabelled,
        # What a teacher says depends on the labels that it has learned from, so those certify nothing of this either.
        chose=known.note(select.ids) | taught.learned,
    )
    if settings.warm_start is not None:
        exams = [row for name in EXAMS for row in rows_of(context, name).ids]
        about = load_adapter(net, about, settings.warm_start, Judges(known, select.ids, exams))
    challenges = training_views(
        train.data,
        config.preprocess,
        config.calibrate_scrc,
        settings.augmentation,
        Copies(context.originals, config.preprocess),
        context.progress.step,
    )
    # The other half judges whether heads that train on from here replace these.
    chooses = choosing(select, config.seed) if config.train_conformal_risk.enabled else select
    outcome = train_supervised(
        Trainee(net, train, images_of(context, chooses), config.model.heads, challenges, taught.soft),
        settings,
        config.calibrate_scrc,
        seed=config.seed,
        progress=context.progress.step,
        checkpoints=context.checkpoints,
        cache=context.prefixes,
    )
    save_adapter(net, about, context.out)
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in net.parameters())
    merge_adapters(net)
    save_weights(net, context.out / SUPERVISED)
    with (context.out / TRAINING_LOG).open("w", newline="") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(outcome.records[0]))
        writer.writeheader()
        writer.writerows(outcome.records)
    TrainingRecord(
        adapter=config.model.adapter,
        trained_parameters=trained,
        all_parameters=whole,
        cached=outcome.cached,
        inputs=outcome.inputs,
        accumulation=outcome.accumulation,
        coverage=outcome.score.coverage,
        loss=-outcome.score.negative_loss,
        value=outcome.score.value,
        most_coverage=max(record["val_select_coverage"] for record in outcome.records),
        balance=outcome.balance,
        steps=outcome.steps,
        learning_rate=outcome.learning_rate,
        first_rate=outcome.first_rate,
        chance=outcome.chance,
        lowest_loss=outcome.lowest_loss,
        learned=outcome.learned,
        teacher=None if taught.record is None else taught.record.model_dump(mode="json"),
    ).write(context.out / TRAINING)


def reads(config: RunConfig) -> Reads[Dataset]:
    """The rows of train and val_select; which pictures judge, where something is taken over that may have seen them."""
    taught = config.learn.teacher is not None
    taken_over = taught or config.train_supervised.warm_start is not None
    about_teacher = ("images", "weight", "temperature") if taught else ()
    return Reads(
        settings=(
            "seed",
            "preprocess",
            "model",
            "train_supervised",
            "train_conformal_risk.enabled",
            *JUDGEMENT,
            "learn.teacher",
            *(f"learn.teacher_{name}" for name in about_teacher),
            *(("splits.hash_distance",) if taught else ()),
        ),
        files={"adapt_domain": (BACKBONE,)},
        rows=RowsOf(
            {
                # An engine that is asked for its answers is handed the groups of the rows too.
                "train": learned(config, "group") if taught else learned(config),
                "val_select": learned(config, "group"),
                **(dict.fromkeys(EXAMS, PICTURES) if taken_over else {}),
            }
        ),
        outside=(*training_start(config), *teacher_files(config)),
    )


STAGE: NightStage = Stage(
    name="train_supervised",
    needs=("splits", "adapt_domain"),
    reads=reads,
    run=run_train_supervised,
    distributions=FOR_TRAINING,
)
