"""What cells mean: one thing, however it is spelled."""

from __future__ import annotations

import unicodedata

import pytest

from offline.data.values import identity, label_of, number, said
from offline.errors import DatasetError


@pytest.mark.parametrize(
    "word", ["", " ", "nan", "NaN", "None", "NULL", "n/a", "NA", "<NA>", "unknown", "-", "NaT", "#N/A"]
)
def test_words_for_nothing_say_nothing(word: str) -> None:
    assert said(word) is None


@pytest.mark.parametrize("word", ["0", "no", "none of these", "Nancy", " rain "])
def test_all_other_words_say_something(word: str) -> None:
    assert said(word) == word.strip()


@pytest.mark.parametrize("spelling", ["1", "1.0", "01", "+1", "1.", "1,0", " 1 "])
def test_a_number_is_one_id_however_it_is_spelled(spelling: str) -> None:
    assert identity(spelling) == "1"


@pytest.mark.parametrize("text", ["1.5", "1.10", "1e3", "a1", "2024-05-01", "1_0", "-", "v1.0"])
def test_an_id_that_is_no_whole_number_is_text(text: str) -> None:
    assert identity(text) == text


def test_an_id_of_many_digits_keeps_them() -> None:
    assert identity("498763468214164321.0") == "498763468214164321"


def test_an_id_is_one_however_its_letters_are_composed() -> None:
    assert identity(unicodedata.normalize("NFD", "straße ü")) == identity(unicodedata.normalize("NFC", "straße ü"))


@pytest.mark.parametrize("text", ["4.98763E+14", "4,98763E+14"])
def test_an_id_that_was_rounded_is_refused(text: str) -> None:
    with pytest.raises(DatasetError, match="rounded by a spreadsheet"):
        identity(text)


@pytest.mark.parametrize(("text", "label"), [("1", 1), ("0", 0), ("1.0", 1), ("0,0", 0), ("TRUE", 1), ("False", 0)])
def test_labels_are_0_and_1_in_the_spellings_of_programs(text: str, label: int) -> None:
    assert label_of(text) == label


@pytest.mark.parametrize(("text", "label"), [("yes", 1), ("No", 0), (" 1 ", 1)])
def test_labels_are_0_and_1_in_the_words_of_people(text: str, label: int) -> None:
    assert label_of(text) == label


@pytest.mark.parametrize("text", ["2", "0.5", "-1", "", "nan", "roadwork", "10", "1 0"])
def test_everything_else_is_no_label(text: str) -> None:
    assert label_of(text) is None


@pytest.mark.parametrize(
    ("text", "found"), [("1,5", 1.5), ("1.5", 1.5), ("-3e2", -300.0), ("1.234,5", None), ("1_0", None), ("inf", None)]
)
def test_numbers_have_a_point_or_a_comma(text: str, found: float | None) -> None:
    assert number(text) == found
