"""What all commands share: options, output, errors as one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from stage1.errors import CascadeError, SettingsError
from stage1.settings import check_crossing, expanded

INTERRUPTED = 130

# Of every path that a person gives: a shell does not expand `--data=~/roads`, nor a variable.
PATH: dict[str, Any] = {"parser": expanded, "metavar": "PATH"}

StoreOption = Annotated[Path, typer.Option("--store", help="Directory of bundles.", envvar="CASCADE_STORE", **PATH)]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file; default cascade.toml here.", **PATH)
]
ChangeOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting by its dotted name; repeatable."),
]
DEFAULT_STORE = Path("cascade-data/engines")
DEFAULT_WORKSPACE = Path("cascade-data/workspace")


class ProgressKind(StrEnum):
    """How progress is shown."""

    AUTO = "auto"
    BARS = "bars"
    LINES = "lines"
    JSON = "json"


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """A parser of options that takes only these names."""

    def parse(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(names)}")
        return text

    return parse


def say(text: str) -> None:
    """Write a line of a command's result to standard output."""
    typer.echo(text)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn the errors this project raises on purpose into one line and an exit status."""
    try:
        yield
    except (CascadeError, OSError) as error:
        typer.secho(f"cascade: {error}", err=True, fg="red")
        raise typer.Exit(getattr(error, "exit_status", 1)) from error
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def parsed_changes(items: list[str] | None, flags: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`["a.b=1"]` to `{"a.b": 1}`; a value is JSON where it can be, else text.

    Args:
        items: as `--set` has them.
        flags: values that options of their own give, by dotted path; those that are None are not given.

    Raises:
        SettingsError: a value is given twice, or one is a part of another, or a number is not finite.
    """
    changes = {key: value for key, value in (flags or {}).items() if value is not None}
    for item in items or []:
        key, separator, text = item.partition("=")
        key = key.strip()
        if not separator or not key:
            raise typer.BadParameter(
                f"{item!r}: expected KEY=VALUE, for example --set axon.port=8092", param_hint="--set"
            )
        if key in changes:
            raise SettingsError(
                f"--set {item}: {key} is given twice, by --set or by an option of its own: give it once"
            )
        changes[key] = _value(item, text)
    check_crossing(changes)
    return changes


def _value(item: str, text: str) -> object:
    import json  # noqa: PLC0415

    def no_number(name: str) -> None:
        raise SettingsError(f"--set {item}: {name} is not a finite number: give one, or put it into quotes")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise SettingsError(f"--set {item}: a name is given twice in one object: give it once")
        return dict(pairs)

    try:
        return json.loads(text, parse_constant=no_number, object_pairs_hook=once)
    except ValueError:
        return text
