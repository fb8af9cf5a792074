"""What all commands share: options, output, errors as one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from stage1.errors import CascadeError

INTERRUPTED = 130

StoreOption = Annotated[Path, typer.Option("--store", help="Directory of bundles.", envvar="CASCADE_STORE")]
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


def parsed_changes(items: list[str] | None) -> dict[str, Any]:
    """`["a.b=1"]` to `{"a.b": 1}`; a value is JSON where it can be, else text."""
    import json  # noqa: PLC0415

    changes: dict[str, Any] = {}
    for item in items or []:
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise typer.BadParameter(
                f"{item!r}: expected KEY=VALUE, for example --set axon.port=8092", param_hint="--set"
            )
        try:
            changes[key] = json.loads(text)
        except ValueError:
            changes[key] = text
    return changes
