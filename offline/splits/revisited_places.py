"""How many places of an exam are in train as well: whoever drives through the same streets again meets them again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from offline.data.dataset import Row
from offline.data.place_and_time import read_fix
from offline.splits.dependent_groups import cells_of
from offline.splits.splits_file import RevisitedPlaces

Cell = tuple[int, int, int]


def revisited(exam: Sequence[Row], train: Sequence[Row], cell_m: float) -> RevisitedPlaces:
    """Count the places of an exam, and those that are in train as well, whenever that was.

    A place is a cell of the first grid. It is in train if one of its rows has a cell of any grid in common with a row
    of train, as in the grouping.

    Args:
        exam: rows of the exam.
        train: rows that train.
        cell_m: side of a cell, metres.

    Raises:
        DatasetError: a row says something that is not a place.
    """
    places, seen = _cells(exam, cell_m), _all(_cells(train, cell_m))
    roadwork, seen_at_work = _cells(_roadwork(exam), cell_m), _all(_cells(_roadwork(train), cell_m))
    return RevisitedPlaces(
        places=len(_first(places)),
        in_train=len(_first(cells for cells in places if seen.intersection(cells))),
        roadwork_places=len(_first(roadwork)),
        roadwork_in_train=len(_first(cells for cells in roadwork if seen_at_work.intersection(cells))),
        rows_without_place=len(exam) - len(places),
    )


def _roadwork(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.label == 1]


def _cells(rows: Iterable[Row], cell_m: float) -> list[tuple[Cell, ...]]:
    return [cells_of(fix, cell_m) for fix in map(read_fix, rows) if fix is not None]


def _all(places: Iterable[tuple[Cell, ...]]) -> set[Cell]:
    return {cell for cells in places for cell in cells}


def _first(places: Iterable[tuple[Cell, ...]]) -> set[Cell]:
    return {cells[0] for cells in places}
