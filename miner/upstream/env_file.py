"""`miner.env` of the reference miner, read as the shell that sourced it did, and `--config` files of bittensor."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from miner.upstream.flag_table import FLAGS
from stage1.errors import SettingsError

MOST_BYTES = 1 << 20
NOTHING = frozenset({"", "~", "null", "Null", "NULL"})


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of an env file; one without a value is an empty text.

    Comments at the end of a line, quotes, `export` and `${NAME}` are read as a shell reads them.

    Args:
        path: the file.

    Raises:
        SettingsError: it cannot be read, or a line of it is no assignment; names the line.
    """
    text = _text(path)
    before, no_text, _ = text.partition("\0")
    if no_text:
        line = before.count("\n") + 1
        raise SettingsError(f"{path}, line {line}: has a NUL, so it is no text")
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            told = binding.original.string.strip()[:60]
            raise SettingsError(f"{path}, line {binding.original.line}: {told!r} is not NAME=VALUE")
    return {name: value or "" for name, value in dotenv_values(stream=io.StringIO(text)).items()}


def read_yaml_config(path: Path) -> dict[str, str]:
    """Values by flag from a `--config` file of bittensor, which is YAML: `axon: {port: 8091}` is `--axon.port 8091`.

    Args:
        path: the file.

    Raises:
        SettingsError: it cannot be read, is no YAML, or names something that is no flag.
    """
    import yaml  # noqa: PLC0415  hardly anybody has such a file

    try:
        # Which takes every value as text: to the others `off`, a flag of W&B, is the number 0.
        tree = yaml.load(_text(path), yaml.BaseLoader) or {}  # noqa: S506  it makes nothing but text, lists and mappings
    except (yaml.YAMLError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, Mapping):
        raise SettingsError(f"{path}: its top level is no mapping of names to values")
    found = _flat(tree)
    unknown = sorted(name for name in found if name not in FLAGS)
    if unknown:
        raise SettingsError(f"{path}: {', '.join(unknown)}: the reference miner has no such flag")
    return {name: value for name, value in found.items() if value.strip() not in NOTHING}


def _flat(tree: Mapping[object, object], prefix: str = "--") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = str(value)
    return found


def _text(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            content = handle.read(MOST_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) > MOST_BYTES:
        raise SettingsError(f"{path}: is longer than {MOST_BYTES} bytes")
    try:
        # With or without the mark that editors on Windows put first.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SettingsError(f"{path}, line {line}: is not UTF-8") from error
