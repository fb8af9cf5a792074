"""The stage that adapts the backbone to the domain, without labels; torch is imported only when it runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from offline.data.checks.fingerprints import FINGERPRINTS
from offline.learning.self_distillation.record import AdaptationRecord
from offline.pipeline.reads import Reads
from offline.pipeline.run_files import ADAPTATION, BACKBONE
from offline.pipeline.stage import Stage
from offline.splits.settings import EXAMS
from offline.stages.common.declared import STREAM
from offline.stages.common.inputs import JUDGING, rows_of
from offline.stages.common.outside_files import unlabelled_files
from offline.stages.common.seen_rows import LABELLED, PICTURES, RowsOf, Seen
from offline.stages.common.sent_rows import sent_rows_of
from stage1.model.settings import ModelSettings

if TYPE_CHECKING:
    from offline.config import RunConfig
    from offline.data.dataset import Dataset
    from offline.stages.common.context import Context, NightStage

# Settings of the model that its features depend on.
TRUNK = ("backbone", "pooling", "queries", "pooled_blocks", "multi_scale")


def run_adapt_domain(context: Context) -> None:
    """Adapt the backbone to the domain without labels; writes `backbone.safetensors` and `adaptation.json` if enabled.

    The labels of train and val_select judge the features, of pictures as they are sent, and train nothing.
    """
    settings = context.config.adapt_domain
    if not settings.enabled:
        return
    from offline.data.originals import Copies, originals_of  # noqa: PLC0415
    from offline.data.pictures.pixel_store import digests_of  # noqa: PLC0415
    from offline.data.sources.unlabelled import hashes_of, read_unlabelled  # noqa: PLC0415
    from offline.learning.ranks import team  # noqa: PLC0415
    from offline.learning.self_distillation.adapt import adapt_domain  # noqa: PLC0415
    from offline.learning.self_distillation.judge import feature_judge  # noqa: PLC0415
    from offline.learning.self_distillation.pictures import Unshrunk  # noqa: PLC0415
    from offline.learning.self_distillation.probe import fitting  # noqa: PLC0415
    from offline.stages.common.network import images_of, network_of  # noqa: PLC0415
    from stage1.model.weights import save_weights  # noqa: PLC0415

    config = context.config
    # Heads, adapters and which layers train are of a later stage.
    model = ModelSettings.model_validate(config.model.model_dump(include=set(TRUNK)))
    net = network_of(replace(context, config=config.model_copy(update={"model": model})), trained=False)
    train = rows_of(context, "train")
    sent = sent_rows_of(context, "train")
    fit = images_of(context, sent.pick([sent.ids[number] for number in fitting(len(sent)).tolist()]))
    judged = context.data.only([row for name in JUDGING for row in rows_of(context, name).rows])
    copies = Copies(context.originals, config.preprocess)
    # The others find the fingerprints and the copies of the first process.
    with team.leader_first():
        more = read_unlabelled(
            settings.images,
            copies,
            hashes_of(judged, context.workspace / FINGERPRINTS),
            config.splits.copies_distance,
            cache=context.workspace / FINGERPRINTS,
            progress=context.progress.step,
        )
        known = originals_of(
            [train.file_of(row) for row in train.ids], copies, context.progress.step, digests_of(train)
        )
    pictures = Unshrunk(replace(known, files=(*known.files, *more.files)), config.preprocess.geometry)
    found = adapt_domain(
        net,
        pictures,
        settings,
        seed=config.seed,
        progress=context.progress.step,
        checkpoints=context.checkpoints,
        judge=feature_judge(settings.judge, fit, images_of(context, sent_rows_of(context, "val_select"))),
    )
    save_weights(net.backbone, context.out / BACKBONE)
    AdaptationRecord(
        images=len(pictures),
        unreadable=more.unreadable,
        alike=more.alike,
        judge=settings.judge,
        before=found.before,
        gain=found.gain,
        keep=settings.keep,
        kept_epoch=found.kept,
        kept_of=found.of,
        epochs=tuple(found.records),
    ).write(context.out / ADAPTATION)


def reads(config: RunConfig) -> Reads[Dataset]:
    """Without an adaptation, that there is none."""
    if not config.adapt_domain.enabled:
        return Reads(settings=("adapt_domain.enabled",), rows=RowsOf({}))
    return Reads(
        settings=(
            "seed",
            "preprocess",
            *(f"model.{name}" for name in TRUNK),
            "splits.hash_distance",
            "adapt_domain",
            *STREAM,
        ),
        # Unlabelled pictures that look like a row that judges are left out, so the pictures of all of these are read.
        rows=RowsOf({"train": Seen(("label",)), "val_select": LABELLED, **dict.fromkeys(EXAMS, PICTURES)}),
        outside=tuple(unlabelled_files(config)),
    )


STAGE: NightStage = Stage(
    name="adapt_domain",
    needs=("splits",),
    reads=reads,
    run=run_adapt_domain,
    distributions=("torch", "transformers", "peft", "imagehash", "pillow", "scipy", "simplejpeg"),
)
