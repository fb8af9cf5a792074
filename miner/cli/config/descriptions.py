"""What each setting means, from the docstring of its section: the one place where that is written."""

from __future__ import annotations

import inspect
import re

from pydantic import BaseModel

_HEADING = "Attributes:"
_NAME = re.compile(r"^    (\w+): (.*)$")


def descriptions(section: type[BaseModel]) -> dict[str, str]:
    """What the fields of a section mean, by name; those that its classes do not describe are missing.

    Args:
        section: a class whose docstring, or that of a class it is made of, has a list of attributes.
    """
    found: dict[str, str] = {}
    for part in reversed(section.__mro__):
        if part.__doc__:
            found |= _attributes(inspect.cleandoc(part.__doc__))
    return {name: text for name, text in found.items() if name in section.model_fields}


def _attributes(docstring: str) -> dict[str, str]:
    found: dict[str, str] = {}
    lines = iter(docstring.splitlines())
    if not any(line == _HEADING for line in lines):
        return {}
    name = ""
    for line in lines:
        if line and not line.startswith("    "):
            break
        if (begins := _NAME.match(line)) is not None:
            name = begins[1]
            found[name] = begins[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return {name: _sentence(text) for name, text in found.items()}


def _sentence(text: str) -> str:
    # A settings file has no None.
    told = re.sub(r"\bNone\b", "not set", text)
    return told[:1].upper() + told[1:]
