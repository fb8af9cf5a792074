"""Asking the administrator's endpoint of a miner on this machine."""

from __future__ import annotations

import http.client
import json
from typing import Any

MOST_BYTES = 4 * 2**20
ASK_S = 10.0


def asked(port: int, path: str, timeout_s: float = ASK_S) -> str:
    """What the endpoint answers.

    Args:
        port: where it listens on the loopback interface.
        path: what is asked for, such as `/status`.
        timeout_s: the longest wait.

    Raises:
        OSError: nobody listens, or gives no answer in time.
        http.client.HTTPException: it does not speak HTTP.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().read(MOST_BYTES).decode(errors="replace")
    finally:
        connection.close()


def readiness(port: int) -> dict[str, Any] | None:
    """What a miner with an endpoint on a port says of itself at `/readyz`; None where no miner answers."""
    try:
        told: Any = json.loads(asked(port, "/readyz"))
        return told if {"ready", "conditions", "state", "ports"} <= told.keys() else None
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        return None
