"""`cascade chain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from miner.cli.chain.allowlist import ListFormat
from miner.cli.drop_in import DropInCommand, EnvFileOption, settings_of
from miner.cli.options import PATH, ChangeOption, ConfigOption, clear_errors, parsed_changes, say

chain = typer.Typer(name="chain", help="Ask the chain about the subnet.", no_args_is_help=True)


@chain.callback()
def _group() -> None:
    """Ask the chain about the subnet."""


@chain.command("allowlist", cls=DropInCommand)
def chain_allowlist(
    context: typer.Context,
    output: Annotated[Path | None, typer.Option(help="Write it here instead of printing it.", **PATH)] = None,
    form: Annotated[ListFormat, typer.Option("--format", help="Who reads it.")] = ListFormat.TEXT,
    also: Annotated[list[str] | None, typer.Option(help="A further address or network; repeatable.")] = None,
    config: ConfigOption = None,
    change: ChangeOption = None,
    env_file: EnvFileOption = None,
) -> None:
    """Write the addresses that those who may ask have published, for a firewall or a proxy in front of the axon.

    Many validators publish no address: let others pass as well, at a lower rate. See deploy/nginx and deploy/nftables.

    Examples: `cascade chain allowlist` ·
    `cascade chain allowlist --format nftables --output /etc/cascade/validators.nft`
    """
    with clear_errors():
        import asyncio  # noqa: PLC0415

        from miner.chain.adapter import open_chain  # noqa: PLC0415
        from miner.chain.port import ChainSnapshot, checked  # noqa: PLC0415
        from miner.cli.chain.allowlist import allowlist, written  # noqa: PLC0415
        from miner.logs import configure_logging  # noqa: PLC0415
        from stage1.artifacts import write_atomic  # noqa: PLC0415

        settings = settings_of(context, config, parsed_changes(change), env_file).settings
        configure_logging("WARNING", settings.log.json_lines)

        async def snapshot() -> ChainSnapshot:
            opened = open_chain(settings.chain, logs=settings.log)
            try:
                return checked(await opened.snapshot())
            finally:
                await opened.close()

        read = asyncio.run(snapshot())
        found = allowlist(read.neurons, settings.access, also or ())
        text = written(found, form, read.block)
        if output is None:
            say(text.rstrip("\n"))
            return
        write_atomic(output, text.encode())
        say(
            f"{output}: {len(found.networks)} addresses; {found.admitted} hotkeys may ask, {found.silent} of them "
            "publish no address"
        )


@chain.command()
def practice(
    directory: Annotated[Path, typer.Argument(help="Where keys, chain and variables are written.", **PATH)] = Path(
        "practice"
    ),
) -> None:
    """Make a chain for practice: a file on which a throw-away miner and a throw-away validator are registered.

    The file practice.env has the variables with which a miner takes that chain instead of the real one. Keys that are
    there already are kept. None of them is worth anything, and none has a password.

    Example: `cascade chain practice`, then `. practice/practice.env` and `cascade mine`
    """
    with clear_errors():
        from miner.cli.chain.practice import made  # noqa: PLC0415

        ground = made(directory)
        say(
            f"{directory}: a chain with one miner and one validator\n"
            f"  miner      {ground.miner}\n"
            f"  validator  {ground.validator}\n"
            f"  . {ground.variables}  has this shell use it"
        )
