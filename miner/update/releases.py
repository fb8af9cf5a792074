"""Releases as PyPI and GitHub tell of them, and which of them is newer than this program."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from miner.errors import MinerError
from stage1.settings import first_problem

LONGEST_NOTES = 8_000
NOTES_LABELS = ("changelog", "release notes", "changes", "releases", "what's new")


class UnreadableReleases(MinerError):
    """An answer is neither what PyPI nor what GitHub says of releases."""


@dataclass(frozen=True)
class Release:
    """A release that is published.

    Attributes:
        version: of it.
        at: when it was published, ISO 8601; empty if that is not said.
        python: which versions of Python it needs, as a specifier; empty for any.
        notes: what is new in it, empty if that is not said.
        notes_url: where that is said, None if nowhere.
    """

    version: Version
    at: str = ""
    python: str = ""
    notes: str = ""
    notes_url: str | None = None


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _File(_Lenient):
    upload_time_iso_8601: str = Field(default="", max_length=64)
    requires_python: str | None = Field(default=None, max_length=256)
    yanked: bool = False


class _Info(_Lenient):
    project_urls: dict[str, str] | None = None


class _PyPi(_Lenient):
    info: _Info
    releases: dict[str, list[_File]]


class _GitHub(_Lenient):
    tag_name: str = Field(max_length=256)
    published_at: str | None = Field(default=None, max_length=64)
    body: str | None = None
    html_url: str | None = Field(default=None, max_length=2_000)
    draft: bool = False


def releases_of(document: object) -> list[Release]:
    """All releases that an answer tells of; yanked ones and drafts are left out, and so is what has no version.

    Args:
        document: JSON of a project on PyPI, or one release or a list of releases of a repository on GitHub.

    Raises:
        UnreadableReleases: it is neither.
    """
    try:
        if isinstance(document, dict) and "releases" in document:
            return list(_of_pypi(_PyPi.model_validate(document)))
        listed = document if isinstance(document, list) else [document]
        return list(_of_github(TypeAdapter(list[_GitHub]).validate_python(listed)))
    except ValidationError as error:
        raise UnreadableReleases(first_problem(error, otherwise="it is something else")) from error


def _of_pypi(project: _PyPi) -> Iterator[Release]:
    addresses = {name.lower(): address for name, address in (project.info.project_urls or {}).items()}
    notes_url = next((addresses[label] for label in NOTES_LABELS if label in addresses), None)
    for text, files in project.releases.items():
        there = [file for file in files if not file.yanked]
        if there and (version := _version(text)) is not None:
            first = min(there, key=lambda file: file.upload_time_iso_8601)
            yield Release(version, first.upload_time_iso_8601, first.requires_python or "", notes_url=notes_url)


def _of_github(releases: Iterable[_GitHub]) -> Iterator[Release]:
    for one in releases:
        version = _version(one.tag_name)
        if version is not None and not one.draft:
            notes = (one.body or "").strip()[:LONGEST_NOTES]
            yield Release(version, one.published_at or "", notes=notes, notes_url=one.html_url)


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def newest(releases: Iterable[Release], installed: Version, python: str) -> Release | None:
    """The newest release that runs here; None if none is published.

    Args:
        releases: that are published.
        installed: version of this program; releases before a final one count only if it is one of these itself.
        python: version of this Python.
    """
    fit = [
        one
        for one in releases
        if (installed.is_prerelease or not one.version.is_prerelease) and _runs(one.python, python)
    ]
    return max(fit, key=lambda one: one.version, default=None)


def _runs(specifier: str, python: str) -> bool:
    try:
        return SpecifierSet(specifier).contains(python, prereleases=True)
    except InvalidSpecifier:
        return True


_SECTION = re.compile(r"^## +\[?v?([^\]\s]+)\]?", re.MULTILINE)


def notes_since(changelog: str, installed: Version, until: Version) -> str:
    """The parts of a changelog that are newer than a version.

    Args:
        changelog: in Markdown, with a heading `## [1.2.3] - 2026-01-31` for each version.
        installed: what is newer than this.
        until: and no newer than this.
    """
    found = list(_SECTION.finditer(changelog))
    ends = {one.start(): after.start() for one, after in pairwise(found)}
    parts = [
        changelog[one.start() : ends.get(one.start(), len(changelog))].strip()
        for one in found
        if (version := _version(one[1])) is not None and installed < version <= until
    ]
    return "\n\n".join(parts)[:LONGEST_NOTES]


def as_json(answer: bytes) -> Any:  # noqa: ANN401  JSON
    """What an answer says.

    Raises:
        UnreadableReleases: it is no JSON.
    """
    try:
        return TypeAdapter(Any).validate_json(answer)
    except ValidationError as error:
        raise UnreadableReleases("it is no JSON") from error
