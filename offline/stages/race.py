"""The stage that lets recipes race on held-out folds of train and val_select; torch is imported only when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from engines.store.file_names import CONFIG
from offline.data.dataset import Dataset
from offline.errors import DatasetError
from offline.learning.race.competition import Competition, HeldOut, Result
from offline.learning.race.group_folds import group_folds
from offline.learning.race.outcome import RaceRecord
from offline.learning.race.recipes import AXES, Recipe, recipe_of, recipes, starting_order
from offline.learning.race.suspects import suspects, suspects_csv
from offline.learning.race.units import Executor, Ledger, RaceProgress, Sequential
from offline.pipeline.reads import Reads
from offline.pipeline.run_files import BACKBONE, RACE, SUSPECTS
from offline.pipeline.settings_view import overridden
from offline.pipeline.stage import Stage
from offline.stages.common.declared import JUDGEMENT, conformal_settings, learned
from offline.stages.common.distributions import FOR_TRAINING
from offline.stages.common.inputs import rows_of
from offline.stages.common.outside_files import backbone_files
from offline.stages.common.seen_rows import RowsOf
from stage1.artifacts import Artifact, write_atomic
from stage1.errors import ArtifactError
from stage1.settings import override

if TYPE_CHECKING:
    from offline.config import RunConfig
    from offline.stages.common.context import Context, NightStage

ORDER = "order.json"
CONFIGURED = Recipe(("as configured",), {})


class StartingOrder(Artifact):
    """`order.json`, written before the first training, so that a race that goes on starts as it began.

    Attributes:
        names: of the recipes that start.
        last_winner: name of the recipe of the current bundle; None if it is none of these.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    names: tuple[str, ...]
    last_winner: str | None


def run_race(context: Context) -> None:
    """Let recipes race, and look for labels that held-out answers contradict.

    Writes `race.json`, and `suspects.csv` if anything was held out. It sees rows of train and val_select alone.

    Raises:
        DatasetError: there are fewer groups than folds.
        TrainingError: the simplest recipe could not be trained, or Ray Tune is asked for and not there.
    """
    settings = context.config.learn
    if settings.recipe == "fixed" and not settings.review:
        RaceRecord(recipe="fixed").write(context.out / RACE)
        return
    field = [CONFIGURED]
    if settings.recipe == "auto":
        field = recipes({**AXES, **settings.axes}, context.config.model_dump(mode="json"))
    began = _began(context, field)
    order = [one for name in began.names for one in field if one.name == name]
    # A value that does not fit is found before the first training.
    for recipe in order:
        overridden(context.config, recipe.overrides)
    seen = (rows_of(context, "train"), rows_of(context, "val_select"))
    whole = context.data.only([row for rows in seen for row in rows.rows])
    rows = replace(whole, rows=tuple(row for row in whole.rows if not row.train_only))
    only_train = replace(whole, rows=tuple(row for row in whole.rows if row.train_only))
    result = _raced(context, order, rows, only_train)
    found = suspects(rows.ids, rows.labels, result.log_odds)
    auto = settings.recipe == "auto"
    RaceRecord(
        recipe=settings.recipe,
        winner=result.winner.name if auto else "",
        overrides=dict(result.winner.overrides),
        simplest=order[0].name if auto else "",
        last_winner=began.last_winner,
        rows=len(rows),
        groups=len(set(rows.groups)),
        folds=settings.folds,
        budget=_budget(context.config),
        entrants=result.entrants if auto else (),
        unstarted=len(field) - len(order),
        reviewed=len(rows),
        suspects=tuple(found),
    ).write(context.out / RACE)
    write_atomic(context.out / SUSPECTS, suspects_csv(found).encode())


def _raced(context: Context, order: Sequence[Recipe], rows: Dataset, only_train: Dataset) -> Result:
    from offline.stages.common.fold_trainings import FoldTrainings  # noqa: PLC0415

    config, settings = context.config, context.config.learn
    if len(set(rows.groups)) < settings.folds:
        raise DatasetError(
            f"train and val_select have {len(set(rows.groups))} groups, and learn.folds asks for {settings.folds} "
            "folds of whole groups: add rows, or set learn.recipe to fixed"
        )
    folds = group_folds(rows.groups, rows.labels, settings.folds, config.seed)
    progress = RaceProgress(context.progress.step)
    return Competition(
        order=order,
        rows=HeldOut(rows.labels, rows.groups, folds),
        settings=settings,
        false_alarm_rate=config.calibrate_scrc.false_alarm_rate,
        seed=config.seed,
        ledger=Ledger(context.checkpoints / "units"),
        executor=_executor(context),
        work=FoldTrainings(context, rows, folds, only_train, progress.inside),
        progress=progress,
    ).run()


def _executor(context: Context) -> Executor:
    if not context.config.learn.ray:
        return Sequential()
    from offline.learning.race.ray_tune import RayTune  # noqa: PLC0415

    return RayTune(context.checkpoints / "ray")


def _began(context: Context, field: Sequence[Recipe]) -> StartingOrder:
    """The order in which recipes start; that of the first attempt, if this race was killed before."""
    path = context.checkpoints / ORDER
    try:
        return StartingOrder.read(path)
    except ArtifactError:
        last = _last_winner(context, field)
        order = starting_order(field, last, context.config.seed, context.config.learn.starters)
        began = StartingOrder(names=tuple(one.name for one in order), last_winner=None if last is None else last.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        began.write(path)
        return began


def _last_winner(context: Context, field: Sequence[Recipe]) -> Recipe | None:
    """The recipe by which the current bundle was trained; None if there is none, or it is none of these."""
    from offline.config import RunConfig  # noqa: PLC0415

    current = context.store.current()
    if current is None:
        return None
    try:
        trained = RunConfig.read(context.store.path(current.bundle) / CONFIG)
    except ArtifactError:
        return None
    return recipe_of(field, trained.model_dump(mode="json"))


def _budget(config: RunConfig) -> str:
    trainings, minutes = config.learn.budget_trainings, config.learn.budget_minutes
    return f"{minutes:g} minutes" if trainings is None else f"{trainings:g} trainings of one fold"


def decided(config: RunConfig, home: Path) -> RunConfig:
    """The config with the overrides of the winner; its recipe is fixed then, so that it trains the same again.

    Args:
        config: that was asked for.
        home: directory with `race.json`.
    """
    found = RaceRecord.read(home / RACE)
    if found.recipe != "auto":
        return config
    return override(config, {**found.overrides, "learn.recipe": "fixed"})


def reads(config: RunConfig) -> Reads[Dataset]:
    """Without a race and a review, that there is neither."""
    settings = config.learn
    if settings.recipe == "fixed" and not settings.review:
        return Reads(settings=("learn.recipe", "learn.review"), rows=RowsOf({}))
    varied = {path for axis in settings.axes.values() for option in axis.values() for path in option}
    seen = learned(config, "group", "train_only")
    return Reads(
        settings=(
            "seed",
            "preprocess",
            "model",
            "adapt_domain.enabled",
            "learn",
            "train_supervised",
            *conformal_settings(config),
            *JUDGEMENT,
            *sorted(varied),
        ),
        files={"adapt_domain": (BACKBONE,)},
        rows=RowsOf({"train": seen, "val_select": seen}),
        outside=tuple(backbone_files(config)),
    )


STAGE: NightStage = Stage(
    name="race",
    needs=("splits", "adapt_domain"),
    reads=reads,
    run=run_race,
    distributions=FOR_TRAINING,
    decides=decided,
    may_decide=lambda config: config.learn.recipe == "auto",
)
