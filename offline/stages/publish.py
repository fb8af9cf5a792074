"""The stage that puts the bundle into the store, and makes it current if the gate lets it pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engines.backends.registry import backend
from engines.store.bundle import Provenance
from engines.store.file_names import CALIBRATION, CONFIG, ENGINE_PREFIXES, PAGE, PARAMS, REQUIRED, SPEC
from engines.store.model_card import ModelCard, next_version, read_card, write_card
from engines.store.records import VerdictEntry
from offline.certify.calibration_record import CalibrationRecord
from offline.certify.look_words import look_words
from offline.config import RunConfig
from offline.data.place_and_time import TIME_COLUMNS, taken_at
from offline.pipeline.content_key import code_version
from offline.pipeline.reads import Reads
from offline.pipeline.run_files import (
    BEST,
    FOLD_OUTPUTS,
    PUBLICATION,
    REFERENCES,
    REPORT,
    SELECT_OUTPUTS,
    THRESHOLDS,
)
from offline.pipeline.settings_view import ALL
from offline.pipeline.stage import Stage
from offline.pipeline.stage_times import times_in
from offline.publish.gate import Bench, Publication, settled
from offline.publish.settlement import settlement
from offline.report.gate_section import with_verdict
from offline.report.night_section import night_section
from offline.splits.settings import Split
from offline.stages import STAGE_NAMES
from offline.stages.common.inputs import rows_of, splits_of
from offline.stages.common.seen_rows import PICTURES, RowsOf, Seen
from offline.stages.common.sent_rows import sent_rows_of
from stage1.artifacts import sha256_file, write_atomic
from stage1.certificate.params import ScrcParams
from stage1.errors import ArtifactError

if TYPE_CHECKING:
    from offline.data.dataset import Dataset
    from offline.stages.common.context import Context, NightStage


LEARNED: tuple[Split, ...] = ("train", "val_select")
# After an alarm it matters when their rows were taken.
DATED: tuple[Split, ...] = ("val_calib", "test")
# Sections of the config that make nothing that is in a bundle.
JUDGING = {"gate", "model_card", "preset"}
RECORDED = (CALIBRATION, SELECT_OUTPUTS, FOLD_OUTPUTS)
BUNDLE_STAGES = ("splits", "train_conformal_risk", "export", "calibrate_scrc", "eval_selective")


def run_publish(context: Context) -> None:
    """Put the bundle into the store; make it current if the gate lets it pass.

    One night at a time does so in a store. Writes `publish.json`, and `report.html` with the verdict: the page in the
    bundle is under the hash that names it.

    Raises:
        PipelineBusy: another night settles the store for too long.
    """
    waiting = partial(context.progress.step, 0, 1)
    with settlement(context.store.root, context.workspace, now=context.now, note=waiting) as held:
        _publish(context, held.check)


def _publish(context: Context, check: Callable[[], None]) -> None:
    # All files of these are read, so each is a directory itself.
    homes = {name: context.inputs[name] / "" for name in BUNDLE_STAGES}
    sources = list(homes.values())
    names = [name for name in (*REQUIRED, SPEC, BEST, REPORT, REFERENCES, THRESHOLDS) if name != CONFIG]
    # Not there where nothing was certified because val_calib was not looked at.
    names += [name for name in RECORDED if (homes["calibrate_scrc"] / name).exists()]
    beside = {path.name for path in homes["export"].iterdir() if path.name.startswith(ENGINE_PREFIXES)}
    names += sorted(beside - set(names))
    files = files_of(sources, names)
    files[CONFIG] = _write_config(context, files)
    now = context.now()
    at = now.isoformat(timespec="seconds")
    provenance = Provenance(
        run=context.run, created_at=at, code_version=code_version(), data_sha256=splits_of(context).data_sha256
    )
    tolerance = backend(context.config.engine.backend).tolerance(context.config.engine)
    known = {row.manifest.bundle_id for row in context.store.bundles()}
    # A finished stage never changes, so its weights need not lie on the disk a second time.
    bundle = context.store.publish(files, provenance, parity_tolerance=tolerance, unchanging=True)
    files[CONFIG].unlink()
    settings = context.config.gate
    test, contents = sent_rows_of(context, "test"), splits_of(context).contents
    dated = [row for name in DATED for row in rows_of(context, name).rows]
    times = {row.image: moment for row in dated if (moment := taken_at(row)) is not None}
    calibrated = homes["calibrate_scrc"]
    recorded = (calibrated / CALIBRATION).exists()
    fold = CalibrationRecord.read(calibrated / CALIBRATION).outputs(calibrated)["val_calib"] if recorded else None
    bench = Bench(context.store, test, contents, settings, context.progress, now, context.config.seed, fold, times)
    verdict = settled(bench, context.store.path(bundle), check)
    # What was there before this night is an operator's to remove.
    if verdict.verdict == "REFUSE" and bundle not in known:
        context.store.discard(bundle)
    else:
        _write_card(context, bundle, now)
    context.store.judged(
        VerdictEntry(bundle=bundle, verdict=verdict.verdict, reasons=verdict.reasons, notes=verdict.notes, at=at)
    )
    verdict.write(context.out / PUBLICATION)
    write_atomic(context.out / PAGE, _judged_page(context, verdict, at).encode())


def _write_config(context: Context, files: Mapping[str, Path]) -> Path:
    """Write the config by which the bundle of some files was made; says where.

    What judges a bundle and what its card says are no part of it: where a bundle of the store has all other files and
    all other settings in common, its config is taken, so that the bundle is that one and not a new one.
    """
    path = context.out / CONFIG
    context.config.write(path)
    ours = {name: sha256_file(file) for name, file in files.items()}
    for known in context.store.bundles():
        theirs = {name: file.sha256 for name, file in known.manifest.files.items() if name != CONFIG}
        if theirs != ours:
            continue
        try:
            config = RunConfig.read(known.path / CONFIG)
        except ArtifactError:
            continue
        if config.model_dump(exclude=JUDGING) == context.config.model_dump(exclude=JUDGING):
            shutil.copyfile(known.path / CONFIG, path)
            break
    return path


def _write_card(context: Context, bundle: str, now: datetime) -> None:
    """Put a model card beside a bundle; one that was published before keeps the time of its own."""
    root, settings = context.store.root, context.config.model_card
    if read_card(root, bundle) is None:
        card = ModelCard(
            model_name=settings.name,
            description=settings.description,
            version=next_version(root, bundle),
            submitted_by=settings.submitted_by,
            submission_time=int(now.timestamp()),
        )
        write_card(root, bundle, card)


def _judged_page(context: Context, verdict: Publication, at: str) -> str:
    times = {time.stage: time for time in times_in(context.workspace)}
    night = night_section(
        at=at,
        run=context.run,
        bundle=verdict.bundle,
        champion=verdict.champion,
        looks=look_words(ScrcParams.read(context.inputs["calibrate_scrc"] / PARAMS)),
        times=[times[name] for name in STAGE_NAMES if name in times],
    )
    return with_verdict(
        (context.inputs["eval_selective"] / PAGE).read_text(encoding="utf-8"),
        verdict.verdict,
        bundle=verdict.bundle,
        champion=verdict.champion,
        reasons=verdict.reasons,
        notes=verdict.notes,
        night=night,
    )


def files_of(stages: Sequence[Path], names: Sequence[str]) -> dict[str, Path]:
    """Each file by its name, from the first of some directories that has it."""
    return {name: next(path for home in stages if (path := home / name).is_file()) for name in names}


def reads(_config: RunConfig) -> Reads[Dataset]:
    """Everything that goes into a bundle, and the rows on which the gate compares it."""
    return Reads(
        settings=(ALL,),
        files=dict.fromkeys(BUNDLE_STAGES, (ALL,)),
        rows=RowsOf(
            {
                "test": Seen(("label", "group", "source"), (ALL,)),
                "val_calib": Seen(metadata=TIME_COLUMNS),
                **dict.fromkeys(LEARNED, PICTURES),
            },
            facts=("data_sha256",),
        ),
    )


STAGE: NightStage = Stage(
    name="publish",
    needs=BUNDLE_STAGES,
    reads=reads,
    run=run_publish,
    always=True,
)
