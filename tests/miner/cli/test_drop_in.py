"""`cascade mine` in the place of the reference miner: its start command and its env file, through the real program."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from miner.cli.config.toml_text import settings_as_toml
from miner.cli.drop_in import PARTED, settings_of
from miner.cli.main import app
from miner.settings import MinerSettings, load_settings
from miner.upstream.command_line import part
from stage1.errors import SettingsError

ROOT = Path(__file__).parents[3]
# As setup_env.sh writes it, with two lines filled in.
MINER_ENV = """\
# Detector Configuration
IMAGE_DETECTOR=ViT                     # Options: ROADWORK, ViT, None
IMAGE_DETECTOR_CONFIG=ViT_roadwork.yaml
VIDEO_DETECTOR=TALL                    # Options: TALL, None
VIDEO_DETECTOR_CONFIG=tall.yaml

# Device Settings
IMAGE_DETECTOR_DEVICE=cpu              # Options: cpu, cuda
VIDEO_DETECTOR_DEVICE=cpu

NETUID=323                             # Network User ID options: 72, 323
SUBTENSOR_NETWORK=test                 # Networks: finney, test, local
SUBTENSOR_CHAIN_ENDPOINT=wss://test.finney.opentensor.ai:443
                                       # Endpoints:
                                       # - wss://entrypoint-finney.opentensor.ai:443

WALLET_NAME=miner
WALLET_HOTKEY=one

MINER_AXON_PORT=8091
BLACKLIST_FORCE_VALIDATOR_PERMIT=True  # Force validator permit for blacklisting
MODEL_URL=
PROXY_CLIENT_URL=https://hydra.natix.network
"""
# As start_miner.sh has it, with the program in the place of `python neurons/miner.py`.
START = r"""
set -a
source miner.env
set +a
exec $PROGRAM \
  --neuron.image_detector ${IMAGE_DETECTOR:-None} \
  --neuron.image_detector_config ${IMAGE_DETECTOR_CONFIG:-None} \
  --neuron.image_detector_device ${IMAGE_DETECTOR_DEVICE:-None} \
  --netuid $NETUID \
  --model_url $MODEL_URL \
  --subtensor.network $SUBTENSOR_NETWORK \
  --subtensor.chain_endpoint $SUBTENSOR_CHAIN_ENDPOINT \
  --wallet.name $WALLET_NAME \
  --wallet.hotkey $WALLET_HOTKEY \
  --axon.port $MINER_AXON_PORT \
  --blacklist.force_validator_permit $BLACKLIST_FORCE_VALIDATOR_PERMIT \
  --logging.debug
