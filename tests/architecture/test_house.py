"""The rules that hold the house up: floors, imports, and where numbers may stand."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = {"stage1": 1, "engines": 2, "offline": 3, "stage2_bridge": 3, "miner": 4}
SOURCES = sorted(path for package in FLOORS for path in (ROOT / package).rglob("*.py"))


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


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_imports_upwards_or_sideways(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        other = name.partition(".")[0]
        if other in FLOORS and other != package:
            assert FLOORS[other] < FLOORS[package], f"{package} imports {name}"


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
    assert not loaded_by(f"import {modules}") & {"torch", "transformers", "peft", "safetensors", "onnx", "openvino"}


def test_the_torch_free_stages_of_the_pipeline_load_no_torch() -> None:
    assert "torch" not in loaded_by("import offline.night, miner.cli.retrain")


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
    # The report names the baseline by its numbers; the tiny backbone's initialiser and a preset's share look alike.
    alike = {"offline/report/page.py", "offline/learning/settings.py", "stage1/model/settings.py", "offline/config.py"}
    assert with_numbers - alike - {"offline/data/synthetic_streets.py"} == {"stage1/baselines/softmax.py"}


def test_nothing_from_outside_is_unpickled() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert "pickle" not in set(imports(path))
        assert all("weights_only=True" in line for line in text.splitlines() if "torch.load(" in line)
        assert "allow_pickle=True" not in text
