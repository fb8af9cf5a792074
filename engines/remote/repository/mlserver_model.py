# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201
"""A bundle in MLServer.

Needs numpy and onnxruntime in the Python of the server, and nothing of this project. MLServer reads no binary tensors,
and takes a second for an image as JSON numbers: so each image is an element of BYTES, its pixels in base64.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

try:
    from mlserver import MLModel
    from stage1_session import Stage1Session
except ImportError:
    # Both are where a server reads this file, and it is read elsewhere, too.
    MLModel = object


class Stage1(MLModel):
    """Computes each request in a thread, so that others are read meanwhile."""

    async def load(self):
        """Load the bundle that lies beside the settings of this version."""
        self._session = Stage1Session(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload):
        """Outputs of a batch."""
        from mlserver.codecs import Base64Codec, NumpyCodec  # noqa: PLC0415
        from mlserver.types import InferenceResponse  # noqa: PLC0415

        [port] = payload.inputs
        pixels = b"".join(Base64Codec.decode_input(port))
        images = np.frombuffer(pixels, np.uint8).reshape(-1, *self._session.image)
        found = await asyncio.to_thread(self._session.infer, images)
        outputs = [NumpyCodec.encode_output(name, values) for name, values in found.items()]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
