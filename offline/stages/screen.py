"""The stage that decides on val_select whether a challenger could win, before a look at val_calib is spent on it."""

from __future__ import annotations

import shutil
from contextlib import closing
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from engines.backends.registry import backend
from engines.spec import EngineSpec
from engines.store.file_names import ENGINE, PREPROCESS, SPEC
from offline.certify.engine_agreement import machine_of
from offline.data.dataset import Dataset
from offline.data.engine_outputs import labelled, read_outputs, run_engine, write_outputs
from offline.pipeline.run_files import SCREEN, SELECT_OUTPUTS
from offline.pipeline.stage import Stage
from offline.publish.champion import Unjudged, open_bundle
from offline.splits.bundle_past import unseen
from offline.stages.common.compiled_engine import compiled_engine
from offline.stages.common.inputs import splits_of
from offline.stages.common.sent_rows import sent_rows_of
from stage1.artifacts import Artifact, sha256_file
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.search.candidates import select
from stage1.certificate.settings import CalibrationSettings
from stage1.preprocess import PreprocessSettings

if TYPE_CHECKING:
    from offline.stages.common.context import Context, NightStage


class Screen(Artifact):
    """`screen.json`: whether val_calib is looked at.

    Attributes:
        look: it is.
        reason: why not; empty if it is.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    look: bool
    reason: str = ""


def run_screen(context: Context) -> None:
    """Compare the challenger with the champion on val_select; writes `screen.json` and `val_select.npz`.

    What the engine says of val_select is kept: another run of the same engine may differ in the last bit, and then the
    certification after it would be another one, with a look of its own.
    """
    rows = sent_rows_of(context, "val_select")
    kept = context.kept(SELECT_OUTPUTS)
    if kept is None:
        preprocess = PreprocessSettings.read(context.inputs["export"] / PREPROCESS)
        with closing(compiled_engine(context)) as engine:
            ours = run_engine(engine, rows, preprocess, context.progress.step, "val_select")
        write_outputs(context.out / SELECT_OUTPUTS, ours.outputs)
    else:
        shutil.copyfile(kept, context.out / SELECT_OUTPUTS)
        ours = labelled(rows, read_outputs(kept))
    reason = _hopeless(context, rows, ours)
    Screen(look=not reason, reason=reason).write(context.out / SCREEN)


def _hopeless(context: Context, rows: Dataset, ours: LabelledOutputs) -> str:
    """Why the challenger cannot win, empty if it could."""
    settings = context.config.calibrate_scrc
    pointer = context.store.current()
    champion = None if pointer is None else open_bundle(context.store, pointer.bundle)
    # On a champion that cannot be judged the gate has the last word.
    if champion is None or isinstance(champion, Unjudged):
        return ""
    with closing(champion.live) as live:
        same = live.manifest.files[ENGINE].sha256 == sha256_file(context.inputs["export"] / ENGINE)
        kept = set(unseen(rows.ids, splits_of(context).contents, champion.past, "val_select"))
        places = np.flatnonzero([row in kept for row in rows.ids])
        common = rows.pick([rows.ids[place] for place in places])
        # The same model, compiled for another engine or certified anew, need not win.
        if same or not _same_terms(live.params, settings) or len(set(common.labels.tolist())) < 2:
            return ""
        theirs = run_engine(live.engine, common, live.preprocess, context.progress.step, "val_select, by the champion")
        its = select(theirs, settings, live.manifest.parity_tolerance).expected_coverage
    spec = EngineSpec.read(context.inputs["export"] / SPEC)
    mine = select(ours.pick(places), settings, backend(spec.backend).tolerance(spec)).expected_coverage
    if mine > its:
        return ""
    return (
        f"val_calib was not looked at: on {len(common)} rows of val_select the challenger could let {mine:.3f} of the "
        f"images exit, and the champion {champion.bundle} {its:.3f}"
    )


def _same_terms(champion: ScrcParams, settings: CalibrationSettings) -> bool:
    """The champion has the certificate that is asked for; in mode `coverage` val_select does not say who is better."""
    asked = settings.mode, settings.risk, settings.alpha, settings.delta, settings.unit, settings.stream
    held = champion.mode, champion.risk, champion.alpha, champion.delta, champion.unit, champion.stream
    return champion.status == "CERTIFIED" and settings.mode != "coverage" and held == asked


STAGE: NightStage = Stage(
    name="screen",
    needs=("splits", "export"),
    sections=("calibrate_scrc",),
    run=run_screen,
    distributions=("numpy", "pillow", "scipy", "simplejpeg"),
    always=True,
    machine=lambda config: machine_of(config.engine),
)
