"""One way to change a setting by its dotted name, and one text for what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from stage1.errors import SettingsError
from stage1.settings import Section, UserPath, dotted, merged, override


class Inner(Section):
    """A part."""

    depth: int = Field(default=1, ge=0)
    rate: float = 0.5
    home: UserPath | None = None
    names: tuple[str, ...] = ()


class Outer(Section):
    """A tree."""

    seed: int = 0
    inner: Inner = Inner()


def test_a_value_is_replaced_by_its_dotted_name() -> None:
    assert override(Outer(), {"inner.depth": 3, "seed": 7}) == Outer(seed=7, inner=Inner(depth=3))


def test_nothing_is_changed_in_place() -> None:
    tree = {"inner": {"depth": 1}}
    assert merged(tree, {"inner.depth": 2}) == {"inner": {"depth": 2}}
    assert tree == {"inner": {"depth": 1}}


def test_everything_that_does_not_fit_is_named_in_one_line() -> None:
    with pytest.raises(SettingsError) as error:
        override(Outer(), {"inner.depth": -1, "inner.width": 2, "seed": "many"})
    said = str(error.value)
    assert "\n" not in said
    assert "seed: Input should be a valid integer" in said
    assert "inner.depth: Input should be greater than or equal to 0" in said
    assert "inner.width: Extra inputs are not permitted" in said
    assert error.value.exit_status == 2


def test_a_path_through_a_single_value_is_an_error_that_names_it() -> None:
    with pytest.raises(SettingsError, match=r"seed\.deeper: 'seed' is a single value and has no parts"):
        override(Outer(), {"seed.deeper": 1})


def test_a_section_does_not_change_and_takes_no_unknown_name() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().seed = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="Extra inputs"):
        Outer.model_validate({"sed": 3})


@pytest.mark.parametrize(
    ("tree", "paths"),
    [
        ({}, {}),
        ({"seed": 3}, {"seed": 3}),
        ({"inner": {"depth": 2, "names": ["a"]}}, {"inner.depth": 2, "inner.names": ["a"]}),
        ({"a": {"b": {"c": 1}}, "d": 2}, {"a.b.c": 1, "d": 2}),
        # A quoted name with a dot in it is a path, and what it names is replaced whole.
        ({"model.backbone": {"kind": "random"}}, {"model.backbone": {"kind": "random"}}),
        ({"model": {"heads": {}}}, {"model.heads": {}}),
    ],
)
def test_a_table_is_told_as_dotted_names(tree: dict[str, object], paths: dict[str, object]) -> None:
    assert dotted(tree) == paths


@pytest.mark.parametrize("changes", [{"inner.depth": 1, "inner": {"depth": 2}}, {"inner": {}, "inner.names": []}])
def test_of_a_whole_and_its_part_only_one_is_given(changes: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"inner and inner\.(depth|names) are both given, and one is a part"):
        override(Outer(), changes)


@pytest.mark.parametrize(
    "tree",
    [
        {"model": {"backbone": {"kind": "random"}}, "model.backbone": {"kind": "pretrained"}},
        {"model.backbone": {"kind": "random"}, "model": {"backbone": {"kind": "pretrained"}}},
        {"gate": {"keep": 3}, "gate.keep": 4},
    ],
)
def test_a_table_that_says_a_thing_twice_is_refused(tree: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"are both given|is given twice"):
        dotted(tree)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), "Infinity", "nan"])
def test_a_number_is_finite(value: object) -> None:
    with pytest.raises(SettingsError, match=r"inner\.rate: Input should be a finite number"):
        override(Outer(), {"inner.rate": value})


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert override(Outer(), {"inner.home": "~/roads"}).inner.home == tmp_path / "roads"


def test_a_home_that_nobody_has_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"inner\.home: .*~nobody-of-this-name/roads: no home directory is known"):
        override(Outer(), {"inner.home": "~nobody-of-this-name/roads"})
