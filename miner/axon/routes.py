"""The table of routes: under which path, in which form and by which proof validators ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from miner.axon.authenticator import Authenticator
from miner.axon.refusals import NotFound

METHOD = "POST"


class Codec(Protocol):
    """The form of questions and answers."""

    def image_b64(self, body: bytearray) -> str:
        """The image of a question, in base64.

        Raises:
            BadRequest: there is none.
        """
        ...

    def answer(self, probability: float) -> bytes:
        """The body of an answer.

        Args:
            probability: of roadwork, in [0, 1], or -1 if the image cannot be decoded.
        """
        ...

    def refusal(self, message: str) -> bytes:
        """The body of a reply that is no answer.

        Args:
            message: why, in one line.
        """
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table.

    Attributes:
        path: begins with `/`; compared with the path of a request after its percent signs are decoded.
        codec: the form of questions and answers.
        authenticator: how callers prove who they are.
        waits_s: how long a caller waits at most, in seconds, whatever it says; it may say less.
    """

    path: str
    codec: Codec
    authenticator: Authenticator
    waits_s: float


class RouteTable:
    """Finds the row of a request.

    Of the rows with its path, the first that recognises its headers takes it, and the last if none does.

    Args:
        routes: the rows.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        if not routes:
            raise ValueError("a wire needs at least one route")
        self._rows: dict[str, list[Route]] = {}
        for route in routes:
            self._rows.setdefault(route.path, []).append(route)
        self._names = [path.removeprefix("/") for path in self.paths]
        self._others = routes[-1]

    @property
    def paths(self) -> list[str]:
        """Where callers may ask."""
        return list(self._rows)

    @property
    def others(self) -> Route:
        """In whose form a request is refused that has no row."""
        return self._others

    def find(self, method: str, path: str, headers: Mapping[str, str]) -> Route:
        """The row of a request.

        Args:
            method: of the request, in upper case.
            path: of the request, decoded and without its query.
            headers: lower-case names to values.

        Raises:
            NotFound: there is none.
        """
        rows = self._rows.get(path)
        name = path.removeprefix("/")
        if rows is None:
            raise NotFound(name.split("/")[0], self._names)
        if method != METHOD:
            raise NotFound(f"{method} {name}", self._names)
        for route in rows:
            if route.authenticator.recognises(headers):
                return route
        return rows[-1]
