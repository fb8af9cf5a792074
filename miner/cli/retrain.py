"""`cascade retrain`: one run of the offline pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engines.backends.registry import check_available
from engines.errors import BundleRefused
from engines.store.bundle import PARAMS
from engines.store.store import Store
from miner.errors import SettingsError
from miner.process import utc_now
from miner.progress_display import display
from offline.config import PRESETS, RunConfig, load_config
from offline.data.labels_csv import read_dataset
from offline.evaluation.training_comparison import TrainingComparison
from offline.night import STAGES
from offline.pipeline.run_files import COMPARISON, PAGE
from offline.pipeline.runner import CONFIG, Pipeline
from offline.report.training_section import gain_lines
from offline.stages.publish import published
from stage1.certificate.params import ScrcParams


def retrain(
    *,
    data: Path,
    workspace: Path,
    store: Path,
    preset: str,
    config: Path | None,
    mode: str | None,
    changes: dict[str, Any],
    progress: str,
    kept: str | None = None,
    instead_of: str | None = None,
) -> str:
    """Run the pipeline and say what came of it.

    Args:
        data: directory with `labels.csv`.
        workspace: where finished stages are kept.
        store: directory of bundles.
        preset: name of a preset.
        config: a `config.json` instead.
        mode: last stage to run; None for all.
        changes: single values by dotted path.
        progress: kind of display.
        kept: a stage that must be finished already, with all that it needs; None for none.
        instead_of: id of a bundle whose place the new one takes if it is current, unless that one is certified and the
            new one is INFEASIBLE; whatever else the gate says of it.

    Returns:
        The outcome in words.

    Raises:
        SettingsError: the preset or a value is unknown.
        OfflineError: the data or the training do not allow a result.
        BundleRefused: this machine does not run the engine that the config asks for.
    """
    settings = _config(preset, config, changes)
    # A runtime that is missing is found now, and not after hours of training.
    check_available(settings.engine)
    dataset = read_dataset(data)
    with display(progress) as shown:
        pipeline = Pipeline(
            stages=STAGES,
            workspace=workspace,
            store=Store(store),
            data_root=data,
            data_sha256=dataset.sha256,
            config=settings,
            now=utc_now,
            progress=shown,
        )
        if kept is not None:
            pipeline.check_finished(kept)
        run = pipeline.run(mode)
    if mode not in (None, "publish"):
        return f"{mode} is done; its files are in {run}"
    publication = published(run)
    params = ScrcParams.read(run / PARAMS)
    if instead_of is not None and not publication.accepted:
        put_in_place(Store(store), publication.bundle, params, instead_of)
    current = instead_of is not None or publication.accepted
    verdict = "is current now" if current else f"stays a challenger: {'; '.join(publication.reasons)}"
    certificate = params.statement if params.rule is not None else params.reason
    gained = gain_lines(TrainingComparison.read(run / COMPARISON))
    return "\n".join(
        [
            f"bundle {publication.bundle} {verdict}",
            f"{params.status}: {certificate}",
            *(f"on the test rows, {line}" for line in gained),
            f"report: {run / PAGE}",
        ]
    )


def recompile(
    bundle: str, spec: dict[str, str], *, data: Path, workspace: Path, store: Path, activate: bool, progress: str
) -> str:
    """Publish the model of a bundle for another engine, certified on that engine's numbers; nothing is trained.

    Args:
        bundle: id of the bundle, or its beginning.
        spec: fields of the engine's `EngineSpec`.
        data: directory with `labels.csv`.
        workspace: where its training is kept.
        store: directory of bundles.
        activate: put it in the place of the bundle, if that is current; the gate may not be able to compare the two.
        progress: kind of display.

    Returns:
        The outcome in words.

    Raises:
        UnknownBundle: it is not in the store.
        BundleRefused: it is damaged, or this machine does not run such an engine.
        PipelineError: the workspace does not hold its training.
        PointerMoved: it was to take the bundle's place, and that is not current.
        BundleRefused: it was to take the bundle's place, and is INFEASIBLE where that is certified.
    """
    home = Store(store).path(bundle)
    Store(store).verify(bundle)
    changes = {f"engine.{name}": value for name, value in spec.items()}
    return retrain(
        data=data,
        workspace=workspace,
        store=store,
        preset="standard",
        config=home / CONFIG,
        mode=None,
        changes=changes,
        progress=progress,
        kept="compare_training",
        instead_of=home.name if activate else None,
    )


def put_in_place(store: Store, made: str, params: ScrcParams, before: str) -> None:
    """Make a bundle current in the place of one of the same model.

    Args:
        store: holds both.
        made: id of the new one.
        params: its policy.
        before: id of the one whose place it takes.

    Raises:
        PointerMoved: that one is not current.
        BundleRefused: that one is certified, and the new one INFEASIBLE.
    """
    certified = ScrcParams.read(store.path(before) / PARAMS).status
    if (certified, params.status) == ("CERTIFIED", "INFEASIBLE"):
        raise BundleRefused(f"{made} stays a challenger: {before} is certified, and it is INFEASIBLE: {params.reason}")
    store.activate(made, now=utc_now(), action="compile", instead_of=before)


def _config(preset: str, path: Path | None, changes: dict[str, Any]) -> RunConfig:
    if preset not in PRESETS:
        raise SettingsError(f"no preset is called {preset!r}; there are {', '.join(PRESETS)}")
    try:
        return load_config(preset, path, changes)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors(include_url=False)]
        raise SettingsError("; ".join(problems)) from error
