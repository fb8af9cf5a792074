"""What a certificate says of the rows that it was computed from: visits or places, and what is not there any more."""

from __future__ import annotations

from offline.splits.lost_rows import lost_words
from offline.splits.splits_file import RevisitedPlaces, Splits


def sample_words(splits: Splits, from_store: int = 0) -> str:
    """Sentences for the statement.

    Args:
        splits: says where the rows are and were.
        from_store: uses of the rows that are known from bundles of the store alone.
    """
    told = [_visits(splits.places.get("val_calib")), *lost_words(splits.lost)]
    if from_store:
        told.append(f"{from_store} of the uses of these rows are known from the bundles of the store alone.")
    return " ".join(told)


def _visits(found: RevisitedPlaces | None) -> str:
    if found is None or not found.places:
        return (
            "A new group is a new visit, and may lead to a place that trained: the data do not say where rows are from."
        )
    if found.are_new:
        return f"A new group is a new place: none of the {found.places} places of val_calib is in train."
    some = f", and {found.rows_without_place} rows do not say where they are from" if found.rows_without_place else ""
    return (
        f"A new group is a new visit and not a new place: {found.in_train} of {found.places} places of val_calib are "
        f"in train as well, {found.roadwork_in_train} of {found.roadwork_places} with roadwork{some}."
    )
