"""The table of the reference miner's flags: complete, true to our settings, and the one in the documentation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from miner.settings import load_settings
from miner.upstream.flag_table import FLAGS, TABLE, VARIABLES, as_markdown

PAGE = Path(__file__).parents[3] / "docs" / "moving.md"
OF_THE_MINER = (
    "netuid neuron.epoch_length mock neuron.events_retention_size neuron.dont_save_events neuron.name "
    "neuron.image_detector neuron.image_detector_config neuron.image_detector_device "
    "neuron.video_detector neuron.video_detector_config neuron.video_detector_device "
    "blacklist.force_validator_permit blacklist.allow_non_registered "
    "wandb.off wandb.offline wandb.notes wandb.restart_interval wandb.project_name wandb.entity model_url"
)
OF_MINER_ENV = (
    "IMAGE_DETECTOR IMAGE_DETECTOR_CONFIG IMAGE_DETECTOR_DEVICE VIDEO_DETECTOR VIDEO_DETECTOR_CONFIG "
    "VIDEO_DETECTOR_DEVICE NETUID SUBTENSOR_NETWORK SUBTENSOR_CHAIN_ENDPOINT WALLET_NAME WALLET_HOTKEY "
    "MINER_AXON_PORT BLACKLIST_FORCE_VALIDATOR_PERMIT MODEL_URL PROXY_CLIENT_URL"
)
OF_THE_SDK = """
import argparse, json, os, pathlib, re
os.environ["BT_NO_PARSE_CLI_ARGS"] = "true"
import bittensor as bt
parser = argparse.ArgumentParser()
for part in (bt.Wallet, bt.Subtensor, bt.Axon, bt.logging):
    part.add_args(parser)
home = pathlib.Path(bt.__file__).parent / "core"
text = "".join((home / name).read_text() for name in ("config.py", "settings.py"))
flags = [o for a in parser._actions for o in a.option_strings if o.startswith("--")]
switches = [a.option_strings[0] for a in parser._actions if a.nargs == 0]
own = re.findall(r'"(--[a-z_]+)"', text)
variables = re.findall(r"BT_[A-Z_]+", text)
pathlib.Path("told.json").write_text(json.dumps([flags + own, switches, variables]))
"""
# Of other programs than a miner: a link in its text, and transactions of a coldkey.
NOT_OF_A_MINER = {"BT_DOCS_LINK", "BT_MEV_PROTECTION"}


def test_every_flag_and_variable_of_the_miner_has_its_row() -> None:
    assert {f"--{name}" for name in OF_THE_MINER.split()} <= FLAGS.keys()
    assert set(OF_MINER_ENV.split()) <= VARIABLES.keys()


def test_every_flag_and_variable_of_the_installed_sdk_has_its_row(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", OF_THE_SDK], cwd=tmp_path, check=True, capture_output=True)
    flags, switches, variables = json.loads((tmp_path / "told.json").read_text())
    assert "--axon.port" in flags
    assert "--no_version_checking" in flags
    assert set(flags) - {"--help"} <= FLAGS.keys()
    assert {flag for flag in switches if flag != "-h"} <= {row.flag for row in TABLE if row.switch}
    assert set(variables) - NOT_OF_A_MINER <= VARIABLES.keys()


def test_no_name_has_two_rows() -> None:
    assert len(FLAGS) == sum(bool(row.flag) for row in TABLE)
    assert len(VARIABLES) == sum(len(row.variables) for row in TABLE)


@pytest.mark.parametrize("row", [row for row in TABLE if row.setting], ids=lambda row: row.name)
def test_a_row_names_a_setting_that_is_there(row) -> None:
    section, key = row.setting.split(".")
    assert key in getattr(load_settings(), section).model_dump()


def test_the_table_of_the_documentation_is_this_one() -> None:
    assert as_markdown() in PAGE.read_text()
