"""A hash by which a picture is known again."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from stage1.monitor.picture_hash import picture_hash
from stage1.monitor.sites import NEAR_BITS
from stage1.preprocess import PreprocessSettings, preprocess


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC)


def hash_of(image: Image.Image, quality: int) -> int:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    found = picture_hash(preprocess(file.getvalue(), PreprocessSettings()))
    assert found is not None
    return found


def test_a_picture_is_known_again_in_another_file_and_another_one_is_not() -> None:
    hashes = [hash_of(picture(seed), 95) for seed in range(30)]
    again = [hash_of(picture(seed).resize((400, 300)), 50) for seed in range(30)]
    own = [(a ^ b).bit_count() for a, b in zip(hashes, again, strict=True)]
    other = [(hashes[i] ^ again[i - 1]).bit_count() for i in range(30)]
    assert max(own) <= NEAR_BITS < min(other)


def test_a_blank_picture_has_none() -> None:
    assert picture_hash(np.full((3, 224, 224), 7, np.uint8)) is None
    assert picture_hash(np.random.default_rng(0).integers(0, 256, (3, 40, 70), dtype=np.uint8)) is not None
