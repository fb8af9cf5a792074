"""Rows are known again by what is in their files, and by their paths where nobody noted that."""

from __future__ import annotations

from offline.data.known_rows import KnownRows, NotedRow

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def here(**contents: str) -> KnownRows:
    return KnownRows(frozenset(contents), contents)


def test_a_row_is_known_under_another_name() -> None:
    noted = here(old=A).note(["old"])
    assert here(new=A, other=B).among(noted, ["new", "other"]) == ["new"]


def test_a_picture_that_was_exported_again_is_the_same_picture() -> None:
    noted = here(old=A).note(["old"])
    assert here(old=B).among(noted, ["old"]) == ["old"]


def test_a_path_that_another_picture_has_taken_is_another_row() -> None:
    noted = here(old=A).note(["old"])
    assert here(old=B, new=A).among(noted, ["old"]) == []


def test_a_row_of_which_only_the_path_was_noted_is_known_by_it() -> None:
    noted = [NotedRow(row="old")]
    assert here(old=A, other=B).among(noted, ["old", "other"]) == ["old"]
    assert here(old=A).unknowable(noted) == []
    assert here(new=A).unknowable(noted) == ["old"]


def test_a_row_whose_content_was_noted_is_never_unknowable() -> None:
    assert here(new=C).unknowable(here(old=A).note(["old"])) == []
