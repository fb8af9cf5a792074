"""`cascade harvest`: images that were kept for labelling."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from miner.cli.options import PATH, ChangeOption, ConfigOption, clear_errors, parsed_changes, say

harvest = typer.Typer(name="harvest", help="Images that were kept for labelling.", no_args_is_help=True)


class LabelTool(StrEnum):
    """What labels are given with."""

    FIFTYONE = "fiftyone"
    LABELSTUDIO = "labelstudio"
    CVAT = "cvat"
    FOLDER = "folder"


class Share(StrEnum):
    """Which images are meant."""

    ALL = "all"
    RANDOM = "random"
    PICKED = "picked"


@harvest.callback()
def _group() -> None:
    """Images that were kept for labelling."""


def _home(config: Path | None, change: list[str] | None) -> Path:
    from miner.harvest.harvest import DIRECTORY  # noqa: PLC0415
    from miner.settings import load_settings  # noqa: PLC0415

    return load_settings(config, parsed_changes(change)).state / DIRECTORY


@harvest.command("list")
def list_images(
    config: ConfigOption = None,
    change: ChangeOption = None,
    most: Annotated[int, typer.Option(min=1, help="Images that are listed.")] = 20,
    parquet: Annotated[
        Path | None, typer.Option(help="Write what is known of all images to this table instead.", **PATH)
    ] = None,
) -> None:
    """List the images that are most worth a label, the most worth first.

    Examples: `cascade harvest list --most 50` · `cascade harvest list --parquet harvest.parquet`
    """
    with clear_errors():
        from miner.cli.harvest.text import listed, tabled  # noqa: PLC0415

        home = _home(config, change)
        say(listed(home, most) if parquet is None else tabled(home, parquet))


@harvest.command()
def stats(config: ConfigOption = None, change: ChangeOption = None) -> None:
    """Count what is kept, why, what of it is labelled, and which weeks of random draws are labelled whole.

    Example: `cascade harvest stats`
    """
    with clear_errors():
        from miner.cli.harvest.text import counted  # noqa: PLC0415

        say(counted(_home(config, change)))


@harvest.command()
def export(
    directory: Annotated[Path, typer.Argument(help="Where pictures and the file of the tool are written.", **PATH)],
    to: Annotated[LabelTool, typer.Option(help="What labels are given with.")] = LabelTool.FOLDER,
    share: Annotated[Share, typer.Option(help="The random share, what was picked, or all.")] = Share.ALL,
    most: Annotated[int | None, typer.Option(min=1, help="Images at most; random weeks come whole.")] = None,
    per_place: Annotated[int, typer.Option(min=1, help="Of one place at most, of what was picked.")] = 1,
    config: ConfigOption = None,
    change: ChangeOption = None,
) -> None:
    """Write images without a label for a labelling tool, the most worth first.

    Examples: `cascade harvest export to_label/` ·
    `cascade harvest export random/ --to labelstudio --share random`
    """
    with clear_errors():
        from miner.cli.harvest.text import exported  # noqa: PLC0415

        say(exported(_home(config, change), directory, to.value, share.value, most, per_place))


@harvest.command("import")
def import_labels(
    labels: Annotated[
        Path | None, typer.Argument(help="The file that the tool wrote; without it, data are written anew.", **PATH)
    ] = None,
    data: Annotated[Path, typer.Option(help="Data directory that is written for the nights.", **PATH)] = Path(
        "cascade-data/harvest"
    ),
    pictures: Annotated[
        Path | None,
        typer.Option(help="Directory of the export, for pictures that the store has removed since.", **PATH),
    ] = None,
    config: ConfigOption = None,
    change: ChangeOption = None,
) -> None:
    """Take labels over, and write what is labelled as data of a night, each with what it may be used for.

    Examples: `cascade harvest import labels.csv` · `cascade harvest import project-1.json --data roads/harvest`
    """
    with clear_errors():
        from miner.cli.harvest.text import imported  # noqa: PLC0415

        say(imported(_home(config, change), labels, data, pictures))


@harvest.command()
def verdicts(
    directory: Annotated[Path, typer.Argument(help="Where pictures and verdicts.csv are written.", **PATH)],
    config: ConfigOption = None,
    change: ChangeOption = None,
) -> None:
    """Write what Stage-2 said of images that nobody has labelled, as a teacher of a night: they train, and never judge.

    Example: `cascade harvest verdicts weak/`
    """
    with clear_errors():
        from miner.cli.harvest.text import taught  # noqa: PLC0415

        say(taught(_home(config, change), directory))
