"""The rules that hold the house up: floors, imports, and where numbers may stand."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("stage1", "engines", "offline", "stage2_bridge", "miner")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_every_import_contract_is_kept() -> None:
    """Floors, rooms, and torch behind one door: `[tool.importlinter]` in pyproject.toml."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*command, "--no-cache"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "0 broken" in done.stdout, done.stdout


def contracts(name: str) -> list[str]:
    """The source modules of an import contract."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    [sources] = [contract["source_modules"] for contract in tool["contracts"] if contract["name"] == name]
    return list(sources)


def below(names: list[str]) -> list[str]:
    """These modules and all below them."""
    modules = (path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in SOURCES)
    modules = (module.removesuffix(".__init__") for module in modules)
    return [module for module in modules if any(module == name or module.startswith(f"{name}.") for name in names)]


# Packages that an extra brings: a live miner is installed without them.
OF_EXTRAS = {"torch", "transformers", "peft", "safetensors", "accelerate", "pytorch_optimizer"}
# Run by name in processes of their own, or only where an extra is installed.
NEVER_IMPORTED = {
    "miner.cli.__main__",
    "miner.simulation.validator",
    "miner.upstream.__main__",
    "miner.upstream.plugin",
    "engines.backends.int8",
    "engines.backends.torch.compiled",
    "engines.backends.torch.graph",
}


@pytest.mark.parametrize("behind", ["torch behind one door", "a live miner knows no night"])
def test_what_is_on_the_list_really_loads_none_of_it(behind: str) -> None:
    """Every module of the contract's list, imported in one process."""
    modules = [name for name in below(contracts(behind)) if name not in NEVER_IMPORTED]
    assert len(modules) > 25
    forbidden = OF_EXTRAS | ({"offline", "onnx", "openvino"} if behind.startswith("a live miner") else set())
    assert not loaded_by(f"import {', '.join(modules)}") & forbidden


@pytest.mark.parametrize(
    "modules",
    [
        "miner.process",
        "engines.live.swap.follower, stage2_bridge.servers.local_engine",
        "stage1.policy, stage1.certificate.calibrate",
        "miner.cli",
        "engines.backends.tensorrt.engine, engines.backends.tensorrt.build",
    ],
)
def test_what_a_live_miner_loads_brings_no_package_of_an_extra(modules: str) -> None:
    assert not loaded_by(f"import {modules}") & (OF_EXTRAS | {"onnx", "openvino"})


def test_a_miner_without_an_administrators_endpoint_loads_nothing_that_only_that_needs() -> None:
    assert not loaded_by("import miner.process") & {"prometheus_client"}


def test_the_torch_free_stages_of_the_pipeline_load_no_torch() -> None:
    assert "torch" not in loaded_by("import offline.night; offline.night.stages(); import miner.cli.retrain.outcome")


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_what_trains_is_loaded_without_torchvision() -> None:
    """Beside a torch for the CPU, a torchvision for CUDA would bring transformers down with it."""
    loaded = loaded_by(
        "import offline.learning.supervised.train, offline.learning.self_distillation.adapt, transformers, peft"
    )
    assert {"torch", "transformers", "peft"} <= loaded
    assert "torchvision" not in loaded


def test_only_the_baseline_knows_its_thresholds() -> None:
    numbers = re.compile(r"(?<![\d.])0\.(88|12)(?!\d)")
    with_numbers = {path.relative_to(ROOT).as_posix() for path in SOURCES if numbers.search(path.read_text())}
    # The report names the baseline by its numbers; the tiny backbone's initialiser, a preset's share and a grid
    # of rates look alike.
    alike = {
        "offline/config.py",
        "offline/learning/settings.py",
        "offline/report/page.py",
        "stage1/model/settings.py",
        "stage1/monitor/interval.py",
    }
    assert with_numbers - alike - {"offline/data/sources/synthetic_streets.py"} == {"stage1/baselines/softmax.py"}


def test_nothing_from_outside_is_unpickled() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert "pickle" not in set(imports(path))
        assert all("weights_only=True" in line for line in text.splitlines() if "torch.load(" in line)
        assert "allow_pickle=True" not in text
