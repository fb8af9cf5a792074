"""The pages of the reference are what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.reference import commands_page, night_page, pages, settings_page

MADE = pages()


@pytest.mark.parametrize("page", MADE, ids=lambda page: page.name)
def test_the_pages_are_made_from_the_code_as_it_is(page: Path) -> None:
    assert page.read_text() == MADE[page], "run `python -m scripts.reference`"


def test_a_row_has_type_bounds_default_unit_and_meaning() -> None:
    page = settings_page()
    assert "| `deadline_s` | number > 0, seconds | `60.0` | Longest wait for one answer of one endpoint. |" in page
    assert '| `kind` | `"bittensor"` or `"offline"` | `"bittensor"` | ' in page
    assert "## `[[stage2.servers]]` of kind `kserve`" in page
    assert "| `url` | text | needed | " in page


def test_a_row_of_a_night_has_the_value_of_both_presets() -> None:
    assert "| `size_px` | whole number >= 16, <= 2048, pixels | `224`; tiny `160` | " in night_page()


def test_every_command_has_its_options_and_examples() -> None:
    page = commands_page()
    assert "## `cascade engines rollback`" in page
    assert "| `--requests` `N` | How many requests are sent. Default `300`. |" in page
    assert "- `cascade demo --quick`" in page
