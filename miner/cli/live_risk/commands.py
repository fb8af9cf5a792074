"""`cascade risk`: how the live certificate stands, and labels for its audits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from miner.cli.options import PATH, ChangeOption, ConfigOption, clear_errors, parsed_changes, say

risk = typer.Typer(name="risk", help="Look at how the live certificate stands.", no_args_is_help=True)


@risk.callback()
def _group() -> None:
    """Look at how the live certificate stands."""


def _home(config: Path | None, change: list[str] | None) -> tuple[Path, bool]:
    """The directory of the watch, and whether there is a Stage-2."""
    from miner.live_risk.live_risk import DIRECTORY  # noqa: PLC0415
    from miner.settings import load_settings  # noqa: PLC0415

    settings = load_settings(config, parsed_changes(change))
    return settings.state / DIRECTORY, settings.stage2.is_asked


@risk.command()
def show(
    config: ConfigOption = None,
    change: ChangeOption = None,
    hours: Annotated[int, typer.Option(min=1, help="Hours that are drawn.")] = 168,
) -> None:
    """Say how the live certificate stands, what audits wait, and draw the last hours.

    Examples: `cascade risk show` · `cascade risk show --hours 24 --config cascade.toml`
    """
    with clear_errors():
        from miner.cli.live_risk.text import shown  # noqa: PLC0415

        home, has_stage2 = _home(config, change)
        say(shown(home, hours, has_stage2=has_stage2))


@risk.command()
def export(
    to: Annotated[Path, typer.Argument(help="A .csv of all hours, a .json of all certificates.", **PATH)],
    config: ConfigOption = None,
    change: ChangeOption = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Also write the pictures of audits that wait for a person.", **PATH)
    ] = None,
) -> None:
    """Write what was measured to a file, and the pictures that wait for a person to a directory with a list.

    Examples: `cascade risk export hours.csv` · `cascade risk export risk.json --pictures to_label/`
    """
    with clear_errors():
        from miner.cli.live_risk.text import exported, written_pictures  # noqa: PLC0415

        home, has_stage2 = _home(config, change)
        say(exported(home, to))
        if pictures is not None:
            say(written_pictures(home, pictures, has_stage2=has_stage2))


@risk.command()
def label(
    labels: Annotated[
        list[str], typer.Argument(help="NUMBER=LABEL, 1 for roadwork; or a .csv with the columns number and label.")
    ],
    config: ConfigOption = None,
    change: ChangeOption = None,
) -> None:
    """Say what pictures of audits show; a miner that runs takes it over within seconds.

    Examples: `cascade risk label 12=1 15=0` · `cascade risk label to_label/audits.csv`
    """
    with clear_errors():
        from miner.cli.live_risk.text import given_labels  # noqa: PLC0415

        say(given_labels(_home(config, change)[0], labels))
