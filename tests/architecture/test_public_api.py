"""The public names of each package: which they are, what they cost, and that only those outside use them."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from inspect import isclass, isfunction
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOUSES = ("stage1", "engines", "offline", "stage2_bridge", "miner")
PUBLIC: dict[str, list[str]] = {
    "stage1": [
        "Action",
        "CalibrationContext",
        "CalibrationSettings",
        "CascadeError",
        "Decisions",
        "ExitRule",
        "LabelledOutputs",
        "Level",
        "Policy",
        "PreprocessSettings",
        "ProbabilityCalibrator",
        "Rate",
        "Risk",
        "ScrcParams",
        "ScrcPolicy",
        "SettingsError",
        "Stage1Error",
        "Stage1Outputs",
        "calibrate",
    ],
    "stage1.metrics": [
        "Ranking",
        "RiskCoverage",
        "accuracy",
        "augrc",
        "aurc",
        "brier",
        "expected_calibration_error",
        "interval",
        "matthews_correlation",
        "paired_difference",
        "subnet_reward",
    ],
    "engines": [
        "REFERENCE",
        "Batcher",
        "BundleRefused",
        "BundleSlot",
        "Engine",
        "EngineDescription",
        "EngineError",
        "EngineSpec",
        "LiveBundle",
        "Manifest",
        "Store",
        "StoreFollower",
        "check_available",
        "compile_engine",
        "load_bundle",
        "open_engine",
    ],
    "offline": [
        "PRESETS",
        "STAGE_NAMES",
        "DataSource",
        "Dataset",
        "NightOutcome",
        "OfflineError",
        "Progress",
        "Row",
        "RunConfig",
        "load_config",
        "read_dataset",
        "recompile",
        "run_night",
    ],
    "stage2_bridge": [
        "Bridge",
        "Outcome",
        "Stage2Client",
        "Stage2Error",
        "Stage2Settings",
        "Verdict",
        "open_server",
    ],
    "miner": [
        "Cascade",
        "MinerError",
        "MinerSettings",
        "Observer",
        "Prediction",
        "Request",
        "RequestRecord",
        "load_settings",
        "run_miner",
    ],
}
PAIRS = [(package, name) for package, names in PUBLIC.items() for name in names]
FULL_NAMES = {f"{package}.{name}" for package, name in PAIRS}
each_package = pytest.mark.parametrize("package", PUBLIC)


@dataclass(frozen=True)
class Facade:
    """What the `__init__` of a package says of its public names.

    Attributes:
        checked: what a type checker imports, module by name.
        lazy: the table of what is imported when it is asked for, module by name.
    """

    checked: dict[str, str]
    lazy: dict[str, str]


@cache
def facade(package: str) -> Facade:
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    checked: dict[str, str] = {}
    lazy: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                assert isinstance(line, ast.ImportFrom)
                assert line.module
                checked |= {alias.asname or alias.name: line.module for alias in line.names}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy_exports":
            lazy |= ast.literal_eval(node.args[1])
    return Facade(checked, lazy)


def as_ruff_sorts(name: str) -> tuple[int, str]:
    """Key of the isort style: constants, classes, everything else."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def submodules(package: str) -> set[str]:
    home = ROOT / package.replace(".", "/")
    return {path.stem for path in home.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}


@each_package
def test_the_public_names_are_these(package: str) -> None:
    assert importlib.import_module(package).__all__ == PUBLIC[package]
    assert PUBLIC[package] == sorted(PUBLIC[package], key=as_ruff_sorts)


@each_package
def test_a_type_checker_and_an_importer_are_told_the_same(package: str) -> None:
    found = facade(package)
    assert found.checked == found.lazy
    assert sorted(found.lazy) == sorted(PUBLIC[package])
    # Who imports a module sets an attribute of its package, which would hide a public name that is called the same.
    assert not found.lazy.keys() & submodules(package)


@pytest.mark.parametrize(("package", "name"), PAIRS, ids=lambda part: part)
def test_a_public_name_is_the_very_object_of_its_home(package: str, name: str) -> None:
    home = facade(package).lazy[name]
    found = getattr(importlib.import_module(package), name)
    assert found is getattr(importlib.import_module(home), name)
    if isclass(found) or isfunction(found):
        # Its home is where it is defined, and no second place that imports it from there.
        assert (found.__module__, found.__name__) == (home, name)


@each_package
def test_an_unknown_name_is_missed_and_the_package_is_named(package: str) -> None:
    with pytest.raises(AttributeError, match=rf"^module '{package}' has no attribute 'nothing'$"):
        _ = importlib.import_module(package).nothing


@each_package
def test_a_package_costs_nothing_until_it_is_asked(package: str) -> None:
    script = f"import sys\nbefore = set(sys.modules)\nimport {package}\nprint(*(sys.modules.keys() - before))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.partition(".")[0] in HOUSES}
    # The table, the packages above the one that is asked for, and nothing else; not even numpy.
    assert ours == {"stage1", "stage1.lazy_exports", package}
    assert {name.partition(".")[0] for name in loaded} <= {*HOUSES, *sys.stdlib_module_names}


def facade_uses(tree: ast.AST) -> Iterator[str]:
    """Public names that come from one of the packages themselves and not from their home, and the packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            found = {f"{node.module}.{alias.name}": alias.name for alias in node.names}
            inside = submodules(node.module) if node.module in PUBLIC else found.values()
            yield from sorted(full for full, name in found.items() if name not in inside or full in PUBLIC)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in PUBLIC)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in FULL_NAMES:
            yield ast.unparse(node)


@pytest.mark.parametrize("house", HOUSES)
def test_what_is_inside_imports_every_name_from_its_home(house: str) -> None:
    # So that no import runs in a circle, and a module costs what it names and no more.
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / house).rglob("*.py")}
    assert not {path: found for path, text in sources.items() if (found := list(facade_uses(ast.parse(text))))}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from stage1 import Policy, policy", ["stage1.Policy"]),
        ("from stage1 import metrics", ["stage1.metrics"]),
        ("from stage1.metrics import aurc, risk_coverage", ["stage1.metrics.aurc"]),
        ("import engines.spec, engines", ["engines"]),
        ("import engines.spec\nengines.Store(root)", ["engines.Store"]),
        ("from engines.store.store import Store\nfrom pathlib import Path", []),
    ],
)
def test_a_use_of_such_a_name_is_found(code: str, found: list[str]) -> None:
    assert list(facade_uses(ast.parse(code))) == found


def test_the_type_of_every_public_name_is_checked() -> None:
    assert set(facade_uses(ast.parse((ROOT / "tests/typing/api.py").read_text()))) >= FULL_NAMES
