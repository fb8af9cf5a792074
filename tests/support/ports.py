"""Ports for somebody who is told a number and listens later."""

from __future__ import annotations

import itertools
import os
import socket

# Below those that a system gives to connections, of which one would take the port before whoever is to listen on it.
FIRST, AFTER_LAST = 10_000, 30_000
# Test processes beside each other begin far apart.
_numbers = itertools.count(97 * os.getpid())


def free_port() -> int:
    """A TCP port on which nobody listens, and which this process has given to nobody for a long time."""
    while True:
        port = FIRST + next(_numbers) % (AFTER_LAST - FIRST)
        with socket.socket() as one:
            try:
                one.bind(("", port))
            except OSError:
                continue
            return port
