"""Runs an engine on two images; ends at once if anything in the process looks for the network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from engines.backends.openvino import OpenVinoEngine
from engines.errors import BundleRefused
from engines.spec import EngineSpec


def watch(event: str, _: object) -> None:
    if event.startswith("socket."):
        os.write(2, event.encode())
        os._exit(9)


sys.addaudithook(watch)
spec = EngineSpec.model_validate({"backend": "openvino", "precision": sys.argv[2]})
try:
    engine = OpenVinoEngine(Path(sys.argv[1]), spec, threads=1)
    said = f"{len(engine.infer(np.zeros((2, 3, 32, 32), np.uint8)))} images"
except BundleRefused as error:
    said = f"BundleRefused: {error}"
sys.stdout.write(said + "\n")
