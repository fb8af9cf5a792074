"""The golden set of a bundle: images, and the outputs that every later load must reproduce."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.lib.npyio import NpzFile

from engines.engine import HEAD_PREFIX
from engines.errors import BundleRefused
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels, Shape

# Unpacked; 64 images of 448 px are 39 MB.
MOST_OF_A_GOLDEN_SET = 1 << 28


def golden_count(shape: Shape, wanted: int) -> int:
    """How many images a golden set holds: as many as are wanted, or as fit.

    Args:
        shape: height and width of the images, px.
        wanted: number of images.
    """
    # What the outputs take beside them is a rounding error.
    return min(wanted, (MOST_OF_A_GOLDEN_SET - 2**20) // (3 * shape[0] * shape[1]))


def write_golden(path: Path, images: np.ndarray, outputs: Stage1Outputs) -> None:
    """Store the images and outputs that every later load must reproduce.

    Args:
        path: an `.npz` file.
        images: uint8 `(N, 3, H, W)`.
        outputs: what the calibrated engine returned for them.
    """
    with path.open("wb") as handle:
        arrays: dict[str, Any] = {"images": images, "logits": outputs.logits, "select_score": outputs.select_score}
        arrays |= {HEAD_PREFIX + name: logits for name, logits in outputs.heads.items()}
        np.savez_compressed(handle, **arrays)


def read_golden(path: Path) -> tuple[Pixels, Stage1Outputs]:
    """The images and outputs that `write_golden` stored.

    Raises:
        BundleRefused: it is no golden set.
    """
    try:
        with path.open("rb") as handle, NpzFile(handle, allow_pickle=False) as stored:
            with ZipFile(path) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > MOST_OF_A_GOLDEN_SET:
                raise ValueError("it is larger than a golden set may be")
            heads = {name.removeprefix(HEAD_PREFIX): stored[name] for name in stored if name.startswith(HEAD_PREFIX)}
            images, expected = stored["images"], Stage1Outputs(stored["logits"], stored["select_score"], heads)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, BadZipFile, zlib.error) as error:
        raise BundleRefused(f"{path.name}: not a golden set: {error}") from error
    if images.dtype != np.uint8 or images.ndim != 4:
        raise BundleRefused(f"{path.name}: {images.dtype} of shape {images.shape} are no images")
    if not 0 < len(images) == len(expected):
        raise BundleRefused(f"{path.name}: {len(images)} images and {len(expected)} outputs are not a golden set")
    return images, expected
