"""The address of a server, as settings name it."""

from __future__ import annotations

from urllib.parse import urlsplit

WRITE_URL = "write http://HOST:PORT or https://HOST"


def checked_address(url: str, *, instead: str) -> str:
    """An address without the stroke at its end.

    Args:
        url: as it was written.
        instead: of a name or a password in it: what to do.

    Raises:
        ValueError: it is none, or has more than a host, a port and a path. It is not told, for it may hold a password.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"not an address of a server: {WRITE_URL}") from error
    if "@" in parts.netloc:
        raise ValueError(f"an address with a name or a password in it would be in the log: {instead}")
    more = parts.query or parts.fragment or " " in url or not url.isprintable()
    if parts.scheme not in {"http", "https"} or not host or more:
        raise ValueError(f"not an address of a server: {WRITE_URL}")
    return url.rstrip("/")
