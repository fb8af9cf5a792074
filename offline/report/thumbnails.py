"""Small pictures for a report, as Stage-1 sees them."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence

from PIL import Image

from offline.data.dataset import Dataset
from stage1.preprocess import PreprocessSettings

SIDE_PX, QUALITY = 200, 70


def embedded(picture: bytes | None) -> str:
    """An image with its bytes in it, as HTML; nothing without one.

    Args:
        picture: a JPEG.
    """
    return "" if picture is None else f'<img alt="" src="data:image/jpeg;base64,{b64encode(picture).decode()}">'


def thumbnails(data: Dataset, ids: Sequence[str], settings: PreprocessSettings) -> dict[str, bytes]:
    """A JPEG of at most 200 x 200 pixels for each row, through the serving preprocess.

    Args:
        data: where the pictures are.
        ids: rows to show.
        settings: of the engine that judged them.

    Raises:
        DatasetError: a picture cannot be read.
    """
    found = {}
    for row, pixels in zip(ids, data.pick(ids).pixels(settings), strict=True):
        picture = Image.fromarray(pixels.transpose(1, 2, 0))
        picture.thumbnail((SIDE_PX, SIDE_PX))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=QUALITY)
        found[row] = buffer.getvalue()
    return found
