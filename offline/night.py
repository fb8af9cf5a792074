"""A night: the data are read once, and every stage that is not finished yet runs on them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from engines.backends.registry import check_available
from engines.errors import StoreError
from engines.machine.clock import utc_now
from engines.spec import EngineSpec
from engines.store.file_names import CONFIG, PAGE, PARAMS, SPLITS
from engines.store.store import Store
from offline.config import RunConfig, load_config
from offline.data.checks.preflight import PREFLIGHT, PreflightReport
from offline.data.dataset import Dataset
from offline.data.inventory import Inventory, inventory_of
from offline.data.pictures.first_look import Places, keep_pictures
from offline.data.sources.missing_images import missing_words, too_many_missing
from offline.data.sources.source import read_dataset, sources_of
from offline.disk_use import DiskUse, disk_use
from offline.errors import DatasetError
from offline.evaluation.training_comparison import TrainingComparison
from offline.learning.ranks.launch import calling_others, others, take_part
from offline.learning.supervised.record import TrainingRecord
from offline.night_cost import cost_words
from offline.pipeline.choice import EVERYTHING, Choice
from offline.pipeline.file_contents import CONTENTS, FileContents
from offline.pipeline.forecast import Forecast
from offline.pipeline.plan import Planned, plan
from offline.pipeline.progress import Progress, Silence
from offline.pipeline.run_files import COMPARISON, TRAINING
from offline.pipeline.runner import Pipeline
from offline.pipeline.stage import ORIGINALS, PIXELS
from offline.pipeline.stage_times import times_in
from offline.publish.gate import Publication, published, put_in_place
from offline.report.row_notes import row_notes
from offline.report.training_section import with_comparison
from offline.runs.disk_space import free_bytes
from offline.runs.run_end import RunEnd, check_room_for, note_and_collect
from offline.runs.run_record import outcome_of
from offline.settings_and_data import check_settings_on_data
from offline.splits.lost_rows import lost_words
from offline.splits.splits_file import Splits
from offline.stages import STAGE_NAMES
from offline.stream.sender import sender_of
from offline.tracking.told import Night, track
from offline.tracking.tracker import OFF, check_tracking
from offline.unfinished_night import Record, to_finish
from stage1.artifacts import write_atomic
from stage1.certificate.params import ScrcParams
from stage1.errors import ArtifactError
from stage1.model.backbone_access import check_backbone
from stage1.telemetry import switch_off

if TYPE_CHECKING:
    from offline.stages.common.context import NightStage


PUBLISH, COMPARE = "publish", "compare_training"


@dataclass(frozen=True)
class NightOutcome:
    """What came of a night.

    Attributes:
        run: directory of the run, with every file that its stages wrote.
        last: name of the last stage that was asked for.
        publication: what became of the challenger; None if none was to be published.
        params: the policy of the challenger; None as well.
        current: whether the challenger is the current bundle now.
        notes: what a person should know of the rows and of the training, one sentence each.
        before: the policy of the bundle that was current when the challenger was judged; None if there was none, or it
            cannot be read.
        times: how long each stage took that ran, s, in order.
        disk: what the workspace and the store hold.
        first: what came of the unfinished night that was ended before this one; None if there was none.
    """

    run: Path
    last: str
    publication: Publication | None = None
    params: ScrcParams | None = None
    current: bool = False
    notes: tuple[str, ...] = ()
    before: ScrcParams | None = None
    times: tuple[tuple[str, float], ...] = ()
    disk: DiskUse | None = None
    first: NightOutcome | None = None


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
    choice: Choice = EVERYTHING,
    progress: Progress | None = None,
    now: Callable[[], datetime] = utc_now,
    kept: str | None = None,
    instead_of: str | None = None,
    on_data: Callable[[Inventory], None] = lambda _: None,
    on_cost: Callable[[str], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
    tracking: str = OFF,
    on_published: Callable[[Publication], None] = lambda _: None,
    table: Sequence[NightStage] | None = None,
    free: Callable[[Path], int] = free_bytes,
) -> NightOutcome:
    """Run the pipeline; what was finished before is not run again. What nobody needs any more is removed at the end.

    An unfinished night of the workspace is finished first, on the rows that it began with.

    Args:
        data: directory of labelled images.
        workspace: where finished stages are kept.
        store: directory of bundles.
        config: of the run.
        last: last stage to run, with those that it needs; None for all.
        choice: which stages are to run, where it is not by the last one.
        progress: where to tell how far it is; None for nowhere.
        now: wall-clock time, UTC.
        kept: a stage that must be finished already, with all that it needs; None for none.
        instead_of: id of a bundle whose place the new one takes if it is current, unless that one is certified and the
            new one is INFEASIBLE or promises less; whatever else the gate says of it.
        on_data: told what was read of the data, before any stage runs.
        on_cost: told what its trainings are to cost, if the backbone is a transformer whose shape is known.
        on_note: told what a person should know before the stages run, one sentence each.
        tracking: what is told of the night when it has ended, see `offline.tracking.tracker.opener`.
        on_published: told what became of the challenger as soon as that is decided; what only reports follows.
        table: the stages in order; None for those of the product.
        free: tells the room on the disk of a directory, bytes.

    Under `torchrun` the first process runs the night, and the others end here when it has; see
    `offline.learning.ranks.night`.

    Raises:
        SystemExit: this process only took part in the trainings of another one.
        DiskFull: there is no room for it; nothing was begun.
        SettingsError: there is no such tracker, or a setting names what is not in the data.
        OfflineError: the data or the training do not allow a result.
        BundleRefused: this machine does not run the engine that the config asks for, or the new bundle may not take the
            place that it was to take.
        PointerMoved: it was to take a bundle's place, and that is not current.

    Example:
        >>> run_night(
        ...     Path("roads"), workspace=Path("work"), store=Path("engines"), config=load_config("standard")
        ... )  # doctest: +SKIP
    """
    check_tracking(tracking)
    take_part(stages)
    choice = choice if last is None else replace(choice, only=last)
    # Before the pictures are read for the first time, which takes minutes or hours.
    choice.wanted(stages())
    check_room_for(workspace, Store(store), config, now(), free=free)
    rows = _read(data, workspace, config, now(), learns=choice.last(stages()) != STAGE_NAMES[0])
    on_data(inventory_of(rows, config.splits.sequence_columns, places=config.splits.gps_cell_m is not None))
    if (cost := cost_words(config, len(rows))) is not None:
        on_cost(cost)
    opened = Store(store)
    shown = progress or Silence()
    night = _Night(workspace, opened, config, shown, now, choice, kept, instead_of, tracking, on_published, table)
    # A part of a night, or a bundle compiled anew, ends nothing that another one has begun.
    whole = choice == EVERYTHING and kept is None
    before = to_finish(workspace, rows, config, lambda own: with_contents(own, workspace)) if whole else None
    first = None
    with others():
        if before is not None:
            on_note(before.note)
            first = None if before.data is None else night.on(before.data, whole=whole)
        return replace(night.on(rows, whole=whole), first=first)


def plan_night(
    data: Path,
    *,
    workspace: Path,
    store: Path,
    config: RunConfig,
    choice: Choice = EVERYTHING,
    now: Callable[[], datetime] = utc_now,
    on_note: Callable[[str], None] = lambda _: None,
) -> list[Planned]:
    """What `run_night` would do with these arguments; it changes nothing but what is known of files.

    Args:
        data: directory of labelled images.
        workspace: where finished stages are kept.
        store: directory of bundles.
        config: of the run.
        choice: which stages are to run.
        now: wall-clock time, UTC.
        on_note: told what a person should know before the stages run, one sentence each.

    Returns:
        The stages in order, first those of an unfinished night, then those of the rows that there are.

    Raises:
        SettingsError: a setting names what is not in the data.
        OfflineError: the run would stop.
    """
    choice.wanted(stages())
    rows = _read(data, workspace, config, now(), learns=False)
    night = _Night(workspace, Store(store), config, Silence(), now, choice)
    before = to_finish(workspace, rows, config, lambda own: with_contents(own, workspace))
    if before is None or choice != EVERYTHING:
        return plan(night.pipeline(rows, Silence()), choice)
    on_note(before.note)
    first = [] if before.data is None else plan(night.pipeline(before.data, Silence()), choice)
    return [*first, *plan(night.pipeline(rows, Silence()), choice)]


def _read(data: Path, workspace: Path, config: RunConfig, at: datetime, *, learns: bool) -> Dataset:
    """The rows, after making sure that a night with them can run."""
    # A runtime that is missing is found now, and not after hours of training.
    check_available(config.engine)
    # What takes no network first, and the backbone before the pictures, which take minutes or hours.
    sources_of(data)
    if learns:
        check_backbone(config.model.backbone)
    rows = with_contents(read_dataset(data), workspace)
    unread = sum(content is None for content in rows.contents.values()) + len(rows.missing)
    if too_many_missing(unread, len(rows) + len(rows.missing)):
        raise DatasetError(f"{data}: {missing_words(unread, len(rows) + len(rows.missing))}")
    check_settings_on_data(config, rows, at)
    return rows


@dataclass(frozen=True)
class _Night:
    """A night but for its rows; see `run_night`."""

    workspace: Path
    store: Store
    config: RunConfig
    progress: Progress
    now: Callable[[], datetime]
    choice: Choice
    kept: str | None = None
    instead_of: str | None = None
    tracking: str = OFF
    on_published: Callable[[Publication], None] = lambda _: None
    table: Sequence[NightStage] | None = None

    def pipeline(self, rows: Dataset, progress: Progress) -> Pipeline[RunConfig, Dataset]:
        """The stages on some rows."""
        return Pipeline(
            stages=calling_others(stages()) if self.table is None else self.table,
            workspace=self.workspace,
            store=self.store,
            data=rows,
            config=self.config,
            now=self.now,
            progress=progress,
            prepare=lambda data: keep_pictures(
                data,
                self.config.preprocess,
                sender_of(self.config.calibrate_scrc),
                Places(self.workspace, self.workspace / PIXELS, self.workspace / ORIGINALS),
                progress.step,
                now=self.now(),
            ),
            on_done=self._on_done,
        )

    def _on_done(self, name: str, home: Path) -> None:
        if name == PUBLISH:
            self.on_published(published(home))

    def on(self, rows: Dataset, *, whole: bool) -> NightOutcome:
        """Run it on some rows."""
        started = self.now()
        at = started.isoformat(timespec="seconds")
        names = [name for name in STAGE_NAMES if name in self.choice.wanted(stages())]
        told: Progress = (forecast := Forecast(self.progress, names, times_in(self.workspace)))
        with ExitStack() as stack:
            if whole:
                told = stack.enter_context(Record(self.workspace, rows, self.config, at, told))
            pipeline = self.pipeline(rows, told)
            if self.kept is not None:
                pipeline.check_finished(self.kept)
            run = pipeline.run(self.choice)
        found = self.outcome(run)
        ended = RunEnd(run, rows.sha256, len(rows), started, found.last, pipeline.finished)
        made = None
        if found.publication is not None and found.params is not None:
            made = outcome_of(found.publication, found.params, run, current=found.current)
        tidied = note_and_collect(self.workspace, self.store, self.config.gate, ended, self.now(), made)
        track(self.tracking, Night(run, self.config.model_dump(mode="json")), self.workspace)
        used = disk_use(self.workspace, self.store.root)
        return replace(found, notes=(*found.notes, *tidied), times=forecast.times, disk=used)

    def outcome(self, run: Path) -> NightOutcome:
        """What came of it, read from what its stages wrote."""
        last, notes, wanted = self.choice.last(stages()), _notes(run), self.choice.wanted(stages())
        if {COMPARE, PUBLISH} <= wanted:
            page = with_comparison((run / PAGE).read_text(encoding="utf-8"), TrainingComparison.read(run / COMPARISON))
            write_atomic(run / PAGE, page.encode())
        if PUBLISH not in wanted:
            return NightOutcome(run, last, notes=notes)
        publication, params = published(run), ScrcParams.read(run / PARAMS)
        current = publication.accepted
        if self.instead_of is not None and not current:
            weaker = self.config.gate.accept_weaker_claim
            put_in_place(
                self.store, publication.bundle, params, self.instead_of, now=self.now(), accept_weaker_claim=weaker
            )
            current = True
        return NightOutcome(run, last, publication, params, current, notes, self._policy_of(publication.champion))

    def _policy_of(self, bundle: str | None) -> ScrcParams | None:
        try:
            return None if bundle is None else ScrcParams.read(self.store.path(bundle) / PARAMS)
        except (ArtifactError, StoreError):
            # Pruned meanwhile, or damaged: then nothing is said of it.
            return None


def with_contents(rows: Dataset, workspace: Path) -> Dataset:
    """The rows with the hash of each of their files, of which only those are read that are not known yet.

    Args:
        rows: of a data directory.
        workspace: where hashes of files are kept.
    """
    places = {row: f"{rows.root.absolute()}/{row}" for row in rows.ids}
    found = FileContents(workspace / CONTENTS).of({place: rows.file_of(row) for row, place in places.items()})
    return replace(rows, contents={row: found[place] for row, place in places.items()})


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
            is INFEASIBLE or promises less where that is certified, or an alarm has revoked the certificate of one.
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
        last=PUBLISH,
        kept="train_conformal_risk",
        instead_of=home.name if activate else None,
    )
