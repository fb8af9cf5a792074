"""The command lines of the processes of a night."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.spec import EngineSpec
from miner.nights.settings import RetrainSettings

# Settings of a night, whose classes a live miner does not import.
CARD, SUBMITTED_BY = "model_card", "model_card.submitted_by"


def night_command(settings: RetrainSettings, night: Mapping[str, Any], store: Path, hotkey: str | None) -> list[str]:
    """Of a night.

    Args:
        settings: on what.
        night: values of the run's config, by their dotted names.
        store: where it publishes.
        hotkey: ss58 address that its model card names, unless `night` names another one.
    """
    command = [sys.executable, "-m", "miner.cli", "retrain", "--data", str(settings.data)]
    command += ["--workspace", str(settings.workspace), "--store", str(store)]
    command += ["--preset", settings.preset] if settings.config is None else ["--config", str(settings.config)]
    card = {} if hotkey is None or CARD in night else {SUBMITTED_BY: hotkey}
    for name, value in (card | dict(night)).items():
        command += ["--set", f"{name}={json.dumps(value, default=str)}"]
    return command


def compile_command(settings: RetrainSettings, bundle: str, spec: EngineSpec, store: Path) -> list[str]:
    """Of a process that recalibrates a bundle.

    Args:
        settings: where its rows and its run are.
        bundle: its id.
        spec: of its engine.
        store: where it is.
    """
    command = [sys.executable, "-m", "miner.cli", "engines", "compile", bundle, "--activate"]
    command += ["--backend", spec.backend, "--precision", spec.precision, "--device", spec.device]
    command += ["--data", str(settings.data), "--workspace", str(settings.workspace)]
    return [*command, "--store", str(store)]
