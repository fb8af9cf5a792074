"""The stage that puts the bundle into the store, and makes it current if the gate lets it pass."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from engines.backends.registry import backend
from engines.store.bundle import Provenance
from engines.store.file_names import CONFIG, ENGINE_PREFIXES, REQUIRED, SPEC
from offline.pipeline.content_key import code_version
from offline.pipeline.run_files import BEST, PUBLICATION, REFERENCES, REPORT, THRESHOLDS
from offline.pipeline.stage import Stage
from offline.publish import gate
from offline.stages.common.sent_rows import sent_rows_of

if TYPE_CHECKING:
    from offline.stages.common.context import Context, NightStage


BUNDLE_STAGES = ("splits", "train_conformal_risk", "export", "calibrate_scrc", "eval_selective")


def run_publish(context: Context) -> None:
    """Put the bundle into the store; make it current if the gate lets it pass. Writes `publish.json`."""
    sources = [context.inputs[name] for name in BUNDLE_STAGES]
    files = context.out / "bundle"
    names = [name for name in (*REQUIRED, SPEC, BEST, REPORT, REFERENCES, THRESHOLDS) if name != CONFIG]
    beside = {path.name for path in context.inputs["export"].iterdir() if path.name.startswith(ENGINE_PREFIXES)}
    names += sorted(beside - set(names))
    gate.assemble(sources, names, files)
    context.config.write(files / CONFIG)
    data = context.data
    now = context.now()
    at = now.isoformat(timespec="seconds")
    provenance = Provenance(run=context.run, created_at=at, code_version=code_version(), data_sha256=data.sha256)
    tolerance = backend(context.config.engine.backend).tolerance(context.config.engine)
    bundle = context.store.publish(files, provenance, parity_tolerance=tolerance)
    shutil.rmtree(files)
    champion, reasons, rows = gate.judge_champion(
        context.store, context.store.path(bundle), sent_rows_of(context, "test"), context.config.gate, context.progress
    )
    if not reasons:
        context.store.activate(bundle, now=now, action="publish")
    context.store.prune(context.config.gate.keep)
    gate.Publication(
        bundle=bundle, champion=champion, accepted=not reasons, reasons=tuple(reasons), test_rows=rows
    ).write(context.out / PUBLICATION)


STAGE: NightStage = Stage(
    name="publish",
    needs=BUNDLE_STAGES,
    sections=("gate",),
    run=run_publish,
    always=True,
)
