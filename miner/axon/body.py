"""The image in a request's body, found without reading the rest of it as JSON.

Reading 16 MiB of JSON numbers takes most of a second, in which nothing else is answered. What a dendrite sends beside
the image is short. So the image is cut out first, and only what is left is read, if it is short enough.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from miner.axon.refusals import BadRequest

# A dendrite sends about 1 KiB beside the image.
MOST_BESIDE = 64 * 1024
# A body of no more bytes is read as it is.
SHORT = MOST_BESIDE
# Base64 has no quotes, and a slash that is escaped as `\/` is the only escape that an encoder may make of it.
MOST_QUOTES, MOST_BACKSLASHES, MOST_ESCAPED = 8, 64, 4 * 1024 * 1024
CUT = "cut out"

_BEGINS = re.compile(rb'"image"[ \t\r\n]*:[ \t\r\n]*"')
NO_IMAGE = "The body is not a JSON object with a text field 'image'."


class _Body(BaseModel):
    model_config = ConfigDict(strict=True)

    image: str


def image_of(body: bytes | bytearray) -> str:
    """The text of the field `image`.

    Raises:
        BadRequest: the body is not a JSON object with this field as a text, or has much beside it.
    """
    if len(body) <= SHORT:
        return _read(body)
    begins = _BEGINS.search(body)
    end = None if begins is None else _closing_quote(body, begins.end())
    if begins is None or end is None:
        raise BadRequest(NO_IMAGE)
    if len(body) - (end - begins.end()) > MOST_BESIDE:
        raise BadRequest(f"The body has more than {MOST_BESIDE} bytes beside a text field 'image'.")
    text = body[begins.end() : end]
    if _read(body[: begins.end()] + CUT.encode() + body[end:]) != CUT:
        # It was the field of something else, or another one comes after it.
        raise BadRequest(NO_IMAGE)
    return _unescaped(text)


def _read(body: bytes | bytearray) -> str:
    try:
        return _Body.model_validate_json(body).image
    except ValidationError:
        raise BadRequest(NO_IMAGE) from None


def _closing_quote(body: bytes | bytearray, start: int) -> int | None:
    """Where the text ends that begins at `start`."""
    place = start
    for _ in range(MOST_QUOTES):
        end = body.find(b'"', place)
        if end < 0:
            return None
        before = bytes(body[max(start, end - MOST_BACKSLASHES) : end])
        backslashes = len(before) - len(before.rstrip(b"\\"))
        if backslashes == MOST_BACKSLASHES:
            return None
        if backslashes % 2 == 0:
            return end
        place = end + 1
    return None


def _unescaped(text: bytes | bytearray) -> str:
    # Control characters, which JSON does not allow, are not looked for: they are no base64 either.
    escaped = b"\\" in text
    if escaped and len(text) > MOST_ESCAPED:
        raise BadRequest(NO_IMAGE)
    try:
        return str(from_json(b'"%s"' % text)) if escaped else text.decode()
    except ValueError:
        raise BadRequest(NO_IMAGE) from None
