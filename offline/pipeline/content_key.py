"""What decides the outcome of a stage, as one hash: config, inputs, code and versions."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from offline.pipeline.runner import _file, _source

DISTRIBUTION = "streetvision-cascade"


def code_version() -> str:
    """Version of this program."""
    return version(DISTRIBUTION)


KEY_LENGTH = 16
PACKAGES = ("stage1", "engines", "offline")


def own_modules(roots: Iterable[str]) -> list[str]:
    """These modules and every module of this program that they import, also inside functions, sorted."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _own_imports(_source(module))
    return sorted(found)


def _own_imports(source: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and _of_this_program(node.module):
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                names.append(node.module if _file(inside) is None else inside)
    return [name for name in names if _of_this_program(name)]


def _of_this_program(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


def installed(name: str) -> str:
    """Version of an installed package, `none` if it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
