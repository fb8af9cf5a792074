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


@pytest.mark.parametrize(
    "spelling",
    [
        *("1234567", "1,234,567", "1.234.567", "1'234'567", "1\u2019234\u2019567", "1 234 567", "1\u00a0234\u00a0567"),
        *("1\u202f234\u202f567", "1,234,567.00", "1.234.567,0", "12,34,567", "1 234 567,00", "+1,234,567"),
    ],
)
def test_an_id_is_one_however_thousands_are_separated(spelling: str) -> None:
    assert identity(spelling) == "1234567"


@pytest.mark.parametrize(
    ("spelling", "found"),
    [
        *(("1,234", "1234"), ("1.234", "1234"), ("12 000", "12000"), ("1'000", "1000"), ("1,000.0", "1000")),
        *(("1.000,00", "1000"), ("1000.000", "1000"), ("1000,000", "1000"), ("0,000", "0"), ("001.000", "1")),
    ],
)
def test_a_separator_of_thousands_is_told_from_a_decimal_one_where_it_can_be(spelling: str, found: str) -> None:
    assert identity(spelling) == found


@pytest.mark.parametrize("text", ["1,000", "1.000", "25,000", "100.000", "-1,000"])
def test_an_id_that_may_be_a_thousand_or_one_is_refused(text: str) -> None:
    with pytest.raises(
        DatasetError, match=r"may be -?\d+000, with a separator of thousands, or .* three decimals: export"
    ):
        identity(text)


@pytest.mark.parametrize("text", ["\u0663", "\uff13", "\u0663.\u0660", "\u0966\u0969", " \u0663 "])
def test_digits_of_every_script_are_digits(text: str) -> None:
    assert identity(text) == "3"
    assert number(text) == 3.0


@pytest.mark.parametrize("text", ["1.5", "1.10", "1e3", "a1", "2024-05-01", "1_0", "-", "v1.0"])
def test_an_id_that_is_no_whole_number_is_text(text: str) -> None:
    assert identity(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("0x10", "0X10", "1E3", "12e5", "1.000,5", "1,000.5", "1.23.456", "1,234.567", "1.234 567", "0.123"),
        *("12345,678", "\u00b2", "1 0", "10.0.0.1"),
    ],
)
def test_what_no_spreadsheet_writes_for_a_whole_number_is_text(text: str) -> None:
    assert identity(text) == text


def test_an_id_of_many_digits_keeps_them() -> None:
    assert identity("498763468214164321.0") == "498763468214164321"


def test_an_id_is_one_however_its_letters_are_composed() -> None:
    assert identity(unicodedata.normalize("NFD", "straße ü")) == identity(unicodedata.normalize("NFC", "straße ü"))


@pytest.mark.parametrize("text", ["4.98763E+14", "4,98763E+14", "5E+14", "5.E+14", "1E+03", "1e+16", "1.2e+18"])
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
