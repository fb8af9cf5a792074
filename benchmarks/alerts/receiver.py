"""A receiver of webhooks and of pings on this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """Keeps every message.

    Attributes:
        url: where it listens; below it `hook` takes messages and `ping` counts.
        got: the bodies, in order.
        at: when each came, monotonic seconds.
        pings: when each ping came.
    """

    url: str = ""
    got: list[dict[str, Any]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)

    def conditions(self, condition: str, kind: str) -> list[dict[str, Any]]:
        """Messages about a condition; several of one kind are told apart by what follows the first word."""
        return [
            one
            for one in self.got
            if one["kind"] == kind and str(one["details"].get("condition", "")).startswith(condition)
        ]

    def events(self, kind: str, level: str = "") -> list[dict[str, Any]]:
        """Messages of what happens once."""
        return [one for one in self.got if one["kind"] == kind and (not level or one["level"] == level)]


@contextmanager
def listening() -> Iterator[Receiver]:
    """A receiver, until the block ends."""
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            kept.at.append(time.monotonic())
            self.send_response(200)
            self.end_headers()

        def do_GET(self) -> None:
            kept.pings.append(time.monotonic())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kept.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
