"""Libraries report nothing: what they read is set before they are imported, here and in every child."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from stage1.telemetry import OFF, switch_off, without_telemetry

ROOT = Path(__file__).parents[2]
REPORTING = {"onnxruntime", "openvino"}


def test_what_an_operator_has_set_does_not_switch_reports_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OFF:
        monkeypatch.setenv(name, "0")
    switch_off()
    told = subprocess.run(
        [sys.executable, "-c", f"import os; print([os.environ[name] for name in {list(OFF)}])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == str(list(OFF.values()))


def test_a_module_is_imported_after_its_reports_are_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "reporting_module.py").write_text("import os\nREPORTS = os.environ['ORT_DISABLE_TELEMETRY'] != '1'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert without_telemetry("reporting_module").REPORTS is False
    # Whoever imports it is told that it is not installed.
    assert dict(sys.modules)["openvino_telemetry"] is None
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def imported(tree: ast.AST) -> set[str]:
    """Packages that a module imports when it runs, and not only for its types."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            found |= set().union(*(imported(child) for child in node.orelse))
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
        else:
            found |= imported(node)
    return found


@pytest.mark.skipif(find_spec("torch") is None, reason="the packages of a night are not installed")
def test_what_a_night_imports_looks_for_no_network_and_leaves_home_empty(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HF_"))}
    child = [sys.executable, "-B", str(Path(__file__).with_name("quiet_imports_child.py"))]
    environment = kept | {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(child, cwd=home, env=environment, capture_output=True, text=True, check=True)
    assert {"offline", "stage1", "onnxruntime", "numpy"} <= set(done.stdout.split())
    assert list(home.rglob("*")) == []


# The first reads from a package that `load_openvino` has imported before; the others run in the environment of a
# server, which has nothing of this program: the second gets the variables of whoever starts it, the third sets its own.
AFTERWARDS = {
    "engines/backends/openvino.py",
    "benchmarks/stage2_servers/mlserver_models.py",
    "engines/remote/repository/stage1_session.py",
}


def test_libraries_that_report_are_imported_in_no_other_way() -> None:
    folders = ("benchmarks", "engines", "examples", "miner", "offline", "stage1", "stage2_bridge")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in paths if imported(ast.parse(path.read_text())) & REPORTING}
    assert found <= AFTERWARDS
