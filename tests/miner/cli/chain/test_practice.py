from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from miner.chain.offline import OfflineChain
from miner.chain.wallet import load_hotkey
from miner.cli.chain.practice import made
from miner.cli.main import app
from miner.settings import MinerSettings, load_settings


def settings_after(variables: Path, monkeypatch: pytest.MonkeyPatch) -> MinerSettings:
    """The settings of a shell that has read the file."""
    told = subprocess.run(
        ["sh", "-ec", '. "$1" && env -0', "sh", str(variables)], capture_output=True, text=True, check=True
    ).stdout
    for name, _, value in (line.partition("=") for line in told.split("\0")):
        if name.startswith("CASCADE_"):
            monkeypatch.setenv(name, value)
    return load_settings()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CASCADE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_a_shell_that_reads_the_file_has_a_miner_that_is_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    practice = made(tmp_path / "with a space")
    settings = settings_after(practice.variables, monkeypatch)
    assert settings.chain.kind == "offline"
    assert not settings.chain.publish_endpoint
    assert load_hotkey(settings.wallet).ss58_address == practice.miner
    assert not list(settings.wallet.path.rglob("coldkey"))
    assert settings.chain.snapshot is not None
    neurons = asyncio.run(OfflineChain.from_file(settings.chain.snapshot).snapshot()).neurons
    assert neurons.keys() == {practice.miner, practice.validator}
    assert [hotkey for hotkey, neuron in neurons.items() if neuron.validator_permit] == [practice.validator]


def test_the_command_keeps_keys_that_are_there_and_says_what_comes_next() -> None:
    first, second = (CliRunner().invoke(app, ["chain", "practice"]) for _ in range(2))
    assert first.exit_code == second.exit_code == 0
    assert first.stdout == second.stdout
    assert ". practice/practice.env" in first.stdout


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["chain", "practice", "file"])
    assert result.exit_code == 1
    assert "file" in result.stderr


@pytest.mark.parametrize("there", ["coldkey", "coldkeypub.txt", "hotkeys/default"])
def test_a_wallet_of_somebody_is_left_alone(there: str, tmp_path: Path) -> None:
    mine = tmp_path / ".bittensor" / "wallets" / "miner" / there
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    result = CliRunner().invoke(app, ["chain", "practice", ".bittensor"])
    assert result.exit_code == 1
    assert "was not made for practice" in result.stderr
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [mine]
    assert mine.read_text() == "mine"
