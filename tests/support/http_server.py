"""HTTP servers of the standard library beside a test."""

from __future__ import annotations

import threading
from socketserver import BaseServer


def serve_beside(server: BaseServer) -> threading.Thread:
    """Serve in a thread until `shutdown`, which would wait for half a second with the library's own interval."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    return thread
