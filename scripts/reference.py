"""The pages in docs/reference, from the code: every setting, and every command.

python -m scripts.reference            writes them
python -m scripts.reference --check    says which differ, with status 1
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from miner.cli.config.schema import settings_schema
from miner.cli.main import app
from miner.settings import MinerSettings
from miner.simulation.settings_file import toml_value
from offline.config import PRESETS, RunConfig

PAGES = Path(__file__).parents[1] / "docs" / "reference"
MADE = "<!-- Made by `python -m scripts.reference`; change the code that it reads, and run it again. -->\n"
DEFINITIONS = "#/$defs/"
# By the last part of a name; the longest that fits counts.
UNITS = {
    "_s": "seconds",
    "_ms": "milliseconds",
    "_h": "hours",
    "_per_s": "a second",
    "minutes": "minutes",
    "_days": "days",
    "_bytes": "bytes",
    "_bytes_a_second": "bytes a second",
    "_mib": "MiB",
    "_gib": "GiB",
    "_px": "pixels",
    "_pixels": "pixels",
    "_steps": "steps",
    "epochs": "epochs",
    "stake": "TAO",
}
SETTINGS_HEAD = """\
# Settings of a miner

Every key of `cascade.toml`. [Settings](../using.md#settings) says where they are read from and which source wins. In
the environment a key is `CASCADE_`, its section and its name in capitals with two underscores between them:
`CASCADE_AXON__PORT=8092`. On the command line it is `--set axon.port=8092`. `cascade config show --origin` prints the
values in use. The section `[night]` holds [settings of a night](night.md).
"""
NIGHT_HEAD = """\
# Settings of a night

Every key of the config of `cascade retrain`. They are changed with `--set SECTION.KEY=VALUE`, or, for the nights of a
miner, in the table `[night]` of `cascade.toml`; see [How a night works](../night.md#its-settings). The default is that
of the preset `standard`, and where `tiny` has another one, that stands behind it.
"""
COMMANDS_HEAD = """\
# Commands

Every command with its arguments and options. `cascade COMMAND --help` says the same in a terminal. What the exit
statuses mean is in [How to use it](../using.md#exit-statuses). Options that can be given more than once say so.
"""


def settings_page() -> str:
    """The page of the settings of a miner."""
    schema = settings_schema(MinerSettings, RunConfig)
    schema["properties"].pop("night")
    return MADE + SETTINGS_HEAD + "".join(_sections(schema, schema["$defs"], "", [_Defaults(schema)], brackets="[{}]"))


def night_page() -> str:
    """The page of the settings of a night."""
    whole = settings_schema(MinerSettings, RunConfig)
    presets = [PRESETS[name].model_dump(mode="json") for name in ("standard", "tiny")]
    schema = whole["properties"]["night"]
    schema["properties"].pop("schema_version", None)
    defaults = [_Defaults(schema, one) for one in presets]
    return MADE + NIGHT_HEAD + "".join(_sections(schema, whole["$defs"], "", defaults, brackets="{}"))


class _Defaults:
    """The value that a key has unless it is set.

    Args:
        schema: of the section, which says its own.
        values: of the section in a preset, which win.
    """

    def __init__(self, schema: dict[str, Any], values: Any = None) -> None:  # noqa: ANN401  JSON
        self._schema = schema
        self._values = values if isinstance(values, dict) else {}

    def of(self, key: str) -> Any:  # noqa: ANN401  JSON
        return self._values.get(key, self._schema["properties"][key].get("default"))

    def inside(self, key: str, schema: dict[str, Any]) -> _Defaults:
        return _Defaults(schema, self.of(key))


def _sections(
    schema: dict[str, Any],
    definitions: dict[str, Any],
    name: str,
    defaults: list[_Defaults],
    *,
    brackets: str,
    heading: str = "",
    shown: set[tuple[str, str | None]] | None = None,
) -> Iterator[str]:
    """A heading and a table for a section, and then the same for those inside of it.

    Args:
        schema: of the section.
        definitions: what it refers to.
        name: of the section, dotted; empty for the top level.
        defaults: of its keys, one for each preset.
        brackets: how the name of a section is written.
        heading: instead of the name.
        shown: sections that the page has already, by name and kind.
    """
    parts = schema["properties"]
    plain = {key: part for key, part in parts.items() if not _is_section(part, definitions)}
    inner = [(key, one) for key, part in parts.items() for one in _tables(part, definitions)]
    # Kinds of one table may have a section in common.
    shown = shown if shown is not None else set()
    if name:
        yield f"\n## {heading or f'`{brackets.format(name)}`'}\n"
        if schema.get("description"):
            yield f"\n{schema['description']}\n"
    elif plain:
        yield "\n## Top level\n"
    if plain:
        yield "\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n"
        for key, part in plain.items():
            told = [_default(one.of(key), part, required=key in schema.get("required", ())) for one in defaults]
            default = told[0] if len(set(told)) == 1 else f"{told[0]}; tiny {told[1]}"
            kind = ", ".join(filter(None, (_kind(part, definitions), _unit(key, part))))
            cells = (f"`{key}`", kind, default, part.get("description", ""))
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
    for key, section in inner:
        path = f"{name}.{key}".lstrip(".")
        kind = section["properties"].get("kind", {}).get("const")
        if (path, kind) in shown:
            continue
        shown.add((path, kind))
        if _is_section(parts[key], definitions):
            within = [one.inside(key, section) for one in defaults]
            yield from _sections(section, definitions, path, within, brackets=brackets, shown=shown)
            continue
        heading = f"`[[{path}]]`" if "items" in parts[key] else f"`{brackets.format(path)}`"
        heading += f" of kind `{kind}`" if kind else ""
        own = {key: part for key, part in section["properties"].items() if key != "kind"}
        described = {**section, "properties": own}
        inside = [_Defaults(described)]
        yield from _sections(described, definitions, path, inside, brackets=brackets, heading=heading, shown=shown)


def _referred(part: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = definitions[part["$ref"].removeprefix(DEFINITIONS)]
    return found


def _is_section(part: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Whether it is a table that is always there."""
    return "$ref" in part and "properties" in _referred(part, definitions)


def _tables(part: dict[str, Any], definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Tables that a value may be or hold."""
    if "$ref" in part:
        found = _referred(part, definitions)
        if "properties" in found:
            yield found
    for one in [*part.get("anyOf", ()), *part.get("oneOf", ()), *filter(None, [part.get("items")])]:
        if isinstance(one, dict):
            yield from _tables(one, definitions)


WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}


def _kind(part: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The type in words, with its bounds."""
    if "$ref" in part:
        found = _referred(part, definitions)
        return "table" if "properties" in found else _kind(found, definitions)
    choices = [one for one in [*part.get("anyOf", ()), *part.get("oneOf", ())] if one.get("type") != "null"]
    if choices:
        return " or ".join(dict.fromkeys(_kind(one, definitions) for one in choices))
    if "enum" in part or "const" in part:
        return " or ".join(f"`{toml_value(one)}`" for one in part.get("enum", [part.get("const")]))
    if part.get("type") == "array":
        return _list(part, definitions)
    word = WORDS.get(part.get("type", ""), "table" if part.get("type") == "object" else "any value")
    return " ".join(filter(None, ("path" if part.get("format") == "path" else word, _bounds(part))))


def _list(part: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "prefixItems" not in part:
        return f"list of {_kind(part.get('items', {}), definitions)}"
    kinds = dict.fromkeys(_kind(one, definitions) for one in part["prefixItems"])
    return f"list of {len(part['prefixItems'])}: {', '.join(kinds)}"


def _bounds(part: dict[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return ", ".join(f"{sign} {part[name]:g}" for name, sign in signs.items() if name in part)


def _default(value: Any, part: dict[str, Any], *, required: bool) -> str:  # noqa: ANN401  JSON
    if required or ("default" not in part and value is None):
        return "needed"
    return "not set" if value is None else f"`{toml_value(value)}`"


def _unit(key: str, part: dict[str, Any]) -> str:
    kinds = {part.get("type"), *(one.get("type") for one in part.get("anyOf", ()))}
    if not kinds & {"integer", "number", "array"}:
        return ""
    ends = [end for end in UNITS if key.endswith(end) or key == end.strip("_")]
    return UNITS[max(ends, key=len)] if ends else ""


def commands_page() -> str:
    """The page of the commands."""
    program = typer.main.get_command(app)
    return MADE + COMMANDS_HEAD + "".join(_commands(program, "cascade"))


def _commands(command: Any, path: str) -> Iterator[str]:  # noqa: ANN401  of click, which typer brings along
    if hasattr(command, "commands"):
        for name, part in sorted(command.commands.items()):
            yield from _commands(part, f"{path} {name}")
        return
    text, _, examples = inspect.cleandoc(command.help or "").partition("\n\nExample")
    yield f"\n## `{path}`\n\n{text}\n"
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    if arguments:
        yield "\n| argument | meaning |\n| --- | --- |\n"
        for one in arguments:
            name = one.name.upper()
            yield f"| `{name if one.required else f'[{name}]'}` | {_meaning(one)} |\n"
    if options:
        yield "\n| option | meaning |\n| --- | --- |\n"
        for one in options:
            yield f"| {_flags(one)} | {_meaning(one)} |\n"
    if examples:
        lines = re.findall(r"`([^`]+)`", examples)
        listed = "\n".join(f"- `{line}`" for line in lines)
        yield f"\nExamples:\n\n{listed}\n"


def _flags(option: Any) -> str:  # noqa: ANN401
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return names
    kind = option.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"{names} {' or '.join(f'`{choice.value}`' for choice in kind)}"
    return f"{names} `{option.metavar or {int: 'N', float: 'X'}.get(kind, 'TEXT')}`"


def _meaning(parameter: Any) -> str:  # noqa: ANN401
    text = " ".join((parameter.help or "").split()).replace("|", "\\|")
    default = parameter.default
    if default is not None and not getattr(parameter, "is_flag", False) and "default" not in text.lower():
        text += f" Default `{default.value if isinstance(default, Enum) else default}`."
    return f"{text} Variable `{parameter.envvar}`." if parameter.envvar else text


def pages() -> dict[Path, str]:
    """What each file has to hold."""
    made = {"settings": settings_page(), "night": night_page(), "commands": commands_page()}
    return {PAGES / f"{name}.md": text for name, text in made.items()}


def main() -> None:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    made = pages()
    other = [path for path, text in made.items() if not path.is_file() or path.read_text() != text]
    if options.check:
        sys.exit("\n".join(f"{path}: run `python -m scripts.reference`" for path in other) if other else 0)
    PAGES.mkdir(exist_ok=True)
    for path in other:
        path.write_text(made[path])
        print(path)


if __name__ == "__main__":
    main()
