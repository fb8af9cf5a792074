"""`cascade config`: all settings, where each comes from, and their schema for editors."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from typer.testing import CliRunner

from miner.cli.config.descriptions import descriptions
from miner.cli.main import app
from miner.settings import MinerSettings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("BT_", "CASCADE_"))]:
        monkeypatch.delenv(name)
    return tmp_path


def shown(*arguments: str) -> dict[str, str]:
    """Lines by dotted name."""
    done = CliRunner().invoke(app, ["config", "show", *arguments])
    assert done.exit_code == 0, done.output
    tomllib.loads(done.stdout)
    return {line.partition(" = ")[0]: line for line in done.stdout.splitlines()}


def test_each_value_says_which_source_won(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "cascade.toml").write_text(
        '[axon]\nport = 1\nhost = "::"\n[admin]\nport = 2\n[requests]\ndeadline_s = 8\n[night.gate]\nkeep = 3\n'
    )
    (elsewhere / "miner.env").write_text("WALLET_NAME=natix\nMINER_AXON_PORT=3\n")
    monkeypatch.setenv("CASCADE_ADMIN__PORT", "4")
    monkeypatch.setenv("CASCADE_REQUESTS", '{"max_in_flight": 17}')
    lines = shown("--origin", "--env-file", "miner.env", "--set", "axon.host=0.0.0.0")
    assert lines["axon.host"] == 'axon.host = "0.0.0.0"  # an option of this command'
    assert lines["admin.port"] == "admin.port = 4  # CASCADE_ADMIN__PORT"
    assert lines["requests.max_in_flight"] == "requests.max_in_flight = 17  # CASCADE_REQUESTS"
    assert lines["requests.deadline_s"] == "requests.deadline_s = 8.0  # cascade.toml"
    assert lines["axon.port"] == "axon.port = 1  # cascade.toml"
    assert lines["wallet.name"] == 'wallet.name = "natix"  # WALLET_NAME'
    assert lines["night.gate.keep"] == "night.gate.keep = 3  # cascade.toml"
    assert lines["wallet.hotkey"] == 'wallet.hotkey = "default"  # default'


def test_without_origin_it_is_what_mine_prints(elsewhere: Path) -> None:
    (elsewhere / "cascade.toml").write_text("[axon]\nport = 1\n")
    config = CliRunner().invoke(app, ["config", "show"]).stdout
    assert config == CliRunner().invoke(app, ["mine", "--print-settings"]).stdout


def schema() -> dict[str, Any]:
    done = CliRunner().invoke(app, ["config", "schema"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def errors(text: str) -> list[str]:
    found = jsonschema.Draft202012Validator(schema()).iter_errors(tomllib.loads(text))
    return [".".join(map(str, error.absolute_path)) for error in found]


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[axon]\nport = 1\n[chain]\nexternal_ip = "auto"',
        '[stage2]\nservers = [{kind = "engine", directory = "stage2"}]',
        '[night.train_supervised]\nepochs = 20\n[night.engine]\nbackend = "onnxruntime"',
        'hotkeys = ["one", {hotkey = "two", port = 9}]',
    ],
)
def test_an_editor_finds_nothing_in_a_file_that_the_miner_takes(text: str) -> None:
    assert errors(text) == []
    MinerSettings.model_validate(tomllib.loads(text))


@pytest.mark.parametrize(
    ("text", "where"),
    [("[axon]\nport = 70000", "axon.port"), ("[axon]\nprt = 1", "axon"), ("[night.train_supervised]\nepochs = -1", "")],
)
def test_an_editor_marks_what_the_miner_refuses(text: str, where: str) -> None:
    assert any(found.startswith(where) for found in errors(text))


def properties(node: Any) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(node, list):
        return [found for part in node for found in properties(part)]
    if not isinstance(node, dict):
        return []
    here = [(name, part) for name, part in node.get("properties", {}).items() if isinstance(part, dict)]
    return here + [found for part in node.values() for found in properties(part)]


def test_every_setting_is_explained_to_an_editor() -> None:
    silent = sorted({name for name, part in properties(schema()) if not part.get("description")})
    assert silent == []


def test_a_text_that_goes_over_several_lines_is_one_sentence() -> None:
    told = descriptions(type(MinerSettings().chain))["external_ip"]
    assert told.startswith("Address that validators reach; announced")
    assert "\n" not in told
    assert "  " not in told
