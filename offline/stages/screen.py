"""The stage that decides on val_select whether a challenger could win, before a look at val_calib is spent on it."""

from __future__ import annotations

import shutil
from contextlib import closing
from typing import TYPE_CHECKING, ClassVar

from engines.backends.registry import backend
from engines.errors import EngineError
from engines.spec import EngineSpec
from engines.store.bundle import engine_digest, engine_sha256
from engines.store.file_names import ENGINE, PREPROCESS, SPEC, WEIGHTS
from offline.certify.engine_agreement import machine_of
from offline.data.dataset import Dataset
from offline.data.engine_outputs import labelled, read_outputs, run_engine, write_outputs
from offline.pipeline.reads import Reads
from offline.pipeline.run_files import SCREEN, SELECT_OUTPUTS
from offline.pipeline.settings_view import ALL
from offline.pipeline.stage import Stage
from offline.publish.after_alarm import unanswered_alarm
from offline.publish.champion import Champion, Unjudged, open_bundle
from offline.stages.common.compiled_engine import compiled_engine
from offline.stages.common.distributions import FOR_JUDGEMENT
from offline.stages.common.inputs import splits_of
from offline.stages.common.seen_rows import LABELLED, RowsOf
from offline.stages.common.sent_rows import sent_rows_of
from stage1.artifacts import Artifact
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.search.candidates import select
from stage1.certificate.terms import Terms
from stage1.errors import Stage1Error
from stage1.preprocess import PreprocessSettings

if TYPE_CHECKING:
    from offline.config import RunConfig
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
    pointer = context.store.current()
    champion = None if pointer is None else open_bundle(context.store, pointer.bundle)
    # On a champion that cannot be judged the gate has the last word.
    if champion is None or isinstance(champion, Unjudged):
        return ""
    with closing(champion.live) as live:
        hashes = {name: entry.sha256 for name, entry in live.manifest.files.items()}
        same = engine_digest(hashes[ENGINE], hashes.get(WEIGHTS)) == engine_sha256(context.inputs["export"] / ENGINE)
        # The same model, compiled for another engine or certified anew, need not win.
        if same or live.params.status != "CERTIFIED":
            return ""
        weaker = _weaker(context.config, live.params)
        # After an alarm it need not let more exit than one whose exits break their promise.
        if weaker or unanswered_alarm(context.store) is not None:
            return weaker
        return _outdone(context, champion, rows, ours)


def _weaker(config: RunConfig, champion: ScrcParams) -> str:
    """What the certificate that is asked for promises less than the champion's: the gate would not let it pass."""
    if config.gate.accept_weaker_claim:
        return ""
    held, settings = Terms.of(champion), config.calibrate_scrc
    weaker = Terms.asked(settings, held).weaker_than(held)
    if not weaker:
        return ""
    return (
        "val_calib was not looked at: what is asked for promises less than the champion, or something else: "
        f"{'; '.join(weaker)}; gate.accept_weaker_claim=true lets it replace that one"
    )


def _outdone(context: Context, champion: Champion, rows: Dataset, ours: LabelledOutputs) -> str:
    """By how much the champion lets more exit on val_select, each by the rule that val_select would choose for it."""
    settings, live = context.config.calibrate_scrc, champion.live
    held = Terms.of(live.params)
    # In mode `coverage` val_select does not say who is better, and unlike promises are not compared.
    if settings.mode == "coverage" or Terms.asked(settings, held) != held:
        return ""
    judging = champion.unseen(ours, splits_of(context).contents, "val_select")
    if judging is None:
        return ""
    common = rows.pick(list(judging.row_ids))
    try:
        theirs = run_engine(live.engine, common, live.preprocess, context.progress.step, "val_select, by the champion")
        its = select(theirs, settings, live.manifest.parity_tolerance).expected_coverage
    except (EngineError, Stage1Error):
        # It lacks a head that must agree now, or fails on a picture; the gate has the last word on it.
        return ""
    spec = EngineSpec.read(context.inputs["export"] / SPEC)
    mine = select(judging, settings, backend(spec.backend).tolerance(spec)).expected_coverage
    if mine > its:
        return ""
    return (
        f"val_calib was not looked at: on {len(common)} rows of val_select the challenger could let {mine:.3f} of the "
        f"images exit, and the champion {champion.bundle} {its:.3f}"
    )


def reads(_config: RunConfig) -> Reads[Dataset]:
    """The engine, the rows of val_select, and what is asked for; of the store, who is champion now."""
    return Reads(
        settings=("calibrate_scrc", "gate.accept_weaker_claim"),
        files={"export": (ALL,)},
        rows=RowsOf({"val_select": LABELLED}),
    )


STAGE: NightStage = Stage(
    name="screen",
    needs=("splits", "export"),
    reads=reads,
    run=run_screen,
    distributions=FOR_JUDGEMENT,
    always=True,
    machine=lambda config: machine_of(config.engine),
)
