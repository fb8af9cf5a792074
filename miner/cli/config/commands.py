"""`cascade config` and `cascade init`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from miner.cli.drop_in import DropInCommand, EnvFileOption, Used, settings_of
from miner.cli.options import PATH, ChangeOption, ConfigOption, clear_errors, parsed_changes, say
from stage1.errors import SettingsError
from stage1.settings import expanded

config = typer.Typer(name="config", help="Look at the settings of a miner.", no_args_is_help=True)


@config.command(cls=DropInCommand)
def show(
    context: typer.Context,
    file: ConfigOption = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say behind each value where it comes from.")] = False,
    change: ChangeOption = None,
    env_file: EnvFileOption = None,
) -> None:
    """Print every setting that `cascade mine` would use, as a cascade.toml.

    It understands what `cascade mine` does of the reference miner's flags.

    Examples: `cascade config show` · `cascade config show --origin` · `cascade config show --env-file miner.env`
    """
    with clear_errors():
        changes = parsed_changes(change)
        used = settings_of(context, file, changes, env_file)
        say(used.as_toml(origin_of(used, changes) if origin else None))
        for remark in used.remarks:
            typer.secho(f"{remark.name} {remark.consequence}", err=True, fg="yellow")


@config.command()
def schema() -> None:
    """Print the JSON schema of cascade.toml, with which an editor completes, explains and checks it.

    Example: `cascade config schema > cascade.schema.json`, and `#:schema cascade.schema.json` as the first line of
    cascade.toml.
    """
    with clear_errors():
        from miner.cli.config.schema import settings_schema  # noqa: PLC0415
        from miner.settings import MinerSettings  # noqa: PLC0415
        from offline.config import RunConfig  # noqa: PLC0415

        say(json.dumps(settings_schema(MinerSettings, RunConfig), indent=2))


def init(
    file: Annotated[Path, typer.Argument(help="The file to write.", **PATH)] = Path("cascade.toml"),
    wallet: Annotated[str | None, typer.Option(help="Name of the wallet.")] = None,
    hotkey: Annotated[str | None, typer.Option(help="Name of the hotkey, or several with commas.")] = None,
    network: Annotated[str | None, typer.Option(help="finney, test, or a WebSocket URL.")] = None,
    external_ip: Annotated[str | None, typer.Option(help="Address that validators reach, auto, or none.")] = None,
    port: Annotated[str | None, typer.Option(help="Port of the axon.")] = None,
    admin_port: Annotated[str | None, typer.Option(help="Port for status and metrics, or none.")] = None,
    stage2: Annotated[str | None, typer.Option(help="Directory of an engine for Stage-2, or none.")] = None,
    data: Annotated[str | None, typer.Option(help="Directory with labels.csv to train on, or none.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; the rest is as by default.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Ask a few questions, and write a commented cascade.toml.

    Examples: `cascade init` · `cascade init --yes --wallet miner --hotkey one --external-ip auto` ·
    `cascade init --yes --hotkey one,two --data roads/ /etc/cascade/cascade.toml`
    """
    with clear_errors():
        from miner.chain.settings import WalletSettings  # noqa: PLC0415
        from miner.cli.config.commented_file import commented_file  # noqa: PLC0415
        from miner.cli.config.questions import answers, questions, wallets_here  # noqa: PLC0415
        from miner.settings import MinerSettings, load_settings  # noqa: PLC0415
        from stage1.artifacts import write_atomic  # noqa: PLC0415

        if file.exists() and not force:
            raise SettingsError(f"{file}: is there already; --force writes over it")
        if not yes and not sys.stdin.isatty():
            raise SettingsError("standard input is no terminal, so nobody can be asked: give options and --yes")
        options = {
            "wallet.name": wallet,
            "wallet.hotkey": hotkey,
            "chain.network": network,
            "chain.external_ip": external_ip,
            "axon.port": port,
            "admin.port": admin_port,
            "stage2.engine": stage2,
            "retrain.data": data,
        }
        given = {name: value for name, value in options.items() if value is not None}
        asked = questions(wallets_here(expanded(WalletSettings().path)))
        values = answers(asked, _silent if yes else _asked, given, MinerSettings)
        if "hotkeys" in values:
            values.pop("wallet.hotkey", None)
        text = commented_file(MinerSettings, values)
        written = file.with_name(f".{file.name}.new")
        try:
            write_atomic(written, text.encode())
            load_settings(written)
            written.replace(file)
        except SettingsError as error:
            raise SettingsError(str(error).replace(str(written), str(file))) from error
        finally:
            written.unlink(missing_ok=True)
        say(f"{file} is written. What comes next:\n{_next_steps(file, values)}")


def _asked(text: str, default: str) -> str:
    answer: str = typer.prompt(text, default=default)
    return answer


def _silent(_: str, default: str) -> str:
    return default


def _next_steps(file: Path, values: Mapping[str, Any]) -> str:
    named = "" if file == Path("cascade.toml") else f" --config {file}"
    steps = {
        f"cascade retrain --data {values.get('retrain.data', 'ROADS')}": "train and certify a first bundle",
        "cascade engines import BUNDLE": "or bring one from another machine",
        f"cascade doctor{named}": "check everything that a miner needs",
        f"cascade mine{named}": "answer validators",
    }
    width = max(map(len, steps))
    return "\n".join(f"  {command:<{width}}  {what}" for command, what in steps.items())


def origin_of(used: Used, changes: Mapping[str, Any]) -> Callable[[str], str]:
    """Where the value of a dotted name comes from.

    Args:
        used: the settings of a command.
        changes: what its options change, by dotted name.
    """
    from miner.cli.config.origins import origins  # noqa: PLC0415
    from miner.settings import PREFIX, read_settings_file  # noqa: PLC0415

    return origins(
        flags=changes,
        variables=os.environ,
        prefix=PREFIX,
        file={} if used.file is None else read_settings_file(used.file),
        file_name=str(used.file),
        moved=used.origins,
    )
