# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201
"""A bundle in MLServer.

Needs numpy and onnxruntime in the Python of the server, and nothing of this project.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

try:
    from mlserver import MLModel
except ImportError:
    # Only the server has it, and this file is read where it is not.
    MLModel = object


class Stage1(MLModel):
    """Computes each request in a thread, so that others are read meanwhile."""

    async def load(self):
        """Load the bundle that lies beside the settings of this version."""
        from stage1_session import Stage1Session  # noqa: PLC0415  it lies beside this file in a repository alone

        self._session = Stage1Session(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload):
        """Outputs of a batch."""
        from mlserver.codecs import NumpyCodec  # noqa: PLC0415
        from mlserver.types import InferenceResponse  # noqa: PLC0415

        [port] = payload.inputs
        images = NumpyCodec.decode_input(port).astype(np.uint8)
        found = await asyncio.to_thread(self._session.infer, images)
        outputs = [NumpyCodec.encode_output(name, values) for name, values in found.items()]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
