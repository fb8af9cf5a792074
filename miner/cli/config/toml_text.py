"""Settings as a `cascade.toml`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from miner.simulation.settings_file import toml_key, toml_value
from stage1.errors import SettingsError


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
        name = f"{prefix}{toml_key(key)}"
        if value is None:
            yield f"# {name} is not set"
        elif isinstance(value, Mapping) and value:
            yield from _lines(value, f"{name}.", origin)
        else:
            comment = origin(name)
            yield f"{name} = {toml_value(value)}" + (f"  # {comment}" if comment else "")
