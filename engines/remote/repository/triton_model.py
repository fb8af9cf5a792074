# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201
"""A bundle in Triton's Python backend, for servers that have no ONNX Runtime backend.

Needs numpy and onnxruntime in the Python of the server, and nothing of this project.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np


class TritonPythonModel:
    """Computes the requests that Triton has gathered in one call of the engine."""

    def initialize(self, args):
        """Load the bundle of this version."""
        from stage1_session import Stage1Session  # noqa: PLC0415  it lies beside this file in a repository alone

        gpu = args["model_instance_device_id"] if args["model_instance_kind"] == "GPU" else None
        self._session = Stage1Session(Path(args["model_repository"]) / args["model_version"], gpu)

    def execute(self, requests):
        """One response for each request, in order."""
        import triton_python_backend_utils as triton  # noqa: PLC0415  only the server has it

        batches = [triton.get_input_tensor_by_name(one, "image").as_numpy() for one in requests]
        try:
            outputs = self._session.infer(np.concatenate(batches))
        except Exception as error:  # noqa: BLE001  it is told to whoever asked
            failed = triton.TritonError(str(error))
            return [triton.InferenceResponse(error=failed) for _ in requests]
        starts = np.cumsum([0, *map(len, batches)])
        return [
            triton.InferenceResponse(
                [triton.Tensor(name, np.ascontiguousarray(values[first:last])) for name, values in outputs.items()]
            )
            for first, last in pairwise(starts)
        ]
