"""Tables of drives through the same streets, without pictures."""

from __future__ import annotations

import numpy as np

from offline.data.dataset import Row

EARTH_RADIUS_M = 6_371_000.0
DAY_S = 86_400
FIRST_DRIVE_S = 1_767_225_600


def drives_through_the_same_streets(
    places: int = 300, *, drives: int = 5, days_between: int = 20, roadwork: float = 0.25, by_drive: bool = False
) -> list[Row]:
    """One row of each place on each drive; a share of the places has roadwork on every one of them.

    Args:
        places: number of places, 100 m apart in one street.
        drives: number of drives.
        days_between: days between two drives.
        roadwork: share of the places with roadwork.
        by_drive: the rows of a drive are declared to be one group; otherwise each row is its own.
    """
    degree_m = EARTH_RADIUS_M * np.pi / 180
    at_work = np.random.default_rng(places).random(places) < roadwork
    return [
        Row(
            image=f"drive_{drive}/{place:04d}.jpg",
            label=int(at_work[place]),
            group=f"drive {drive}" if by_drive else f"drive_{drive}/{place:04d}.jpg",
            source="dashcam",
            metadata={
                "gps": f"{48 + (100 * place + 12) / degree_m:.7f},11.0003",
                "timestamp": str(FIRST_DRIVE_S + drive * days_between * DAY_S + 10 * place),
            },
        )
        for drive in range(drives)
        for place in range(places)
    ]
