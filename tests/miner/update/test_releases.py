from __future__ import annotations

from typing import Any

import pytest
from packaging.version import Version

from miner.update.releases import UnreadableReleases, as_json, newest, notes_since, releases_of

CHANGELOG = """# Changelog

## [Unreleased]
- what nobody has yet

## [0.3.0] - 2026-12-24
- lights

## [0.2.0] - 2026-12-01
- doors

## 0.1.0
- walls
"""


def file(at: str = "2026-12-01T10:00:00Z", python: str | None = ">=3.11", *, yanked: bool = False) -> dict[str, Any]:
    return {"upload_time_iso_8601": at, "requires_python": python, "yanked": yanked, "size": 7}


def pypi(**versions: list[dict[str, Any]]) -> dict[str, Any]:
    urls = {"Homepage": "https://example.com", "Changelog": "https://example.com/changes"}
    return {"info": {"project_urls": urls}, "releases": {name[1:].replace("_", "."): x for name, x in versions.items()}}


def found(document: object, installed: str = "0.1.0", python: str = "3.11.7") -> str | None:
    release = newest(releases_of(document), Version(installed), python)
    return None if release is None else str(release.version)


def test_the_newest_release_of_a_project_on_pypi_is_found() -> None:
    [old, new] = releases_of(pypi(v0_9_0=[file()], v0_10_0=[file(at="2026-12-03"), file(at="2026-12-02")]))
    assert found(pypi(v0_9_0=[file()], v0_10_0=[file()])) == "0.10.0"
    assert (str(new.version), new.at, new.python) == ("0.10.0", "2026-12-02", ">=3.11")
    assert old.notes_url == "https://example.com/changes"


def test_what_cannot_be_installed_here_is_left_out() -> None:
    document = pypi(v0_2=[file()], v0_3=[file(yanked=True)], v0_4=[], v0_5=[file(python=">=3.14")], vnonsense=[file()])
    assert found(document) == "0.2"
    assert found(document, python="3.14.1") == "0.5"
    assert found(pypi(v0_2=[file(python="what")])) == "0.2"


def test_a_release_before_a_final_one_counts_for_those_who_have_such_a_one() -> None:
    document = pypi(v0_2_0=[file()], v0_3_0rc1=[file()])
    assert found(document) == "0.2.0"
    assert found(document, installed="0.3.0rc0") == "0.3.0rc1"


def test_releases_of_a_repository_on_github_are_read() -> None:
    first = {"tag_name": "v0.2.0", "published_at": "2026-12-01", "body": " - doors ", "html_url": "https://g.example/2"}
    others = [{"tag_name": "v0.3.0", "draft": True}, {"tag_name": "nightly"}]
    [release] = releases_of([first, *others])
    assert (str(release.version), release.at, release.notes) == ("0.2.0", "2026-12-01", "- doors")
    assert releases_of(first) == [release]


@pytest.mark.parametrize("document", [{}, [], "text", 7, None, {"releases": 7}, {"info": {}, "releases": []}])
def test_what_is_neither_is_told(document: object) -> None:
    if document == []:
        assert releases_of(document) == []
        return
    with pytest.raises(UnreadableReleases):
        releases_of(document)


def test_what_is_no_json_is_told() -> None:
    with pytest.raises(UnreadableReleases, match="no JSON"):
        as_json(b"<html>")


def test_the_notes_are_the_parts_of_the_changelog_that_are_newer() -> None:
    told = notes_since(CHANGELOG, Version("0.1.0"), Version("0.3.0"))
    assert told.startswith("## [0.3.0] - 2026-12-24\n- lights")
    assert told.endswith("- doors")
    assert notes_since(CHANGELOG, Version("0.1.0"), Version("0.2.0")) == "## [0.2.0] - 2026-12-01\n- doors"
    assert notes_since(CHANGELOG, Version("0.3.0"), Version("0.3.0")) == ""
