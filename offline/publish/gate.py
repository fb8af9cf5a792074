"""Gate and publication: a challenger becomes current only if it does not lose to the champion."""

from __future__ import annotations

import shutil
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from engines.errors import BundleRefused, EngineError, Unavailable
from engines.live.load.load_bundle import LiveBundle, load_bundle
from engines.spec import REFERENCE
from engines.store.file_names import PARAMS, SPLITS
from engines.store.store import Store
from offline.data.dataset import Dataset
from offline.data.engine_outputs import run_engine
from offline.evaluation.evaluate import EvaluationSettings, Report, evaluate
from offline.pipeline.progress import Progress
from offline.pipeline.run_files import PUBLICATION
from offline.publish.settings import GateSettings
from offline.splits.bundle_past import read_past, unseen
from stage1.artifacts import Artifact
from stage1.certificate.params import ScrcParams
from stage1.errors import Stage1Error


class Publication(Artifact):
    """`publish.json`: what became of a challenger.

    Attributes:
        bundle: id of the challenger in the store.
        champion: id of the bundle it was compared with, None if there was none.
        accepted: it may become current.
        reasons: why not; empty if accepted.
        test_rows: rows it was compared on; those the champion had seen are left out.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    bundle: str
    champion: str | None
    accepted: bool
    reasons: tuple[str, ...] = ()
    test_rows: int = 0


def assemble(sources: list[Path], names: list[str], out: Path) -> None:
    """Collect the files of a bundle from stage directories."""
    out.mkdir()
    for name in names:
        source = next(directory / name for directory in sources if (directory / name).is_file())
        shutil.copyfile(source, out / name)


def compare(
    challenger: tuple[ScrcParams, Report], champion: tuple[ScrcParams, Report], gate: GateSettings
) -> list[str]:
    """Reasons to keep the champion; none if the challenger may replace it.

    Args:
        challenger: its policy, and its report on the rows that both are compared on.
        champion: the same of the live bundle, on the same rows.
        gate: accepted losses.
    """
    (new_params, new), (old_params, old) = challenger, champion
    reasons = []
    if new_params.status == "INFEASIBLE" and old_params.status == "CERTIFIED":
        reasons.append("the champion is certified, the challenger is INFEASIBLE")
    new_coverage, old_coverage = (r.policies[0].exit_coverage.estimate or 0.0 for r in (new, old))
    if new_coverage < old_coverage - gate.coverage_margin:
        reasons.append(f"exit coverage falls from {old_coverage:.3f} to {new_coverage:.3f}")
    if new.accuracy < old.accuracy - gate.accuracy_margin:
        reasons.append(f"Stage-1 accuracy falls from {old.accuracy:.3f} to {new.accuracy:.3f}")
    return reasons


def judge_champion(
    store: Store, challenger: Path, test: Dataset, gate: GateSettings, progress: Progress
) -> tuple[str | None, list[str], int]:
    """Compare the published challenger with the current bundle on test rows that neither has seen.

    A champion that is damaged has nothing to defend; one that this machine cannot run at the moment stays.

    Args:
        store: holds the champion.
        challenger: the challenger's bundle.
        test: the challenger's test rows.
        gate: accepted losses.
        progress: where to tell how far it is.

    Returns:
        The champion's id, the reasons to keep it, and the number of rows compared on.

    Raises:
        BundleRefused: the challenger cannot be loaded.
    """
    # Whoever has nothing to beat must be able to serve all the same.
    load_bundle(challenger).close()
    pointer = store.current()
    if pointer is None or pointer.bundle == challenger.name:
        return None, [], 0
    try:
        home = store.path(pointer.bundle)
        past = read_past(home / SPLITS)
        champion = _champion(home)
    except Unavailable as error:
        return pointer.bundle, [f"the champion cannot be loaded here: {error}"], 0
    except (EngineError, Stage1Error):
        # A miner could not start with it, and every later night would fail on it again.
        return pointer.bundle, [], 0
    with closing(champion), closing(load_bundle(challenger)) as new:
        rows = test.pick(unseen(test.ids, read_past(challenger / SPLITS), past))
        if len(set(rows.labels.tolist())) < 2:
            return pointer.bundle, ["no test rows of both classes that the champion has not seen"], len(rows)
        reasons = compare(_report(new, rows, progress), _report(champion, rows, progress), gate)
    return pointer.bundle, reasons, len(rows)


def _champion(home: Path) -> LiveBundle:
    """The champion, by ONNX Runtime where its own engine is for another machine and that decides the same.

    Raises:
        Unavailable: this machine cannot run it at the moment.
        BundleRefused: it is damaged.
    """
    try:
        return load_bundle(home)
    except Unavailable:
        with suppress(BundleRefused):
            return load_bundle(home, spec=REFERENCE)
        raise


def _report(bundle: LiveBundle, rows: Dataset, progress: Progress) -> tuple[ScrcParams, Report]:
    outputs = run_engine(bundle.engine, rows, bundle.preprocess, progress.step, "comparing with the champion")
    return bundle.params, evaluate(
        outputs, bundle.params, bundle.calibrator, settings=EvaluationSettings(repetitions=0)
    )


def published(run: Path) -> Publication:
    """What became of the challenger of a run.

    Raises:
        stage1.errors.ArtifactError: the run has not published.
    """
    return Publication.read(run / PUBLICATION)


def put_in_place(store: Store, made: str, params: ScrcParams, before: str, *, now: datetime) -> None:
    """Make a bundle current in the place of one of the same model.

    Args:
        store: holds both.
        made: id of the new one.
        params: its policy.
        before: id of the one whose place it takes.
        now: the time to record, with a time zone.

    Raises:
        PointerMoved: that one is not current.
        BundleRefused: that one is certified, and the new one INFEASIBLE.
    """
    certified = ScrcParams.read(store.path(before) / PARAMS).status
    if (certified, params.status) == ("CERTIFIED", "INFEASIBLE"):
        raise BundleRefused(f"{made} stays a challenger: {before} is certified, and it is INFEASIBLE: {params.reason}")
    store.activate(made, now=now, action="compile", instead_of=before)
