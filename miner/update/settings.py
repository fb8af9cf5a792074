"""Settings of the look for newer releases."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from stage1.settings import Section


def _an_http_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{text!r} is no address of a page: it must begin with https:// or http://")
    if parts.username or parts.password:
        raise ValueError("the address holds a name or a password; releases are public, so leave them out")
    return text


Address = Annotated[str, AfterValidator(_an_http_address)]


class UpdateSettings(Section):
    """Where newer releases of this program are published. Nothing is ever installed, and nothing is told of the miner.

    Attributes:
        check: a miner asks once a day, and tells of a newer release in its log, its status and its alerts; without it
            nobody asks but `cascade update check`.
        url: what is asked: the JSON of a project on PyPI or on a server like it, or a list of releases as GitHub gives
            it, `https://api.github.com/repos/OWNER/NAME/releases`.
        notes_url: a changelog in the form of Keep a Changelog, of which the parts that are newer are shown; without it,
            the notes in that answer, or their address.
        timeout_s: longest time for one answer.
    """

    check: bool = False
    url: Address = "https://pypi.org/pypi/streetvision-cascade/json"
    notes_url: Address | None = None
    timeout_s: float = Field(default=10.0, gt=0, le=60)
