"""Where each setting comes from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from stage1.errors import SettingsError
from stage1.settings import dotted

DEFAULT = "default"


def origins(
    *,
    flags: Iterable[str],
    variables: Mapping[str, str],
    prefix: str,
    file: Mapping[str, object],
    file_name: str,
    moved: Mapping[str, str],
) -> Callable[[str], str]:
    """Where the value of a dotted name comes from; of several sources it is the one that wins.

    Args:
        flags: dotted names that options of the command give.
        variables: of the environment.
        prefix: that our variables begin with.
        file: what the settings file says, as a tree.
        file_name: how that file is called.
        moved: dotted names that the reference miner's flags and variables give, each with its flag or variable.
    """
    given = [
        dict.fromkeys(flags, "an option of this command"),
        _of_variables(variables, prefix),
        dict.fromkeys(_paths(file), file_name),
        moved,
    ]
    return lambda name: next(filter(None, (_within(name, source) for source in given)), DEFAULT)


def _of_variables(variables: Mapping[str, str], prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, text in variables.items():
        if not name.upper().startswith(prefix):
            continue
        path = name[len(prefix) :].lower().replace("__", ".")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        # A whole section as JSON gives only what it names.
        inner = [f"{path}.{part}" for part in _paths(value)] if isinstance(value, dict) else [path]
        found |= dict.fromkeys(inner, name)
    return found


def _paths(tree: Mapping[str, object]) -> list[str]:
    try:
        return list(dotted(tree))
    except SettingsError:
        # Such a tree has been refused before this is asked.
        return []


def _within(name: str, source: Mapping[str, str]) -> str | None:
    """The origin of a name, of a value that it is a part of, or of one that is a part of it."""
    for path, origin in source.items():
        if path == name or name.startswith(f"{path}.") or path.startswith(f"{name}."):
            return origin
    return None
