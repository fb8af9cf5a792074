"""A `cascade.toml` for a miner of this machine, and how values stand in one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stage1.artifacts import write_atomic

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write settings as TOML, for `cascade mine --config`.

    Args:
        path: where to.
        settings: by dotted path; None is left out.
    """
    lines = [f"{name} = {toml_value(value)}\n" for name, value in settings.items() if value is not None]
    write_atomic(path, "".join(lines).encode())


def toml_key(key: str) -> str:
    """A name as it stands before a value."""
    return key if _BARE.fullmatch(key) else toml_value(key)


def toml_value(value: object) -> str:
    """A plain value, or a path, as it stands behind a key, in one line; what is None in a table is left out."""
    if isinstance(value, Mapping):
        parts = (f"{toml_key(key)} = {toml_value(part)}" for key, part in value.items() if part is not None)
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    # What JSON writes of a text or a number is TOML as well, which has no escapes of surrogates, but for a control
    # character that JSON leaves as it is.
    return json.dumps(value, default=str, ensure_ascii=False).replace("\x7f", "\\u007f")
