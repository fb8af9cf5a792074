"""Settings as a `cascade.toml`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from stage1.errors import SettingsError

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def settings_as_toml(settings: BaseModel, origin: Callable[[str], str | None]) -> str:
    """One line a setting, under its dotted name; a value that is not set is a comment.

    Args:
        settings: the tree.
        origin: what stands behind the line of a dotted name as a comment, None for nothing.

    Raises:
        SettingsError: a value is no text in UTF-8, as the name of a file may be.
    """
    try:
        tree = json.loads(settings.model_dump_json())
    except PydanticSerializationError as error:
        raise SettingsError(f"the settings cannot be printed: {error}") from error
    return "\n".join(_lines(tree, "", origin))


def _lines(tree: Mapping[str, object], prefix: str, origin: Callable[[str], str | None]) -> Iterator[str]:
    for key, value in tree.items():
        name = f"{prefix}{_key(key)}"
        if value is None:
            yield f"# {name} is not set"
        elif isinstance(value, Mapping) and value:
            yield from _lines(value, f"{name}.", origin)
        else:
            comment = origin(name)
            yield f"{name} = {toml_value(value)}" + (f"  # {comment}" if comment else "")


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def toml_value(value: object) -> str:
    """A plain value as it stands behind a key, in one line; what is None in a table is left out."""
    if isinstance(value, Mapping):
        parts = (f"{_key(key)} = {toml_value(part)}" for key, part in value.items() if part is not None)
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(part) for part in value) + "]"
    return _text(value)


def _text(value: object) -> str:
    # What JSON writes of a text or a number is TOML as well, but for a control character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
