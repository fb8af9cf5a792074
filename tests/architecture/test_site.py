"""The pages as a site: the navigation has each of them once. Links and anchors are checked in `test_readme.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SITE: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
ROOT_PAGES = {"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}


def entries(part: Any) -> Iterator[str]:
    """The files that a part of the navigation leads to."""
    if isinstance(part, str):
        yield part
    else:
        for one in part.values() if isinstance(part, dict) else part:
            yield from entries(one)


def test_the_navigation_has_every_page_once() -> None:
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")} | ROOT_PAGES
    found = list(entries(SITE["nav"]))
    assert sorted(found) == sorted(pages)


def test_what_the_pages_link_to_is_copied_beside_them() -> None:
    copied = re.search(r"^cp -r --parents (.*) \"\$pages\"$", (ROOT / "scripts/docs").read_text(), flags=re.MULTILINE)
    assert copied is not None
    tops = set(copied[1].split())
    assert tops >= ROOT_PAGES | {"docs"}
    for page in [*ROOT_PAGES, *(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]:
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", (ROOT / page).read_text()):
            target = (ROOT / page).parent.joinpath(link).resolve().relative_to(ROOT)
            assert any(target.is_relative_to(top) for top in tops), f"{page} links to {target}"


def test_the_site_loads_no_fonts_from_elsewhere() -> None:
    assert SITE["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css"} & SITE.keys()
