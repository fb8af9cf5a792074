"""A backbone from the hub: what is asked for, and of whom."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.support.http_server import serve_beside

ROOT = Path(__file__).parents[3]
CONFIG = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
COMMIT = "a" * 40
ABOUT = json.dumps({"id": "somebody/model", "private": False, "sha": COMMIT, "siblings": []}).encode()
FILES = {"config.json": json.dumps(CONFIG).encode(), "pytorch_model.bin": b"no weights"}


class Hub(BaseHTTPRequestHandler):
    """A hub with one model, whose weights are not in safetensors."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, *, with_content: bool) -> None:
        self.asked.append((self.path, self.headers["User-Agent"]))
        path = self.path.partition("?")[0]
        known = {f"/api/models/somebody/model{at}": ABOUT for at in ("", "/revision/main")}
        for at in ("main", COMMIT):
            known |= {f"/somebody/model/resolve/{at}/{name}": file for name, file in FILES.items()}
        content = known.get(path)
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", '"b"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if with_content and content is not None:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.asked.clear()
    thread = serve_beside(server)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_of_a_backbone_without_safetensors_nobody_is_told(hub: str, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    where = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    undone = {"DISABLE_SAFETENSORS_CONVERSION": "0", "HF_HUB_DISABLE_TELEMETRY": "0", "DO_NOT_TRACK": "0"}
    child = [sys.executable, str(Path(__file__).with_name("hub_child.py"))]
    done = subprocess.run(child, env=kept | where | undone, capture_output=True, text=True, check=True, timeout=120)
    assert "the backbone 'somebody/model' has" in done.stdout
    assert "no weights in safetensors" in done.stdout
    paths = [path for path, _ in Hub.asked]
    # What somebody proposes to its owner is neither looked for nor made.
    assert any(path.endswith("/model.safetensors") for path in paths)
    assert [path for path in paths if "discussions" in path or "refs" in path] == []
    assert all("telemetry/off" in agent or "torch/" not in agent for _, agent in Hub.asked)
