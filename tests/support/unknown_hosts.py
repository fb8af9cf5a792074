"""Host names that nobody knows, wherever the tests run."""

from __future__ import annotations

import socket
from typing import Any

import pytest


def unknown_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name below `.invalid` is unknown at once; a resolver that cannot be reached takes half a minute to say so."""
    look_up = socket.getaddrinfo

    def found(host: Any, *given: Any, **more: Any) -> Any:
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *given, **more)

    monkeypatch.setattr(socket, "getaddrinfo", found)
