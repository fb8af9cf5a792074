"""The engine of a night whose settings say `auto`."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.live.load.engine_choice import RECORD, EngineChoice, machine_key
from engines.machine.gpu import find_gpu
from engines.spec import REFERENCE, EngineSpec
from miner.answering.settings import EngineSettings
from miner.cli.retrain.engine import with_recorded_engine
from offline.config import load_config
from stage1.errors import SettingsError

OPENVINO = EngineSpec(backend="openvino")


def test_is_the_one_that_was_measured_and_the_bundle_names_it(tmp_path: Path) -> None:
    config = load_config("tiny", None, {"engine.backend": "auto"})
    EngineChoice(
        machine=machine_key(find_gpu()),
        bundle="b",
        measured_at="2026-01-01T00:00:00+00:00",
        chosen=OPENVINO,
        tried=(),
    ).write(tmp_path / RECORD)
    found = with_recorded_engine(config, tmp_path)
    assert found.engine == OPENVINO
    assert found.model_dump(exclude={"engine"}) == config.model_dump(exclude={"engine"})


def test_is_the_reference_where_nothing_was_measured(tmp_path: Path) -> None:
    assert with_recorded_engine(load_config("tiny", None, {"engine.backend": "auto"}), tmp_path).engine == REFERENCE


def test_is_what_the_settings_say_otherwise(tmp_path: Path) -> None:
    config = load_config("tiny", None, {"engine.backend": "openvino"})
    assert with_recorded_engine(config, tmp_path) is config


def test_auto_chooses_precision_and_device_itself() -> None:
    with pytest.raises(SettingsError, match="there is no precision and no device to choose"):
        load_config("tiny", None, {"engine.backend": "auto", "engine.precision": "bf16"})


def test_a_miner_takes_it_in_one_word() -> None:
    assert EngineSettings.model_validate({"serve_with": "auto"}).serve_with == "auto"
