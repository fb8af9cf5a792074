"""A bundle on ONNX Runtime in a server of somebody else, which needs nothing of this project.

This file is copied beside the bundle. It computes as `engines.backends.onnxruntime` does: the golden images decide.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# It looks for it once, while it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

INPUT = "image"


class Stage1Session:
    """Computes batches; from several threads.

    Attributes:
        image: channels, height and width of its images, px.

    Args:
        home: where the files of the bundle lie.
        gpu: number of the GPU; None for the CPU, with as many threads as `STAGE1_THREADS` says.
    """

    def __init__(self, home: Path, gpu: str | None = None) -> None:
        spec = json.loads((home / "spec.json").read_text()) if (home / "spec.json").exists() else {}
        # In int8 the scale of a product is taken over a batch: an answer would depend on who else asks.
        self._alone = spec.get("precision") == "int8"
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = int(os.environ.get("STAGE1_THREADS", "0"))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False
        device = ("CUDAExecutionProvider", {"device_id": gpu, "use_tf32": "0"})
        path = home / ("model.int8.onnx" if self._alone else "model.onnx")
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider" if gpu is None else device]
        )
        self.image = tuple(self._session.get_inputs()[0].shape[1:])
        self._names = [output.name for output in self._session.get_outputs()]

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Outputs by name for uint8 `(N, 3, H, W)`, in the order of the graph."""
        parts = [images[at : at + 1] for at in range(len(images))] if self._alone else [images]
        found = [self._session.run(self._names, {INPUT: part}) for part in parts]
        return {
            name: np.concatenate(values) for name, values in zip(self._names, zip(*found, strict=True), strict=True)
        }
