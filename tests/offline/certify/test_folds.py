"""Folds of val_calib: which rows may be looked at next, and what of delta is left for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from offline.certify.compact_look import LedgerEntry
from offline.certify.folds import Fold, folds_on_offer, most_powerful, opened_since
from stage1.certificate.budget import spent_on
from stage1.certificate.settings import CalibrationSettings
from tests.support.folds import folded

LEVEL = 0.1 / 6
SETTINGS = CalibrationSettings()


def looked(key: str, rows: str, groups: str = "", level: float | None = LEVEL) -> LedgerEntry:
    named = tuple(f"drive {group}" for group in (groups or rows))
    return LedgerEntry(key=key, rows=tuple(rows), groups=named, level=level, at="")


def offers(
    parts: Sequence[str],
    *earlier: LedgerEntry,
    groups: dict[str, str] | None = None,
    contents: dict[str, str] | None = None,
    enough: int = 99,
) -> list[Fold]:
    """Folds of rows with one letter each, in a group of its own unless one is named."""
    splits = folded(*parts, groups=groups, contents=contents)
    return folds_on_offer(splits, earlier, delta=0.1, enough=lambda rows: len(rows) >= enough)


def fold(rows: str, uses: int = 0, spent: float | None = None) -> Fold:
    return Fold(tuple(rows), uses, math.fsum([LEVEL] * uses) if spent is None else spent)


def test_rows_that_nothing_has_looked_at_have_all_of_delta() -> None:
    assert offers(["ab", "c"]) == [fold("ab"), fold("c")]


def test_each_look_at_a_fold_spends_its_level_and_the_same_look_twice_is_one() -> None:
    night = looked("night 1", "ab")
    assert offers(["ab"], looked("night 0", "ab"), night, night) == [fold("ab", 2)]


def test_a_few_new_rows_join_the_fold_that_is_open() -> None:
    assert offers(["abc"], looked("night 0", "ab")) == [fold("abc", 1)]


def test_enough_new_rows_are_a_fold_of_their_own_with_all_of_delta() -> None:
    earlier = [looked(f"night {n}", "ab") for n in range(6)]
    assert offers(["abcde"], *earlier, enough=3) == [fold("cde"), fold("ab", 6)]
    # The next ones are new to both.
    more = looked("night 6", "cde")
    assert offers(["abcdef"], *earlier, more, enough=3) == [fold("abf", 6), fold("cdef", 1)]


def test_a_row_is_used_whatever_its_group_is_called_now() -> None:
    assert offers(["a"], looked("night 0", "ab"), groups={"a": "renamed"}) == [fold("a", 1)]


def test_another_row_of_a_group_that_was_looked_at_is_used() -> None:
    assert offers(["z"], looked("night 0", "a"), groups={"z": "drive a"}) == [fold("z", 1)]


def test_a_row_is_used_under_any_path_of_its_file() -> None:
    earlier = looked("night 0", "ab").model_copy(update={"contents": ("1", "2")})
    assert offers(["xy"], earlier, contents={"x": "2", "y": "3"}) == [fold("xy", 1)]
    assert offers(["y"], earlier, contents={"y": "3"}) == [fold("y")]


def test_uses_that_the_store_alone_knows_are_counted_apart() -> None:
    earlier = looked("night 0", "ab"), looked("night 1", "ab").model_copy(update={"known_from": "store"})
    (found,) = offers(["ab"], *earlier)
    assert (found.uses, found.from_store) == (2, 1)


def test_groups_that_were_joined_are_as_used_as_all_of_them() -> None:
    earlier = looked("night 0", "a"), looked("night 1", "b")
    assert offers(["ab"], *earlier, groups={"a": "one", "b": "one"}) == [fold("ab", 2)]


def test_an_entry_that_does_not_say_what_it_spent_is_a_night_of_the_schedule_without_end() -> None:
    earlier = [looked(f"night {n}", "ab", level=None) for n in range(3)]
    assert offers(["ab"], *earlier) == [fold("ab", 3, spent=math.fsum(spent_on(0.1, n) for n in range(3)))]


class TestTheMostPowerful:
    def units(self, rows: Sequence[str]) -> int:
        return sum(row.isupper() for row in rows)

    def test_is_the_one_with_most_units_and_not_the_least_used(self) -> None:
        small, large = Fold(tuple("abcD")), Fold(tuple("ABCd"), 3, 3 * LEVEL)
        assert most_powerful([small, large], self.units, SETTINGS) is large

    def test_of_equal_ones_is_the_least_used(self) -> None:
        used, fresh = Fold(tuple("AB"), 1, LEVEL), Fold(tuple("CD"))
        assert most_powerful([used, fresh], self.units, SETTINGS) is fresh

    def test_is_none_on_which_delta_is_spent_while_there_is_another(self) -> None:
        spent, fresh = Fold(tuple("ABCDEF"), 6, 6 * LEVEL), Fold(tuple("G"))
        assert most_powerful([spent, fresh], self.units, SETTINGS) is fresh

    def test_by_nights_a_fold_that_is_used_up_loses_to_a_smaller_fresh_one(self) -> None:
        nights = CalibrationSettings(spending="nights")
        worn, fresh = Fold(tuple("ABCD"), 9, 0.09), Fold(tuple("EFG"))
        assert most_powerful([worn, fresh], self.units, nights) is fresh


class TestAfterAnAlarm:
    alarm = datetime(2026, 3, 2, 17, tzinfo=UTC)

    def night(self, key: str, rows: str, days: int, **changes: object) -> LedgerEntry:
        at = (self.alarm + timedelta(days=days)).isoformat(timespec="seconds")
        return looked(key, rows).model_copy(update={"at": at, **changes})

    def rows(self, *earlier: LedgerEntry, part: str = "abcde", enough: int = 3) -> list[str]:
        found = opened_since(offers([part], *earlier, enough=enough), self.alarm)
        return ["".join(one.rows) for one in found]

    def test_rows_that_nothing_had_looked_at_are_taken(self) -> None:
        assert self.rows(self.night("old", "ab", -1)) == ["cde"]

    def test_a_fold_that_was_opened_since_is_taken_again(self) -> None:
        assert self.rows(self.night("old", "ab", -1), self.night("new", "cde", 1)) == ["cde"]

    def test_one_that_was_also_looked_at_before_is_not(self) -> None:
        assert self.rows(self.night("old", "ab", -1), self.night("new", "abf", 1), part="abcdef") == ["cde"]

    def test_a_look_that_the_store_alone_knows_may_be_from_before(self) -> None:
        assert self.rows(self.night("of another workspace", "ab", 1, known_from="store")) == ["cde"]

    def test_too_few_new_rows_join_the_old_ones_and_the_gate_has_the_last_word(self) -> None:
        assert self.rows(self.night("old", "ab", -1), part="abc") == ["abc"]

    def test_without_an_alarm_all_are_on_offer(self) -> None:
        found = offers(["abcde"], self.night("old", "ab", -1), enough=3)
        assert opened_since(found, None) == found
        assert len(found) == 2