"""
MOVED = {
    "chain": {
        "netuid": 323,
        "endpoint": "wss://test.finney.opentensor.ai:443",
        "external_ip": "auto",
    },
    "wallet": {"name": "miner", "hotkey": "one"},
    "axon": {"port": 8091},
    "access": {"require_validator_permit": True},
}

HOTKEYS = ["5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY", "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("BT_", "CASCADE_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "miner.env").write_text(MINER_ENV)
    return tmp_path


def printed(*arguments: str) -> tuple[dict[str, Any], str]:
    """The effective settings, and what was said beside them."""
    result = CliRunner().invoke(app, ["mine", "--print-settings", *arguments])
    assert result.exit_code == 0, result.output
    return tomllib.loads(result.stdout), result.stderr


def is_within(part: dict[str, Any], whole: dict[str, Any]) -> bool:
    return all(
        is_within(value, whole[name]) if isinstance(value, dict) else whole[name] == value
        for name, value in part.items()
    )


def test_the_start_command_of_the_reference_miner_starts_this_one(elsewhere: Path) -> None:
    program = f"{sys.executable} -m miner.cli mine --print-settings"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", START],
        env=os.environ | {"PROGRAM": program, "PYTHONPATH": str(ROOT)},
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    settings = tomllib.loads(done.stdout)
    assert is_within(MOVED | {"log": {"level": "DEBUG"}}, settings), settings
    # What has no effect is told, each in one line.
    told = done.stderr.strip().splitlines()
    assert [next(name for name in line.split('"') if name.startswith("--")) for line in told] == [
        "--neuron.image_detector",
        "--neuron.image_detector_config",
        "--neuron.image_detector_device",
    ]
    assert all("no effect" in line for line in told)


def test_its_env_file_alone_is_enough() -> None:
    settings, said = printed("--env-file", "miner.env", "--logging.debug")
    assert is_within(MOVED | {"log": {"level": "DEBUG"}}, settings)
    assert all(said.count(f'"{name}"') == 1 for name in ("IMAGE_DETECTOR", "VIDEO_DETECTOR", "PROXY_CLIENT_URL"))
    assert "MODEL_URL" not in said


def test_our_own_flags_variables_and_file_win(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "cascade.toml").write_text(
        "axon.port = 1001\nwallet.hotkey = 'file'\n[chain]\nexternal_ip='192.0.2.1'\n"
    )
    monkeypatch.setenv("CASCADE_WALLET__NAME", "variable")
    settings, said = printed("--env-file", "miner.env", "--axon.port", "1002", "--netuid", "72", "--wallet.name=theirs")
    assert settings["axon"]["port"] == 1001
    assert settings["wallet"]["name"] == "variable"
    assert settings["wallet"]["hotkey"] == "file"
    assert settings["chain"]["netuid"] == 72
    assert settings["chain"]["external_ip"] == "192.0.2.1"
    assert "is passed over: axon.port is 1001 by a setting of this miner" in said


def test_the_network_of_our_own_is_not_reached_through_their_endpoint() -> None:
    settings, said = printed("--env-file", "miner.env", "--network", "finney")
    assert said.count("is passed over: this miner has chain.network of its own") == 2
    assert settings["chain"]["network"] == "finney"
    assert "endpoint" not in settings["chain"]


def test_our_own_variables_may_stand_in_the_env_file(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "miner.env").write_text("CASCADE_STORE=in-the-file\nCASCADE_AXON__PORT=7\n")
    monkeypatch.setenv("CASCADE_AXON__PORT", "8")
    # Undone at the end, what the command sets.
    monkeypatch.setenv("CASCADE_STORE", "x")
    monkeypatch.delenv("CASCADE_STORE")
    settings, said = printed("--env-file", "miner.env")
    assert (settings["store"], settings["axon"]["port"], said) == ("in-the-file", 8, "")
    os.environ.pop("CASCADE_STORE")


def test_our_own_variables_in_the_env_file_are_read_again(elsewhere: Path) -> None:
    """SIGHUP takes what the file says then, and not what it said at the start."""
    file = elsewhere / "miner.env"
    context = typer.Context(typer.main.get_command(app))
    context.meta[PARTED] = part([])
    read = []
    for text in ("CASCADE_AXON__PORT=7\n", "CASCADE_AXON__PORT=8\n", "", "CASCADE_AXON__PORT=9\n", ""):
        file.write_text(text)
        read.append(settings_of(context, None, {}, file).settings.axon.port)
    assert read == [7, 8, 8091, 9, 8091]


def test_a_permit_is_waived_by_our_own_setting_alone() -> None:
    settings, said = printed("--blacklist.force_validator_permit", "False")
    assert settings["access"]["require_validator_permit"] is True
    assert "the reference miner took its False for True" in said
    settings, _ = printed(
        "--blacklist.force_validator_permit", "True", "--set", "access.require_validator_permit=false"
    )
    assert settings["access"]["require_validator_permit"] is False


def test_a_yaml_file_of_the_sdk_is_read(elsewhere: Path) -> None:
    (elsewhere / "sdk.yaml").write_text("axon:\n  port: 9003\nwandb:\n  off: true\n")
    settings, said = printed("--config", "sdk.yaml", "--strict", "--no_version_checking")
    assert settings["axon"]["port"] == 9003
    assert "--wandb.off" in said


def test_variables_of_the_sdk_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BT_AXON_EXTERNAL_IP", "192.0.2.7")
    monkeypatch.setenv("BT_WALLET_NAME", "sdk")
    settings, _ = printed()
    assert (settings["chain"]["external_ip"], settings["wallet"]["name"]) == ("192.0.2.7", "sdk")


def test_an_unknown_flag_is_an_error_with_a_near_one() -> None:
    for words, near in ((["--axon.prot", "1"], "--axon.port"), (["--walet", "w"], "--wallet")):
        result = CliRunner().invoke(app, ["mine", *words])
        assert result.exit_code == 2
        assert near in result.output


def test_a_value_that_does_not_fit_is_one_line() -> None:
    result = CliRunner().invoke(app, ["mine", "--axon.port", "eighty"])
    assert (result.exit_code, result.output) == (2, "cascade: --axon.port: 'eighty' is not a whole number\n")


def test_doctor_is_told_the_same(elsewhere: Path) -> None:
    (elsewhere / "chain.json").write_text("{}")
    words = ["doctor", "--env-file", "miner.env", "--set", "chain.kind=offline", "--set", "chain.snapshot=chain.json"]
    result = CliRunner().invoke(app, words)
    assert "the address that services on the internet see:8091 is published" in result.output
    assert "IMAGE_DETECTOR has no effect" in result.output


def test_printed_settings_are_a_settings_file(elsewhere: Path) -> None:
    night = {"seed": 3, "model.backbone": {"kind": "random"}, "train_supervised": {"epochs": 20, "note": 'a "b" ü\\'}}
    given = load_settings(
        None,
        {
            "night": night,
            "access.extra_hotkeys": [
                "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
                "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty",
            ],
            "wallet.path": "~/w",
            "retrain.data": "roads\x7f\x1f\x85",
        },
    )
    path = elsewhere / "printed.toml"
    path.write_text(settings_as_toml(given, {"axon.port": "--axon.port"}.get))
    assert load_settings(path) == given
    assert "axon.port = 8091  # --axon.port" in path.read_text()


def test_several_hotkeys_of_ours_win_over_the_one_of_the_reference_miner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both cannot be: one names a hotkey, the other names several."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cascade.toml").write_text('hotkeys = ["one", "two"]\n\n[chain]\nendpoints = ["finney", "ws://a"]\n')
    flags = ["--wallet.hotkey", "three", "--subtensor.network", "test", "--subtensor.chain_endpoint", "ws://b"]
    done = CliRunner().invoke(app, ["mine", *flags, "--print-settings"])
    assert done.exit_code == 0, done.output
    printed = tomllib.loads(done.stdout)
    assert [one["hotkey"] for one in printed["hotkeys"]] == ["one", "two"]
    assert printed["chain"]["endpoints"] == ["finney", "ws://a"]
    assert "endpoint" not in printed["chain"]
    assert done.stderr.count("reference_miner_setting") == 3
    assert done.stderr.count("is passed over: this miner has chain.endpoints of its own") == 2
    assert done.stderr.count("is passed over: this miner has hotkeys of its own") == 1


@pytest.mark.parametrize(
    "change", ["chain.endpoint=ws://a", 'chain.endpoints=["ws://a","finney"]', 'hotkeys=["a","b"]']
)
def test_settings_of_which_only_one_may_be_given_can_be_printed_and_read_again(tmp_path: Path, change: str) -> None:
    printed = CliRunner().invoke(app, ["mine", "--set", change, "--print-settings"])
    file = tmp_path / "printed.toml"
    file.write_text(printed.stdout)
    again = CliRunner().invoke(app, ["mine", "--config", str(file), "--print-settings"])
    assert again.exit_code == 0, again.output
    before, after = tomllib.loads(printed.stdout), tomllib.loads(again.stdout)
    assert (after["chain"], after["hotkeys"]) == (before["chain"], before["hotkeys"])


def test_a_path_that_no_text_file_can_hold_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["mine", "--set", "state=/srv/\udcff", "--print-settings"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "cascade: the settings cannot be printed: " in done.stderr


def reader(*, env_file: Path | None = None) -> Callable[[], MinerSettings]:
    """Reads the settings as a running miner does, again and again."""
    context: Any = SimpleNamespace(meta={PARTED: part([])})
    return lambda: settings_of(context, None, {}, env_file).settings


def test_a_settings_file_that_is_gone_is_not_taken_for_the_defaults() -> None:
    read, file = reader(), Path("cascade.toml")
    assert read().access.min_stake == load_settings().access.min_stake
    file.write_text("[access]\nmin_stake = 5\n")
    assert read().access.min_stake == 5
    file.unlink()
    with pytest.raises(SettingsError, match=r"cascade\.toml: there is no such settings file"):
        read()
    file.write_text("[access]\nmin_stake = 6\n")
    assert read().access.min_stake == 6


def test_our_variables_in_an_env_file_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path("miner.env")
    monkeypatch.setenv("CASCADE_ACCESS__BURST", "7")
    read = reader(env_file=file)
    file.write_text("CASCADE_ACCESS__MIN_STAKE=5\nCASCADE_ACCESS__BURST=9\n")
    assert (read().access.min_stake, read().access.burst) == (5, 7)
    file.write_text("CASCADE_ACCESS__MIN_STAKE=6\n")
    assert read().access.min_stake == 6
    file.write_text("")
    assert read().access.min_stake == load_settings().access.min_stake
    assert os.environ["CASCADE_ACCESS__BURST"] == "7"
