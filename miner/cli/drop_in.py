"""Commands that are started as the reference miner is: with its flags, and with its `miner.env`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from miner.cli.options import PATH
from stage1.errors import SettingsError

if TYPE_CHECKING:
    from miner.settings import MinerSettings
    from miner.upstream.translation import Remark, Translation

# What is remembered from one reading of the settings to the next.
PARTED, EXPORTED, FILE = "miner.upstream.parted", "miner.upstream.exported", "miner.settings_file"
ENDPOINT, NETWORK = "chain.endpoint", "chain.network"
YAML = frozenset({".yaml", ".yml"})

EnvFileOption = Annotated[
    Path | None,
    typer.Option("--env-file", help="Upstream's miner.env; our own settings win over it.", **PATH),
]


class DropInCommand(TyperCommand):
    """A command that understands the flags of the reference miner beside its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  the type is private to typer
        """Keep the reference miner's flags for `settings_of`, and parse what is left."""
        from miner.upstream.command_line import part  # noqa: PLC0415

        try:
            parted = part(args)
        except SettingsError as error:
            ctx.fail(str(error))
        ctx.meta[PARTED] = parted
        return super().parse_args(ctx, parted.rest)


@dataclass(frozen=True)
class Used:
    """The settings of a command.

    Attributes:
        settings: all of them.
        remarks: what a person should know of the reference miner's flags and variables.
        origins: where a value comes from, by dotted name, if it is one of those.
        file: that settings were read from, None for none.
    """

    settings: MinerSettings
    remarks: tuple[Remark, ...]
    origins: Mapping[str, str]
    file: Path | None

    def tell(self) -> None:
        """Log every remark as a warning of one line."""
        import structlog  # noqa: PLC0415

        log = structlog.get_logger(__name__)
        for remark in self.remarks:
            log.warning("reference_miner_setting", name=remark.name, consequence=remark.consequence)

    def as_toml(self, origin: Callable[[str], str | None] | None = None) -> str:
        """A `cascade.toml` with these settings; see `settings_as_toml`.

        Args:
            origin: where a value comes from, by dotted name; None to say so of the reference miner's alone.
        """
        from miner.cli.config.toml_text import settings_as_toml  # noqa: PLC0415

        return settings_as_toml(self.settings, origin or self.origins.get)


def settings_of(context: typer.Context, config: Path | None, changes: dict[str, Any], env_file: Path | None) -> Used:
    """The settings of a command from everything that was said to it.

    Our own flags win over our variables, those over `cascade.toml`, that over the reference miner's flags, those over
    `miner.env`, and that over the variables of bittensor. In a later reading of one command a settings file that was
    there must be there again: without it everything would silently be as by default.

    Args:
        context: of a `DropInCommand`.
        config: `cascade.toml`, or a YAML file of bittensor; None for the default.
        changes: from our own flags, by dotted path.
        env_file: `miner.env`, None for none.

    Raises:
        SettingsError: a value is unknown or does not fit; names it.
    """
    from miner.settings import PREFIX, load_settings, settings_file  # noqa: PLC0415
    from miner.upstream.env_file import read_env_file, read_yaml_config  # noqa: PLC0415
    from miner.upstream.translation import Sources, overruled, translate  # noqa: PLC0415

    theirs: dict[str, str] = {}
    if config is not None and config.suffix.lower() in YAML:
        theirs, config = read_yaml_config(config), None
    variables = None if env_file is None else read_env_file(env_file)
    _export({name: value for name, value in (variables or {}).items() if name.startswith(PREFIX)}, context.meta)
    file = context.meta[FILE] = settings_file(config) or settings_file(context.meta.get(FILE))
    parted = context.meta[PARTED]
    told = translate(Sources(dict(os.environ), variables, theirs, parted.given, parted.empty))
    passed_over = _without_what_ours_exclude(told, load_settings(file, changes))
    settings = load_settings(file, changes, {name: taken.value for name, taken in told.settings.items()})
    effective = {name: _value(settings, name) for name in told.settings}
    origins = {name: taken.origin for name, taken in told.settings.items() if effective[name] == taken.value}
    return Used(settings, (*told.remarks, *passed_over, *overruled(told, effective)), origins, file)


def _export(variables: Mapping[str, str], kept: dict[str, Any]) -> None:
    """Set variables as a shell that sourced a file would have; what the environment has already wins.

    Args:
        variables: of the file.
        kept: of the command; those that an earlier reading of the file has set are taken back.
    """
    for name in kept.get(EXPORTED, ()):
        os.environ.pop(name, None)
    kept[EXPORTED] = [name for name in variables if name not in os.environ]
    os.environ |= {name: variables[name] for name in kept[EXPORTED]}


def _without_what_ours_exclude(told: Translation, ours: MinerSettings) -> list[Remark]:
    """Take out what cannot stand beside our own settings or beside each other; what ours pass over is told."""
    from miner.upstream.translation import Remark  # noqa: PLC0415

    crossed: dict[str, str] = {}
    if said := sorted(ours.chain.model_fields_set & {"network", "endpoint", "endpoints"}):
        # The names alone: providers put keys into the values.
        crossed |= dict.fromkeys((NETWORK, ENDPOINT), " and ".join(f"chain.{name}" for name in said))
    elif ENDPOINT in told.settings:
        # Both are given always, and the endpoint is what the SDK uses.
        told.settings.pop(NETWORK, None)
    if ours.hotkeys:
        crossed |= dict.fromkeys(("wallet.hotkey", "chain.external_port"), "hotkeys")
    dropped = [(told.settings.pop(name), said) for name, said in crossed.items() if name in told.settings]
    return [Remark(taken.origin, f"is passed over: this miner has {said} of its own") for taken, said in dropped]


def _value(settings: MinerSettings, name: str) -> object:
    value: object = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value
