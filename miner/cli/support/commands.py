"""`cascade support`."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from miner.cli.drop_in import EnvFileOption, settings_of
from miner.cli.options import PATH, ChangeOption, ConfigOption, clear_errors, parsed_changes, say
from stage1.errors import SettingsError

MODE = 0o600
KIB = 1024


def support(
    context: typer.Context,
    output: Annotated[
        Path | None, typer.Option(help="The archive; default cascade-support-TIME.tar.gz here.", **PATH)
    ] = None,
    config: ConfigOption = None,
    log: Annotated[
        list[Path] | None,
        typer.Option(help="The miner's log, of which the end is taken; repeatable.", **PATH),
    ] = None,
    change: ChangeOption = None,
    env_file: EnvFileOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write without asking.")] = False,
) -> None:
    """Gather what somebody needs who helps from afar, in one archive that names no wallet and holds no secret.

    What is in it is printed before it is written. Nothing is sent anywhere.

    Examples: `cascade support` · `cascade support --log miner.log --output help.tar.gz`
    """
    with clear_errors():
        import asyncio  # noqa: PLC0415

        from engines.machine.clock import utc_now  # noqa: PLC0415
        from miner.cli.config.commands import origin_of  # noqa: PLC0415
        from miner.cli.doctor.examination import examine  # noqa: PLC0415
        from miner.cli.doctor.text import rendered  # noqa: PLC0415
        from miner.cli.support.contents import gathered, parts  # noqa: PLC0415
        from miner.cli.support.redaction import redaction  # noqa: PLC0415
        from miner.logs import configure_logging  # noqa: PLC0415

        # What the doctor meets is in what it says.
        configure_logging("ERROR")

        changes = parsed_changes(change)
        used = settings_of(context, config, changes, env_file)
        now = utc_now()
        path = output or Path(f"cascade-support-{now:%Y%m%d-%H%M%S}.tar.gz")
        if path.exists():
            raise SettingsError(f"{path}: is there already; name another file with --output")
        hidden = redaction(used.settings, os.environ, Path.home())

        async def doctor() -> str:
            return rendered(await examine(used.settings)) + "\n"

        async def texts() -> dict[str, tuple[str, str]]:
            wanted = parts(used.settings, used.as_toml(origin_of(used, changes)) + "\n", doctor, log or [])
            return {part.name: (part.what, hidden.text(await gathered(part))) for part in wanted}

        typer.echo("gathering; the chain and every Stage-2 server are asked, which can take a minute", err=True)
        found = asyncio.run(texts())
        say(_listed(found))
        if not yes and not typer.confirm(f"Write {path}?", default=True):
            raise typer.Exit(1)
        _write(path, {name: text for name, (_, text) in found.items()}, now)
        say(f"{path} is written. Look into it before you send it: tar -xzf {path} -C SOME_DIRECTORY")


def _listed(found: Mapping[str, tuple[str, str]]) -> str:
    width = max(map(len, found))
    return "\n".join(
        f"{len(text.encode()) / KIB:8.1f} KiB  {name:<{width}}  {what}"
        + (f" ({text.splitlines()[0]})" if text.startswith("not there: ") else "")
        for name, (what, text) in found.items()
    )


def _write(path: Path, texts: Mapping[str, str], now: datetime) -> None:
    # For this user alone, and never over another file.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in texts.items():
            content = text.encode()
            entry = tarfile.TarInfo(f"cascade-support/{name}")
            entry.size, entry.mode, entry.mtime = len(content), MODE, int(now.timestamp())
            archive.addfile(entry, io.BytesIO(content))
