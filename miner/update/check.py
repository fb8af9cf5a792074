"""One look for a newer release, and what is kept of the last one."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import httpx2
from packaging.version import Version
from pydantic import field_validator

from miner.errors import MinerError
from miner.update.releases import Release, UnreadableReleases, as_json, newest, notes_since, releases_of
from miner.update.settings import UpdateSettings
from stage1.artifacts import Artifact
from stage1.errors import ArtifactError

DISTRIBUTION = "streetvision-cascade"
FILE = "update.json"
# The JSON of the largest projects on PyPI; ours is far below.
MOST_BYTES = 16 * 1024 * 1024
MOST_REDIRECTS = 3
NOT_FOUND = 404
# Says which kind of program asks, as PyPI wants it, and nothing of who or with which version.
HEADERS = {
    "user-agent": f"{DISTRIBUTION} update check",
    "accept": "application/json, text/plain;q=0.9, */*;q=0.1",
    # A few bytes that unpack to gigabytes would be in memory before they are counted.
    "accept-encoding": "identity",
}


class UpdateNotChecked(MinerError):
    """Nobody said which release is the newest."""


class UpdateAnswer(Artifact):
    """`update.json` in the state directory: what the last look has found.

    Attributes:
        checked_at: when, ISO 8601, UTC.
        installed: version of the program that looked.
        newest: version of the newest release that runs on this Python, None if none is published.
        released_at: when that was published, empty if that is not said.
        notes: what is new since the installed one, empty if that is not said.
        notes_url: where that is said.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    checked_at: str
    installed: str
    newest: str | None
    released_at: str = ""
    notes: str = ""
    notes_url: str | None = None

    @field_validator("newest")
    @classmethod
    def _a_version(cls, text: str | None) -> str | None:
        # Raises a ValueError where it is none.
        return text if text is None else str(Version(text))

    def newer_than(self, installed: str) -> bool:
        """Whether the newest release is newer than a version; this file may be older than the program."""
        return self.newest is not None and Version(self.newest) > Version(installed)


def installed_version() -> str:
    """Version of this program."""
    return version(DISTRIBUTION)


def look(settings: UpdateSettings, *, installed: str, now: Callable[[], datetime]) -> UpdateAnswer:
    """Ask which release is the newest.

    Args:
        settings: whom to ask.
        installed: version of this program.
        now: wall-clock time, UTC.

    Raises:
        UpdateNotChecked: the server cannot be reached, or its answer cannot be used; says why and what to do.
    """
    ours = Version(installed)
    with httpx2.Client(headers=HEADERS, follow_redirects=True, max_redirects=MOST_REDIRECTS) as client:
        content = _fetched(client, settings.url, settings.timeout_s)
        try:
            releases = releases_of(as_json(content))
        except UnreadableReleases as error:
            raise UpdateNotChecked(
                f"{settings.url}: is neither a project of PyPI nor releases of GitHub ({error}); see update.url"
            ) from error
        found = newest(releases, ours, platform.python_version())
        notes = _notes(client, settings, found, ours)
    return UpdateAnswer(
        checked_at=now().isoformat(),
        installed=installed,
        newest=None if found is None else str(found.version),
        released_at="" if found is None else found.at,
        notes=notes,
        notes_url=settings.notes_url or (None if found is None else found.notes_url),
    )


def _notes(client: httpx2.Client, settings: UpdateSettings, found: Release | None, ours: Version) -> str:
    if found is None or found.version <= ours:
        return ""
    if settings.notes_url is None:
        return found.notes
    text = _fetched(client, settings.notes_url, settings.timeout_s).decode(errors="replace")
    return notes_since(text, ours, found.version)


def _fetched(client: httpx2.Client, url: str, timeout_s: float) -> bytes:
    """The body of an answer, within the bounds of time and size."""
    ends = time.monotonic() + timeout_s
    body = bytearray()
    try:
        with client.stream("GET", url, timeout=timeout_s) as reply:
            if reply.status_code == NOT_FOUND:
                raise UpdateNotChecked(f"{url}: nothing is published there; see update.url")
            if not reply.is_success:
                raise UpdateNotChecked(f"{url}: answers with status {reply.status_code}; try again later")
            for part in reply.iter_raw():
                body += part
                if len(body) > MOST_BYTES:
                    raise UpdateNotChecked(f"{url}: answers with more than {MOST_BYTES} bytes; see update.url")
                # The timeout of the client is for each part.
                if time.monotonic() > ends:
                    raise UpdateNotChecked(f"{url}: is not done within {timeout_s:g} s; see update.timeout_s")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        why = str(error) or type(error).__name__
        raise UpdateNotChecked(
            f"{url}: cannot be asked ({why}); without a network, look there from another machine"
        ) from error
    return bytes(body)


def last_answer(state: Path) -> UpdateAnswer | None:
    """What the last look has found; None if there was none, or its file cannot be read.

    Args:
        state: the state directory.
    """
    try:
        return UpdateAnswer.read(state / FILE)
    except ArtifactError:
        return None
