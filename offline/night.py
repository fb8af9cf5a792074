"""A night: the data are read once, and every stage that is not finished yet runs on them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from engines.backends.registry import check_available
from engines.machine.clock import utc_now
from engines.spec import EngineSpec
from engines.store.file_names import CONFIG, PARAMS, SPLITS
from engines.store.store import Store
from offline.config import RunConfig, load_config
from offline.data.checks.preflight import PREFLIGHT, PreflightReport
from offline.data.dataset import Dataset
from offline.data.inventory import Inventory, inventory_of
from offline.data.sources.source import read_dataset
from offline.data.sources.unlabelled import count_images
from offline.learning.supervised.record import TrainingRecord
from offline.learning.throughput.cost import NightCost, Rows, transformer_of, words
from offline.pipeline.choice import Choice
from offline.pipeline.file_contents import CONTENTS, FileContents
from offline.pipeline.progress import Progress, Silence
from offline.pipeline.run_files import TRAINING
from offline.pipeline.runner import Pipeline
from offline.publish.gate import Publication, published, put_in_place
from offline.report.row_notes import row_notes
from offline.settings_and_data import check_settings_on_data
from offline.splits.lost_rows import lost_words
from offline.splits.splits_file import Splits
from offline.stages import STAGE_NAMES
from stage1.certificate.params import ScrcParams
from stage1.telemetry import switch_off

if TYPE_CHECKING:
    from offline.stages.common.context import NightStage


@dataclass(frozen=True)
class NightOutcome:
    """What came of a night.

    Attributes:
        run: directory of the run, with every file that its stages wrote.
        last: name of the last stage that was asked for.
        publication: what became of the challenger; None if the night was to end before it.
        params: the policy of the challenger; None as well.
        current: whether the challenger is the current bundle now.
        notes: what a person should know of the rows and of the training, one sentence each.
    """

    run: Path
    last: str
    publication: Publication | None = None
    params: ScrcParams | None = None
    current: bool = False
    notes: tuple[str, ...] = ()


def stages() -> tuple[NightStage, ...]:
    """The stages in order, each from the file that has its name."""
    # They import the libraries of a night.
    switch_off()
    return tuple(importlib.import_module(f"offline.stages.{name}").STAGE for name in STAGE_NAMES)


def run_night(
    data: Path,
    *,
    workspace: Path,
    store: Path,
    config: RunConfig,
    last: str | None = None,
    progress: Progress | None = None,
    now: Callable[[], datetime] = utc_now,
    kept: str | None = None,
    instead_of: str | None = None,
    on_data: Callable[[Inventory], None] = lambda _: None,
    on_cost: Callable[[str], None] = lambda _: None,
) -> NightOutcome:
    """Run the pipeline; what was finished before is not run again.

    Args:
        data: directory of labelled images.
        workspace: where finished stages are kept.
        store: directory of bundles.
        config: of the run.
        last: last stage to run, with those that it needs; None for all.
        progress: where to tell how far it is; None for nowhere.
        now: wall-clock time, UTC.
        kept: a stage that must be finished already, with all that it needs; None for none.
        instead_of: id of a bundle whose place the new one takes if it is current, unless that one is certified and the
            new one is INFEASIBLE or promises less; whatever else the gate says of it.
        on_data: told what was read of the data, before any stage runs.
        on_cost: told what its trainings are to cost, if the backbone is a transformer whose shape is known.

    Raises:
        SettingsError: a setting names what is not in the data.
        OfflineError: the data or the training do not allow a result.
        BundleRefused: this machine does not run the engine that the config asks for, or the new bundle may not take the
            place that it was to take.
        PointerMoved: it was to take a bundle's place, and that is not current.

    Example:
        >>> run_night(
        ...     Path("roads"), workspace=Path("work"), store=Path("engines"), config=load_config("standard")
        ... )  # doctest: +SKIP
    """
    # A runtime that is missing is found now, and not after hours of training.
    check_available(config.engine)
    home, rows = Store(store), with_contents(read_dataset(data), workspace)
    check_settings_on_data(config, rows, now())
    on_data(inventory_of(rows, config.splits.sequence_columns, places=config.splits.gps_cell_m is not None))
    if (cost := _cost(config, len(rows))) is not None:
        on_cost(cost)
    pipeline = Pipeline(
        stages=stages(),
        workspace=workspace,
        store=home,
        data=rows,
        config=config,
        now=now,
        progress=progress or Silence(),
    )
    if kept is not None:
        pipeline.check_finished(kept)
    run = pipeline.run(Choice(only=last))
    last, notes = last or STAGE_NAMES[-1], _notes(run)
    if last != STAGE_NAMES[-1]:
        return NightOutcome(run, last, notes=notes)
    publication, params = published(run), ScrcParams.read(run / PARAMS)
    current = publication.accepted
    if instead_of is not None and not current:
        accepted = config.gate.accept_weaker_claim
        put_in_place(home, publication.bundle, params, instead_of, now=now(), accept_weaker_claim=accepted)
        current = True
    return NightOutcome(run, last, publication, params, current, notes)


def with_contents(rows: Dataset, workspace: Path) -> Dataset:
    """The rows with the hash of each of their files, of which only those are read that are not known yet.

    Args:
        rows: of a data directory.
        workspace: where hashes of files are kept.
    """
    places = {row: f"{rows.root.absolute()}/{row}" for row in rows.ids}
    found = FileContents(workspace / CONTENTS).of({place: rows.file_of(row) for row, place in places.items()})
    return replace(rows, contents={row: found[place] for row, place in places.items()})


def night_cost(config: RunConfig) -> NightCost | None:
    """What the trainings of a config cost; None if the shape of its backbone is not known.

    Args:
        config: of the run.
    """
    transformer = transformer_of(config.model)
    if transformer is None:
        return None
    return NightCost(
        transformer,
        config.preprocess,
        config.model,
        config.train_supervised,
        config.train_conformal_risk,
        config.adapt_domain,
        config.compare_training,
    )


def _cost(config: RunConfig, count: int) -> str | None:
    """What a night on so many rows costs, in words."""
    cost, shares = night_cost(config), config.splits
    if cost is None:
        return None
    unlabelled = sum(map(count_images, config.adapt_domain.images)) if config.adapt_domain.enabled else 0
    train, select, test = (round(count * share) for share in (shares.train, shares.val_select, shares.test))
    parts = cost.parts(Rows(train, select, test, unlabelled))
    return words(parts, cost.training_bytes(), config.train_supervised.batch_size)


def _notes(run: Path) -> tuple[str, ...]:
    splits = Splits.read(run / SPLITS)
    trained = TrainingRecord.read(run / TRAINING).notes() if (run / TRAINING).exists() else ()
    return (*row_notes(PreflightReport.read(run / PREFLIGHT), splits), *lost_words(splits.lost), *trained)


def recompile(
    bundle: str,
    spec: EngineSpec,
    *,
    data: Path,
    workspace: Path,
    store: Path,
    activate: bool = False,
    changes: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    now: Callable[[], datetime] = utc_now,
) -> NightOutcome:
    """Publish the model of a bundle for another engine, certified on that engine's numbers; nothing is trained.

    Args:
        bundle: id of the bundle, or its beginning.
        spec: the engine.
        data: directory of the labelled images that it was trained on.
        workspace: where its training is kept.
        store: directory of bundles.
        activate: put it in the place of the bundle, if that is current; the gate may not be able to compare the two.
        changes: further values of the bundle's config, by dotted path.
        progress: where to tell how far it is; None for nowhere.
        now: wall-clock time, UTC.

    Raises:
        UnknownBundle: it is not in the store.
        BundleRefused: it is damaged, this machine does not run such an engine, or it was to take the bundle's place and
            is INFEASIBLE or promises less where that is certified.
        PipelineError: the workspace does not hold its training.
        PointerMoved: it was to take the bundle's place, and that is not current.
    """
    home = Store(store).path(bundle)
    Store(store).verify(bundle)
    engine = {f"engine.{name}": getattr(spec, name) for name in ("backend", "precision", "device")}
    return run_night(
        data,
        workspace=workspace,
        store=store,
        config=load_config("", home / CONFIG, {**(changes or {}), **engine}),
        progress=progress,
        now=now,
        kept="compare_training",
        instead_of=home.name if activate else None,
    )
