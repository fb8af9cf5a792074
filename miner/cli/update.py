"""`cascade update`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from miner.cli.options import ChangeOption, ConfigOption, clear_errors, parsed_changes, say

if TYPE_CHECKING:
    from miner.update.check import UpdateAnswer

update = typer.Typer(name="update", help="Look for a newer release of this program.", no_args_is_help=True)


@update.callback()
def _group() -> None:
    """Look for a newer release of this program."""


@update.command()
def check(
    config: ConfigOption = None,
    change: ChangeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Say which release is the newest and what is new in it.

    `update.url` is asked, and nothing is sent that tells of this miner, not even its version. Nothing is installed.
    Ends with status 1 if nobody could be asked.

    Examples: `cascade update check` · `cascade update check --json`
    """
    with clear_errors():
        from engines.machine.clock import utc_now  # noqa: PLC0415
        from miner.settings import load_settings  # noqa: PLC0415
        from miner.update.check import FILE, installed_version, look  # noqa: PLC0415

        settings = load_settings(config, parsed_changes(change))
        found = look(settings.update, installed=installed_version(), now=utc_now)
        # Where no miner has been, none is made.
        if settings.state.is_dir():
            found.write(settings.state / FILE)
        if as_json:
            plain = found.model_dump(exclude={"schema_version"})
            say(json.dumps({**plain, "newer": found.newer_than(found.installed)}, indent=2))
        else:
            say(told(found))


def told(found: UpdateAnswer) -> str:
    """An answer for a person.

    Args:
        found: the answer.
    """
    if found.newest is None:
        return f"{found.installed} is installed; no release is published that runs on this Python"
    if not found.newer_than(found.installed):
        return f"{found.installed} is installed, and nothing newer is published"
    day = f" of {found.released_at[:10]}" if found.released_at else ""
    lines = [f"{found.newest}{day} is the newest release; {found.installed} is installed"]
    if found.notes_url:
        lines.append(f"notes: {found.notes_url}")
    if found.notes:
        lines += ["", found.notes, ""]
    # Whoever publishes notes says nothing to the terminal.
    text = "".join(sign for sign in "\n".join(lines) if sign in "\n\t" or sign.isprintable())
    return f"{text}\ndocs/updating.md says how to go up and back"
