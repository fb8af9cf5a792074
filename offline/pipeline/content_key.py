"""What decides the outcome of a stage, as one hash: config, data, inputs, code and versions."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache, reduce
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from operator import getitem
from pathlib import Path

from offline.errors import PipelineError
from offline.pipeline.stage import Config, ConfigT, DataT, Stage
from stage1.artifacts import sha256_file, sha256_json

DISTRIBUTION = "streetvision-cascade"
KEY_LENGTH = 16
PACKAGES = ("stage1", "engines", "offline")


def stage_key(
    stage: Stage[ConfigT, DataT],
    config: ConfigT,
    data_sha256: str,
    inputs: Mapping[str, str],
    store: Path | None = None,
) -> str:
    """Key of a stage: the same key is the same outcome.

    Args:
        stage: the stage.
        config: of the run.
        data_sha256: hash of the data.
        inputs: content hash of each stage that it needs.
        store: root of the store; None if there is none that it could read anything of.

    Raises:
        PipelineError: a module that it imports has no source file.
    """
    tree = config.model_dump(mode="json")
    code = root_source(stage.run)
    parts = {
        "stage": stage.name,
        "data": data_sha256,
        "config": {name: reduce(getitem, name.split("."), tree) for name in stage.sections},
        "inputs": dict(inputs),
        "outside": [_listing(path) for path in stage.outside(config)],
        "code": sha256_json(code),
        "imports": {module: sha256_json(_source(module)) for module in own_modules(_own_imports(code))},
        "versions": {name: installed(name) for name in stage.distributions},
        "machine": stage.machine(config),
    }
    if store is not None and (read := stage.in_store(store)):
        parts["store"] = [(path.relative_to(store).as_posix(), sha256_file(path)) for path in read]
    return sha256_json(parts)[:KEY_LENGTH]


def run_id(data_sha256: str, config: Config) -> str:
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


def _listing(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a file, or of every file below a directory; nothing if it is not there."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if path.is_file() else []
    return [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
