"""How many images may be listed and not there: a few were deleted; many are on a disk that is not mounted."""

from __future__ import annotations

MOST_MISSING = 0.01


def too_many_missing(missing: int, rows: int) -> bool:
    """Whether a run stops, because more than one row in a hundred has no image.

    Args:
        missing: rows whose image is not there or cannot be read.
        rows: all rows.
    """
    return missing > MOST_MISSING * rows


def missing_words(missing: int, rows: int) -> str:
    """What is told of too many missing images."""
    return (
        f"{missing} of {rows} listed images are not there or cannot be read, and up to {MOST_MISSING:.0%} of them are "
        "left out: is the disk with the images mounted?"
    )
