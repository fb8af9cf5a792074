"""A `cascade.toml` for a miner of this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stage1.artifacts import write_atomic


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write settings as TOML, for `cascade mine --config`.

    Args:
        path: where to.
        settings: by dotted path; None is left out.
    """
    lines = [f"{name} = {_value(value)}\n" for name, value in settings.items() if value is not None]
    write_atomic(path, "".join(lines).encode())


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        parts = (f"{json.dumps(name)} = {_value(part)}" for name, part in value.items() if part is not None)
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    # Numbers, texts and lists of them are the same in JSON and in TOML, which has no escapes of surrogates.
    return json.dumps(value, default=str, ensure_ascii=False)
