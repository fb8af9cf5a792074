"""The command line: instant help, clear errors, exit statuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from miner.cli import app

HEAVY = {"torch", "transformers", "peft", "bittensor", "onnxruntime", "scipy", "numpy"}
TRAINING = {"torch", "transformers", "peft", "safetensors"}


def imported_by(code: str) -> set[str]:
    """Top-level modules that are loaded after `code` in a fresh interpreter."""
    script = f"import sys\n{code}\nprint(' '.join(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_help_imports_nothing_heavy() -> None:
    assert not imported_by("import miner.cli") & HEAVY


def test_a_live_miner_loads_no_training_package_and_no_bittensor_sdk() -> None:
    assert not imported_by("import miner.app") & (TRAINING | {"bittensor"})


@pytest.mark.parametrize(
    "command", [[], ["demo"], ["mine"], ["retrain"], ["engines", "activate"], ["scenes"], ["doctor"]]
)
def test_every_command_explains_itself(command: list[str]) -> None:
    status, output = run(*command, "--help")
    assert status == 0
    assert "Usage" in output


def test_retraining_without_labels_says_what_is_missing(tmp_path: Path) -> None:
    status, output = run("retrain", "--data", str(tmp_path), "--workspace", str(tmp_path / "w"), "--preset", "tiny")
    assert status == 1
    assert "labels.csv" in output


def test_an_unknown_preset_names_the_known_ones(tmp_path: Path) -> None:
    status, output = run("retrain", "--data", str(tmp_path), "--preset", "huge")
    assert status == 2
    assert "standard, tiny" in output


def test_an_unknown_setting_is_refused_by_name(tmp_path: Path) -> None:
    status, output = run("mine", "--set", f"state={tmp_path}", "--set", "axon.prt=1")
    assert status == 2
    assert "axon.prt" in output


def test_mining_without_a_wallet_says_where_it_looked(tmp_path: Path) -> None:
    status, output = run("mine", "--set", f"wallet.path={tmp_path}")
    assert status == 3
    assert str(tmp_path) in output.replace("\n", "")


def test_an_empty_store_lists_nothing_and_says_what_makes_a_bundle(tmp_path: Path) -> None:
    status, output = run("engines", "list", "--store", str(tmp_path))
    assert status == 0
    assert "cascade retrain" in output


def test_activating_an_unknown_bundle_fails(tmp_path: Path) -> None:
    status, output = run("engines", "activate", "0123", "--store", str(tmp_path))
    assert status == 1
    assert "0123" in output


def test_a_malformed_change_shows_the_form(tmp_path: Path) -> None:
    status, output = run("mine", "--set", f"{tmp_path}")
    assert status == 2
    assert "KEY=VALUE" in output


def test_the_demo_does_not_empty_a_directory_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    status, output = run("demo", "--directory", str(tmp_path))
    assert status == 4
    assert "not empty" in output
    assert (tmp_path / "thesis.tex").exists()
