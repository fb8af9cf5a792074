"""`cascade retrain`. Heavy modules are imported inside the command, so that help is instant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from miner.cli.options import (
    DEFAULT_STORE,
    DEFAULT_WORKSPACE,
    PATH,
    ChangeOption,
    ProgressKind,
    StoreOption,
    clear_errors,
    one_of,
    parsed_changes,
    say,
)
from offline.stages import STAGE_NAMES


def _stage_option(help_text: str, *names: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*names, help=help_text, parser=one_of(STAGE_NAMES), metavar="STAGE")
    return option


ModeOption = Annotated[str | None, _stage_option("Run this stage, and what it needs, instead of all.", "--mode")]
UntilOption = Annotated[str | None, _stage_option("Run no stage after this one.", "--until")]
FromOption = Annotated[
    str | None, _stage_option("Run this stage and those that depend on it again, though they are finished.", "--from")
]
ForceOption = Annotated[
    str | None,
    _stage_option("Run this stage again; those after it only if it writes something else than before.", "--force"),
]


def retrain(
    data: Annotated[Path, typer.Option(help="Directory with labels.csv.", **PATH)],
    workspace: Annotated[Path, typer.Option(help="Where finished stages are kept.", **PATH)] = DEFAULT_WORKSPACE,
    store: StoreOption = DEFAULT_STORE,
    preset: Annotated[str, typer.Option(help="standard or tiny.")] = "standard",
    config: Annotated[Path | None, typer.Option(help="A config.json instead of the preset.", **PATH)] = None,
    mode: ModeOption = None,
    until: UntilOption = None,
    start: FromOption = None,
    force: ForceOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would run, why, and how long it took before.")
    ] = False,
    change: ChangeOption = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default all cores.")] = None,
    progress: Annotated[ProgressKind, typer.Option(help="How progress is shown.")] = ProgressKind.AUTO,
    check_settings: Annotated[
        bool, typer.Option("--check-settings", help="Only say whether the settings fit; reads no data.")
    ] = False,
    tracking: Annotated[
        str,
        typer.Option(
            help="Told of the night at its end: tensorboard, mlflow=URI, trackio=PROJECT, wandb=PROJECT or off.",
            envvar="CASCADE_TRACKING",
        ),
    ] = "tensorboard",
    gpu_share: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="Most of the GPU's memory to take, if so much is free.")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Directory of a miner's night, where a success is written down.", hidden=True, **PATH),
    ] = None,
) -> None:
    """Train, certify and publish a bundle. Run it again after a crash and it goes on after the last finished stage.

    Examples: `cascade retrain --data roads/` · `cascade retrain --data roads/ --mode calibrate_scrc` ·
    `cascade retrain --data roads/ --set calibrate_scrc.alpha=0.01` · `cascade retrain --data roads/ --dry-run`
    """
    with clear_errors():
        from offline.config import load_config  # noqa: PLC0415

        settings = load_config(preset, config, parsed_changes(change))
        if check_settings:
            from engines.backends.registry import AUTO, check_known  # noqa: PLC0415

            if settings.engine.backend != AUTO:
                check_known(settings.engine)
            say("the settings fit")
            return
        if threads is not None:
            os.environ |= {"OMP_NUM_THREADS": str(threads)}
        from miner.cli.retrain.engine import with_recorded_engine  # noqa: PLC0415
        from miner.cli.retrain.outcome import planned, shared, shown, told_early  # noqa: PLC0415
        from miner.logs import configure_logging  # noqa: PLC0415
        from offline.night import run_night  # noqa: PLC0415
        from offline.pipeline.choice import Choice  # noqa: PLC0415

        settings = with_recorded_engine(settings, store)
        choice = Choice(only=mode, until=until, start=start, again=force)
        if dry_run:
            say(planned(data, workspace, store, settings, choice))
            return
        if progress is ProgressKind.JSON:
            # A program reads what this one says: its warnings too.
            configure_logging(json=True)
        night = shared(
            lambda screen, told: run_night(
                data,
                workspace=workspace,
                store=store,
                config=settings,
                choice=choice,
                progress=told,
                on_data=lambda inventory: screen.note(f"data: {inventory}"),
                on_cost=lambda cost: screen.note(f"plan: {cost}"),
                on_note=screen.note,
                on_published=lambda publication: told_early(publication, record, screen),
                tracking=tracking,
            ),
            record,
            gpu_share,
        )
        outcome = shown(night, progress.value, record=record)
        if outcome:
            say(outcome)
