"""`cascade nightly`: the nights of a miner in a process of their own, which a service manager can bound by itself."""

from __future__ import annotations

from typing import Annotated

import typer

from miner.cli.drop_in import EnvFileOption, settings_of
from miner.cli.options import ChangeOption, ConfigOption, clear_errors, parsed_changes


def nightly(
    context: typer.Context,
    config: ConfigOption = None,
    change: ChangeOption = None,
    once: Annotated[bool, typer.Option("--once", help="Run one night now, and end with its status.")] = False,
    env_file: EnvFileOption = None,
) -> None:
    """Run the nights beside the miner instead of in it, until stopped; the miner then only follows the store.

    It reads the same settings as `cascade mine`. Of `[retrain]` it needs `data` alone; `enabled` is for the miner.

    Examples: `cascade nightly` · `cascade nightly --config cascade.toml` · `cascade nightly --once`
    """
    with clear_errors():
        import asyncio  # noqa: PLC0415

        from miner.logs import configure_logging  # noqa: PLC0415
        from miner.night_service import job_of, run_nights  # noqa: PLC0415

        changes = parsed_changes(change)
        used = settings_of(context, config, changes, env_file)
        configure_logging(used.settings.log.level, used.settings.log.json_lines)
        used.tell()
        status = asyncio.run(
            run_nights(
                job_of(used.settings),
                read_again=lambda: settings_of(context, config, changes, env_file).settings,
                once=once,
            )
        )
        raise typer.Exit(status)
