# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202
"""A model for a real Triton: the mean brightness of a picture. Runs in Triton's Python backend."""

from __future__ import annotations

import io

import numpy as np
import triton_python_backend_utils as triton
from PIL import Image


def brightness(content: bytes) -> float:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).mean() / 255


class TritonPythonModel:
    """Answers each call of one or several pictures, and fails on one that cannot be read."""

    def execute(self, requests):
        return [self._answer(triton.get_input_tensor_by_name(one, "image").as_numpy().ravel()) for one in requests]

    def _answer(self, contents):
        try:
            values = np.float32([[brightness(one)] for one in contents])
        except OSError as error:
            return triton.InferenceResponse(error=triton.TritonError(str(error)))
        return triton.InferenceResponse([triton.Tensor("probability", values)])
