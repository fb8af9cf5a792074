"""Libraries without their reports of use: nothing that this program loads tells anybody that it runs."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

# Read by the libraries when they are imported, and handed on to every process that is started from here.
OFF = {
    # ONNX Runtime writes an id and a data base below the home directory, and sends events to Microsoft.
    "ORT_DISABLE_TELEMETRY": "1",
    # The hub of Hugging Face is told versions of packages and of the machine beside what is asked of it.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # What downloads from the hub reports how fast that was.
    "HF_XET_TELEMETRY_ENABLED": "0",
    # Of a model without safetensors transformers tells a service, with the user's token, which is to propose such
    # files to its owner; and it loads what was proposed, though no owner has seen it.
    "DISABLE_SAFETENSORS_CONVERSION": "1",
}
# Where this package is found, importing OpenVINO sends a report of it, and leaves files in the home directory.
NOT_LOADED = ("openvino_telemetry",)


def switch_off() -> None:
    """Switch the reports of all libraries off, for this process and those that it starts; whatever was set before."""
    os.environ.update(OFF)
    for name in NOT_LOADED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def without_telemetry(name: str) -> ModuleType:
    """Import a module after its reports were switched off.

    Raises:
        ImportError: it is not installed.
    """
    switch_off()
    return importlib.import_module(name)
