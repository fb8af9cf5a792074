"""The stages that learn; torch is imported only when one of them runs."""

from __future__ import annotations

import csv
import shutil

from offline.data.dataset import Dataset
from offline.data.fingerprints import FINGERPRINTS
from offline.pipeline.run_files import (
    BACKBONE,
    BEST,
    COMPARISON,
    JUDGING,
    SUPERVISED,
    TRAINING,
    TRAINING_LOG,
    images_of,
    network_of,
    rows_of,
)
from offline.pipeline.runner import StageContext
from offline.stages.export import AdaptationRecord, ConformalRecord, TrainingRecord


def run_adapt_domain(context: StageContext) -> None:
    """Adapt the backbone to the domain without labels; writes `backbone.safetensors` and `adaptation.json` if enabled.

    The labels of train and val_select judge the features, and train nothing.
    """
    settings = context.config.adapt_domain
    if not settings.enabled:
        return
    from offline.data.unlabelled import COPIES_DISTANCE, hashes_of, read_unlabelled  # noqa: PLC0415
    from offline.learning.self_distillation.adapt import adapt_domain  # noqa: PLC0415
    from offline.learning.self_distillation.probe import feature_judge  # noqa: PLC0415
    from stage1.model.backbones import save_weights  # noqa: PLC0415

    config = context.config
    net = network_of(context, trained=False)
    train, val_select = images_of(context, "train"), images_of(context, "val_select")
    judged = Dataset(context.data_root, tuple(row for name in JUDGING for row in rows_of(context, name).rows))
    more = read_unlabelled(
        settings.images,
        config.preprocess,
        hashes_of(judged, context.workspace / FINGERPRINTS),
        config.splits.hash_distance or COPIES_DISTANCE,
        ahead=train.images,
        progress=context.progress.step,
    )
    found = adapt_domain(
        net,
        more.images,
        settings,
        seed=config.seed,
        progress=context.progress.step,
        checkpoints=context.checkpoints,
        judge=feature_judge(settings.judge, train, val_select),
    )
    save_weights(net.backbone, context.out / BACKBONE)
    AdaptationRecord(
        images=len(more.images),
        unreadable=more.unreadable,
        alike=more.alike,
        kept_epoch=found.kept,
        judge=settings.judge,
        before=found.before,
        epochs=tuple(found.records),
    ).write(context.out / "adaptation.json")


def run_train_supervised(context: StageContext) -> None:
    """Train adapter and heads.

    Writes `model_supervised.safetensors`, the adapter by itself, `training.csv` and `training.json`.
    """
    from offline.learning.supervised.train import Trainee, train_supervised  # noqa: PLC0415
    from stage1.model.adapters.attach import (  # noqa: PLC0415
        AdapterOrigin,
        add_adapters,
        load_adapter,
        merge_adapters,
        save_adapter,
    )
    from stage1.model.backbones import load_weights, save_weights  # noqa: PLC0415

    config = context.config
    settings = config.train_supervised
    net = network_of(context, trained=False)
    adapted = context.inputs["adapt_domain"] / BACKBONE
    if adapted.exists():
        load_weights(net.backbone, adapted)
    add_adapters(net, config.model)
    train = images_of(context, "train")
    about = AdapterOrigin(config.model, config.preprocess.size_px, frozenset(train.data.ids))
    if settings.warm_start is not None:
        judged = {row for name in JUDGING for row in rows_of(context, name).ids}
        load_adapter(net, about, settings.warm_start, judged)
    outcome = train_supervised(
        Trainee(net, train, images_of(context, "val_select"), config.model.heads),
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
        coverage=outcome.score.coverage,
        loss=-outcome.score.negative_loss,
    ).write(context.out / TRAINING)


def run_train_conformal_risk(context: StageContext) -> None:
    """Fine-tune the heads for the exit risk; writes `model_best.safetensors`."""
    supervised = context.inputs["train_supervised"] / SUPERVISED
    config = context.config
    if not config.train_conformal_risk.enabled:
        shutil.copyfile(supervised, context.out / BEST)
        ConformalRecord(enabled=False).write(context.out / "conformal_training.json")
        return
    from offline.learning.conformal.train import train_conformal_risk  # noqa: PLC0415
    from stage1.model.backbones import load_weights, save_weights  # noqa: PLC0415

    net = network_of(context, trained=True)
    load_weights(net, supervised)
    before, after = train_conformal_risk(
        net,
        images_of(context, "train"),
        images_of(context, "val_select"),
        config.train_conformal_risk,
        config.calibrate_scrc,
        seed=config.seed,
        progress=context.progress.step,
        checkpoints=context.checkpoints,
    )
    save_weights(net, context.out / BEST)
    record = ConformalRecord(enabled=True, coverage_before=before.coverage, coverage_after=after.coverage)
    record.write(context.out / "conformal_training.json")


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
