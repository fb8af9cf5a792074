"""A miner that does whatever a test wants, behind a real HTTP server: it notes down what a validator sends."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.http_server import serve_beside


@dataclass
class AxonPeer:
    """Status and body of each reply come from a function of the number of the request.

    Attributes:
        port: where it listens.
        images: every image that came, in order.
        bodies: the other fields of each request.
        headers: of each request.
        paths: of each request.
    """

    port: int
    images: list[bytes] = field(default_factory=list)
    bodies: list[dict[str, object]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


# Of the number of the request: status and body, or None to close the connection.
Reply = Callable[[int], tuple[int, str] | None]


@contextmanager
def axon_peer(reply: Reply) -> Iterator[AxonPeer]:
    """Serve on a free port of this machine."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(peer.images)
                peer.images.append(base64.b64decode(body.pop("image")))
                peer.bodies.append(body)
                peer.headers.append({name.lower(): value for name, value in self.headers.items()})
                peer.paths.append(self.path)
            said = reply(number)
            if said is None:
                self.close_connection = True
                return
            status, text = said
            content = text.encode()
            # The validator may have gone.
            with suppress(ConnectionError):
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    peer = AxonPeer(server.server_port)
    thread = serve_beside(server)
    try:
        yield peer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
