"""`cascade alerts`: who is told from afar."""

from __future__ import annotations

import typer

from miner.cli.drop_in import DropInCommand, EnvFileOption, settings_of
from miner.cli.options import ChangeOption, ConfigOption, clear_errors, parsed_changes, say

alerts = typer.Typer(name="alerts", help="Tell somebody from afar that the miner needs a person.", no_args_is_help=True)


@alerts.callback()
def _group() -> None:
    """Tell somebody from afar that the miner needs a person."""


@alerts.command("test", cls=DropInCommand)
def alerts_test(
    context: typer.Context,
    config: ConfigOption = None,
    change: ChangeOption = None,
    env_file: EnvFileOption = None,
) -> None:
    """Send one message to the receiver of the settings, and say whether it took it.

    Examples: `cascade alerts test` · `cascade alerts test --set alerts.form=slack --set alerts.url_env=SLACK_URL`
    """
    with clear_errors():
        import asyncio  # noqa: PLC0415
        import os  # noqa: PLC0415

        from engines.machine.clock import utc_now  # noqa: PLC0415
        from miner.alerts.watch import try_once  # noqa: PLC0415

        settings = settings_of(context, config, parsed_changes(change), env_file).settings
        say(asyncio.run(try_once(settings.alerts, settings.state, os.environ, now=utc_now)))
