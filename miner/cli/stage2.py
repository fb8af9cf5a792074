"""`cascade stage2`: the servers behind the bridge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from miner.cli.options import PATH, ChangeOption, clear_errors, parsed_changes, say

stage2 = typer.Typer(
    name="stage2", help="Look at the Stage-2 servers that deferred images go to.", no_args_is_help=True
)


@stage2.callback()
def _group() -> None:
    """Look at the Stage-2 servers that deferred images go to."""


@stage2.command()
def check(
    image: Annotated[
        Path | None, typer.Argument(help="Sent to each server; without it, a black square.", exists=True, **PATH)
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file; default cascade.toml here.", **PATH)] = None,
    change: ChangeOption = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds for each server.")] = 30.0,
) -> None:
    """Ask every Stage-2 server whether it is ready, what its model takes and gives, and for its verdict on one image.

    Ends with status 1 if one of them does not answer, or not as the settings say.

    Examples: `cascade stage2 check` · `cascade stage2 check street.jpg --config cascade.toml`
    """
    with clear_errors():
        import asyncio  # noqa: PLC0415

        from miner.settings import load_settings, settings_file  # noqa: PLC0415
        from stage1.errors import SettingsError  # noqa: PLC0415
        from stage2_bridge.sample_image import black_image  # noqa: PLC0415
        from stage2_bridge.servers.inspection import inspected  # noqa: PLC0415

        settings = load_settings(settings_file(config), parsed_changes(change)).stage2
        if not settings.all_servers:
            raise SettingsError("no Stage-2 server is named: set stage2.servers, or stage2.engine")
        content = black_image() if image is None else image.read_bytes()
        found = asyncio.run(inspected(settings, content, timeout_s))
        for one in found:
            say(f"{'failed' if one.failed else 'ok':<8}{one.name} ({one.kind}): {one.in_words}")
        raise typer.Exit(any(one.failed for one in found))
