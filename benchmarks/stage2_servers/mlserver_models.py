# mypy: ignore-errors
"""Models for a real MLServer: a detector of YOLOX, and a classifier of brightness. Runs in MLServer's environment."""

from __future__ import annotations

import io
import math
import os

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from PIL import Image

SIDE_PX = 416


def pictures(request: InferenceRequest) -> list[Image.Image]:
    [port] = request.inputs
    return [Image.open(io.BytesIO(one)).convert("RGB") for one in Base64Codec.decode_input(port)]


class Brightness(MLModel):
    """The mean brightness of a picture, in [0, 1]."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        values = np.float32([np.asarray(picture).mean() / 255 for picture in pictures(payload)])
        return InferenceResponse(
            model_name=self.name, model_version="1", outputs=[NumpyCodec.encode_output("probability", values)]
        )


class Yolox(MLModel):
    """YOLOX-Nano: the likeliest class of each place of its grids, with its score."""

    async def load(self) -> bool:
        self._session = onnxruntime.InferenceSession(os.environ["YOLOX_MODEL"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        [picture] = pictures(payload)
        scale = SIDE_PX / max(picture.size)
        small = picture.resize([max(1, math.floor(side * scale)) for side in picture.size], Image.Resampling.BILINEAR)
        canvas = np.full((SIDE_PX, SIDE_PX, 3), 114, np.float32)
        canvas[: small.height, : small.width] = np.asarray(small)[..., ::-1]
        [name] = [port.name for port in self._session.get_inputs()]
        found = self._session.run(None, {name: canvas.transpose(2, 0, 1)[None]})[0][0]
        of_classes = found[:, 5:] * found[:, 4:5]
        scores, classes = of_classes.max(1).astype(np.float32), of_classes.argmax(1).astype(np.int64)
        best = np.argsort(-scores)[:50]
        outputs = [
            NumpyCodec.encode_output("scores", scores[best]),
            NumpyCodec.encode_output("classes", classes[best]),
        ]
        return InferenceResponse(model_name=self.name, model_version="1", outputs=outputs)
