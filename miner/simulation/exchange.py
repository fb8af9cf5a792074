"""One challenge on its way to a miner and back, as a validator sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from stage1.errors import SettingsError
from stage1.metrics.reward import NO_ANSWER

DEFAULT_PORT = 8091


@dataclass(frozen=True)
class Target:
    """The miner that is asked.

    Attributes:
        host: name or address, IPv6 in brackets.
        port: of its axon.
        hotkey: ss58 address that requests are signed for.
    """

    host: str
    port: int
    hotkey: str


@dataclass(frozen=True)
class Challenge:
    """A picture that is to be sent.

    Attributes:
        name: different for every challenge; it decides what is drawn of the picture.
        image: path of its file.
        label: the truth.
        group: what the image is dependent on.
    """

    name: str
    image: Path
    label: int
    group: str


@dataclass(frozen=True)
class Exchange:
    """One request as the validator saw it.

    Attributes:
        name: of the challenge.
        image: path of the image.
        label: the truth.
        group: what the image is dependent on.
        sha256: of the bytes that were sent; empty if it is not known.
        replied: the miner sent a reply, whatever it says.
        status: HTTP status, or what a dendrite puts in its place; 0 if nothing is known.
        message: what the status says in words.
        prediction: the answer, None if nothing came.
        ms: time until it came.
        bundle: bundle that answered by the header of the answer; empty if it names none.
    """

    name: str
    image: str
    label: int
    group: str
    sha256: str = ""
    replied: bool = False
    status: int = 0
    message: str = ""
    prediction: float | None = None
    ms: float = 0.0
    bundle: str = ""

    @property
    def scored(self) -> float:
        """What the validator scores: the prediction, or -1 if none came."""
        return NO_ANSWER if self.prediction is None else self.prediction

    @property
    def answered(self) -> bool:
        """A probability came back."""
        return 0 <= self.scored <= 1

    @property
    def shown(self) -> float | None:
        """The prediction where it is a finite number."""
        return self.prediction if self.prediction is not None and math.isfinite(self.prediction) else None


def target_of(url: str, hotkey: str) -> Target:
    """The miner at a URL.

    Args:
        url: `http://HOST:PORT`; the scheme and the port may be left out.
        hotkey: its ss58 address.

    Raises:
        SettingsError: it is no such URL.
    """
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError as error:
        raise SettingsError(f"--miner {url}: {error}") from error
    if parts.scheme != "http" or not host or parts.path.strip("/") or parts.query or parts.username:
        raise SettingsError(f"--miner {url}: give http://HOST:PORT, as a validator reads it from the chain")
    return Target(f"[{host}]" if ":" in host else host, port, hotkey)
