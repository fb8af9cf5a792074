"""The plan of the house: how full a room may be, how files are called, and that tests stand where the code does."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from stage1.errors import CascadeError

ROOT = Path(__file__).parents[2]
PACKAGES = ("stage1", "engines", "offline", "stage2_bridge", "miner")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MOST_MODULES = 14
# They begin to work when they are imported.
UNIMPORTED = ("miner.cli.__main__", "miner.simulation.validator", "miner.upstream.__main__", "miner.upstream.plugin")
MOST_LINES = 400
SUFFIXES = ("_settings", "ing", "er", "s")
# A training is a thing, and the stage has this name on the command line; pooling is what the field calls it.
GERUNDS = {"compare_training", "pooling"}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


def imported_by(path: Path) -> set[str]:
    """Modules of this program that a file imports when it is imported itself."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inside}
    return found & MODULES.keys()


def test_no_room_is_overfull() -> None:
    count = Counter(path.parent.relative_to(ROOT).as_posix() for path in SOURCES)
    assert {room: modules for room, modules in count.items() if modules > MOST_MODULES} == {}


def test_no_file_is_long() -> None:
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: number for name, number in lines.items() if number > MOST_LINES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_names_differ_by_a_suffix(package: str) -> None:
    names = {path.stem for path in SOURCES if path.relative_to(ROOT).parts[0] == package} - {"__init__", "__main__"}
    alike = {(name, name + suffix) for name in names for suffix in SUFFIXES if name + suffix in names}
    assert alike == set()


def test_files_are_named_after_nouns() -> None:
    assert {path.stem for path in SOURCES if path.stem.endswith("ing")} == GERUNDS


def test_no_import_goes_round_in_a_circle() -> None:
    arrows = {name: imported_by(path) - {name} for name, path in MODULES.items()}
    # Whoever imports nothing that is left is on no circle.
    while settled := {name for name, targets in arrows.items() if not targets & arrows.keys()}:
        arrows = {name: targets for name, targets in arrows.items() if name not in settled}
    assert sorted(arrows) == []


def test_tests_stand_where_the_code_does() -> None:
    rooms = {path.parent.relative_to(ROOT) for path in [*SOURCES, *(ROOT / "benchmarks").rglob("*.py")]}
    beside = {Path("architecture"), Path("support"), Path("typing"), Path("examples"), Path("deploy"), Path()}
    tested = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("*.py")}
    # Engines of other machines are tested through all of `engines.live`, and have a fake GPU to themselves.
    assert tested - rooms - beside == {Path("engines/live/machines")}


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_every_error_has_one_root_and_an_exit_status() -> None:
    """What ends a command ends it in one line, with a status; a refusal of the axon is an answer, and no error."""
    found: dict[str, type[BaseException]] = {}
    for package in PACKAGES:
        root = importlib.import_module(package)
        for info in pkgutil.walk_packages(root.__path__, f"{package}."):
            if info.name in UNIMPORTED:
                continue
            module = importlib.import_module(info.name)
            for name, value in vars(module).items():
                if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == info.name:
                    found[f"{info.name}.{name}"] = value
    others = {name for name, kind in found.items() if not issubclass(kind, CascadeError)}
    refusals = {name for name in others if name.startswith("miner.axon.refusals.")}
    assert others - refusals == {"engines.machine.gpu_probe.Refused"}
    assert {kind.exit_status for kind in found.values() if issubclass(kind, CascadeError)} == {1, 2, 3, 4, 75}
