"""Forms in which an image comes and a probability goes."""

from __future__ import annotations

import base64
import json

from miner.axon.body import image_of


class ImageInJson:
    """A JSON object with the image as base64 in the field `image`; the answer has the field `prediction`."""

    def image_b64(self, body: bytearray) -> str:
        """See `Codec.image_b64`."""
        return image_of(body)

    def answer(self, probability: float) -> bytes:
        """See `Codec.answer`."""
        return json.dumps({"prediction": probability}).encode()

    def refusal(self, message: str) -> bytes:
        """See `Codec.refusal`."""
        return json.dumps({"message": message}).encode()


class ImageItself(ImageInJson):
    """The body is the image file itself; answers are those of `ImageInJson`."""

    def image_b64(self, body: bytearray) -> str:
        """See `Codec.image_b64`."""
        return base64.b64encode(body).decode()
