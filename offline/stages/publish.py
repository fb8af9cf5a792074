"""Put the bundle into the store."""

from __future__ import annotations

import shutil
from pathlib import Path

from engines.spec import EngineSpec
from engines.store.bundle import ENGINE_PREFIXES, PARITY_TOLERANCE, REQUIRED, SPEC, Provenance
from offline.pipeline.content_key import code_version
from offline.pipeline.run_files import BEST, PUBLICATION, REFERENCES, REPORT, THRESHOLDS
from offline.pipeline.runner import CONFIG
from offline.pipeline.stage import StageContext
from offline.publish import gate
from offline.stages.inputs import rows_of


def run_publish(context: StageContext) -> None:
    """Put the bundle into the store; make it current if the gate lets it pass. Writes `publish.json`."""
    sources = [context.inputs[name] for name in BUNDLE_STAGES]
    files = context.out / "bundle"
    names = [name for name in (*REQUIRED, SPEC, BEST, REPORT, REFERENCES, THRESHOLDS) if name != CONFIG]
    beside = {path.name for path in context.inputs["export"].iterdir() if path.name.startswith(ENGINE_PREFIXES)}
    names += sorted(beside - set(names))
    gate.assemble(sources, names, files)
    context.config.write(files / CONFIG)
    data = rows_of(context)
    now = context.now()
    at = now.isoformat(timespec="seconds")
    provenance = Provenance(run=context.run, created_at=at, code_version=code_version(), data_sha256=data.sha256)
    bundle = context.store.publish(files, provenance, parity_tolerance=_tolerance(context.config.engine))
    shutil.rmtree(files)
    test = rows_of(context, "test")
    champion, reasons, rows = gate.judge_champion(
        context.store, context.store.path(bundle), test, test.ids, context.config.gate, context.progress
    )
    if not reasons:
        context.store.activate(bundle, now=now, action="publish")
    context.store.prune(context.config.gate.keep)
    gate.Publication(
        bundle=bundle, champion=champion, accepted=not reasons, reasons=tuple(reasons), test_rows=rows
    ).write(context.out / PUBLICATION)


def _tolerance(spec: EngineSpec) -> float:
    """Largest difference of an engine from its own golden outputs, in logits."""
    # On a GPU, each batch size has kernels of its own, and sums in bf16 depend on their order.
    return 2e-2 if spec.device == "cuda" and spec.precision == "bf16" else PARITY_TOLERANCE


BUNDLE_STAGES = ("splits", "train_conformal_risk", "export", "calibrate_scrc", "eval_selective")


def published(run: Path) -> gate.Publication:
    """What became of the challenger of a run.

    Raises:
        stage1.errors.ArtifactError: the run has not published.
    """
    return gate.Publication.read(run / PUBLICATION)
