"""What decides the outcome of a stage, as one hash: config, data, inputs, code and versions."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic

from offline.errors import PipelineError
from offline.pipeline.reads import Parted
from offline.pipeline.settings_view import leaves
from offline.pipeline.stage import ConfigT, DataT, Stage
from stage1.artifacts import Artifact, sha256_json

DISTRIBUTION = "streetvision-cascade"
KEY_LENGTH = 16
SETTING, PACKAGE = "setting ", "package "
PACKAGES = ("stage1", "engines", "offline")


@dataclass(frozen=True)
class View(Generic[ConfigT, DataT]):
    """What a stage is handed.

    Attributes:
        config: the settings that it reads.
        data: the rows that it reads.
        files: hash of each file that it reads, by stage and name.
        outside: hash of each file elsewhere, by path.
        machine: what of this machine decides its result.
    """

    config: ConfigT
    data: DataT
    files: Mapping[str, Mapping[str, str]]
    outside: Mapping[str, str | None]
    machine: str = ""


def stage_reads(stage: Stage[ConfigT, DataT], view: View[ConfigT, DataT]) -> dict[str, str]:
    """Everything that decides the outcome of a stage, each part by its name.

    Args:
        stage: the stage.
        view: what it is handed.

    Raises:
        PipelineError: a module that it imports has no source file.
    """
    code = root_source(stage.run)
    modules = {module: _source(module) for module in own_modules(_own_imports(code))}
    rows = view.data.parts if isinstance(view.data, Parted) else {"data": view.data.sha256}
    return {
        **setting_parts(view.config.model_dump(mode="json")),
        **{f"rows of {name}": digest for name, digest in rows.items()},
        **{f"{name} of {needed}": digest for needed, files in view.files.items() for name, digest in files.items()},
        **{f"file {path}": digest or "none" for path, digest in view.outside.items()},
        f"code {stage.name}": sha256_json(code)[:KEY_LENGTH],
        **{f"code {module}": sha256_json(source)[:KEY_LENGTH] for module, source in modules.items()},
        **{f"{PACKAGE}{name}": installed(name) for name in stage.distributions},
        "machine": view.machine,
    }


def setting_parts(tree: Mapping[str, Any]) -> dict[str, str]:
    """The settings among what decides the outcome of a stage: each value as JSON.

    Args:
        tree: of the settings that it reads.
    """
    return {f"{SETTING}{path}": json.dumps(value) for path, value in leaves(tree)}


def key_of(stage: str, reads: Mapping[str, str]) -> str:
    """Key of a stage: the same key is the same outcome.

    Args:
        stage: its name.
        reads: see `stage_reads`.
    """
    return sha256_json([stage, dict(sorted(reads.items()))])[:KEY_LENGTH]


def run_id(data_sha256: str, config: Artifact) -> str:
    """Id of the run of a config on a data set."""
    return sha256_json([data_sha256, config.model_dump(mode="json")])[:KEY_LENGTH]


def code_version() -> str:
    """Version of this program."""
    return version(DISTRIBUTION)


def installed(name: str) -> str:
    """Version of an installed package, `none` if it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def root_source(function: Callable[..., object]) -> str:
    """Source of the module that defines a function; its name where there is no file, as on a command line."""
    module = inspect.getmodule(function)
    try:
        return function.__qualname__ if module is None else inspect.getsource(module)
    except (OSError, TypeError):
        return function.__qualname__


def own_modules(roots: Iterable[str]) -> list[str]:
    """These modules and every module of this program that they import, also inside functions, sorted.

    A module that a string names counts as imported, too: backends are found, and children started, by name. What only
    a type checker imports does not count.

    Raises:
        PipelineError: one of them has no source file.
    """
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _own_imports(_source(module))
    return sorted(found)


@cache
def _own_imports(source: str) -> tuple[str, ...]:
    names: list[str] = []
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        names += _named_by(node)
        waiting += ast.iter_child_nodes(node)
    return tuple(names)


def _named_by(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if _of_this_program(alias.name)]
    if isinstance(node, ast.ImportFrom) and node.module and _of_this_program(node.module):
        inside = [f"{node.module}.{alias.name}" for alias in node.names]
        return [node.module if _file(name) is None else name for name in inside]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and _of_this_program(node.value):
        return [node.value] if "." in node.value and _file(node.value) is not None else []
    return []


def _of_this_program(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


@cache
def _source(module: str) -> str:
    file = _file(module)
    if file is None:
        raise PipelineError(f"module {module} has no source file")
    return file.read_text(encoding="utf-8")


@cache
def _file(module: str) -> Path | None:
    """The source file of a module, None if there is no such module."""
    package, *inside = module.split(".")
    if not all(part.isidentifier() for part in inside):
        return None
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    place = Path(spec.origin).parent.joinpath(*inside)
    candidates = (place / "__init__.py", place.with_suffix(".py")) if inside else (place / "__init__.py",)
    return next((file for file in candidates if file.is_file()), None)
