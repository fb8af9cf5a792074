"""What a certificate says of its rows: visits until no place is in train, and what is gone."""

from __future__ import annotations

import pytest

from offline.certify.sample_words import sample_words
from offline.splits.splits_file import LostRows, RevisitedPlaces, Splits


def words(places: tuple[int, int, int, int, int] | None, lost: LostRows | None = None, store_uses: int = 0) -> str:
    names = RevisitedPlaces.model_fields
    found = {} if places is None else {"val_calib": RevisitedPlaces(**dict(zip(names, places, strict=True)))}
    splits = Splits.model_validate(
        {"seed": 0, "data_sha256": "d", "sets": {}, "folds": (), "places": found, "lost": lost or LostRows()}
    )
    return sample_words(splits, store_uses)


VISITS = "A new group is a new visit and not a new place: "


@pytest.mark.parametrize(
    ("places", "told"),
    [
        (
            (199, 189, 40, 12, 0),
            f"{VISITS}189 of 199 places of val_calib are in train as well, 12 of 40 with roadwork.",
        ),
        ((9, 0, 4, 0, 3), f"{VISITS}0 of 9 places of val_calib are in train as well, 0 of 4 with roadwork, and 3 rows"),
        ((9, 0, 4, 0, 0), "A new group is a new place: none of the 9 places of val_calib is in train."),
        ((0, 0, 0, 0, 7), "A new group is a new visit, and may lead to a place that trained"),
        (None, "A new group is a new visit, and may lead to a place that trained"),
    ],
)
def test_only_where_no_place_is_in_train_a_place_is_promised(
    places: tuple[int, int, int, int, int] | None, told: str
) -> None:
    assert words(places).startswith(told)


def test_what_is_gone_is_told_and_nothing_where_nothing_is() -> None:
    new = (9, 0, 4, 0, 0)
    lost = LostRows(rows=13, roadwork=10, unknown=2, relabelled=4)
    assert words(new, lost).endswith(
        "Of the rows that val_calib once had 13 are gone, changed or left out, 10 with roadwork, and 2 with an unknown "
        "label. "
        "Of those that are there 4 have another label than at first."
    )
    assert words(new, LostRows(rows=1, roadwork=1)).endswith(
        "once had 1 are gone, changed or left out, 1 with roadwork."
    )
    assert "gone" not in words(new)


def test_uses_that_the_store_alone_knew_are_told() -> None:
    assert words(None, store_uses=2).endswith(
        "2 of the uses of these rows are known from the bundles of the store alone."
    )
    assert "store" not in words(None)
