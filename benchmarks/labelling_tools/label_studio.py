"""A real Label Studio: its server with SQLite in a directory of its own, and its API."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOKEN = "0123456789abcdef0123456789abcdef01234567"
USER, PASSWORD = "cascade@example.org", "labelling-tools"
START_S, ASK_S, TOLD_BYTES = 600.0, 120.0, 2000


class LabelStudioServer:
    """Its API.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, method: str, path: str, body: object = None) -> bytes:
        """One request as the user; the body as JSON.

        Raises:
            RuntimeError: it was refused; has the reply.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=ASK_S) as reply:
                content: bytes = reply.read()
        except urllib.error.HTTPError as error:
            told = error.read()[:TOLD_BYTES].decode(errors="replace")
            raise RuntimeError(f"{method} {path}: {error.code} {told}") from error
        return content

    def json(self, method: str, path: str, body: object = None) -> Any:
        """The reply of a request, as JSON."""
        return json.loads(self.ask(method, path, body))

    def project_of(self, export: Path) -> int:
        """A project of an export of `cascade harvest`: its labelling config, its pictures as local storage, its tasks.

        Returns:
            The project's id.
        """
        config = (export / "labelling_config.xml").read_text()
        project: int = self.json("POST", "/api/projects", {"title": "harvest", "label_config": config})["id"]
        storage = {"project": project, "path": str((export / "images").resolve()), "use_blob_urls": True}
        self.json("POST", "/api/storages/localfiles", storage)
        self.json("POST", f"/api/projects/{project}/import", json.loads((export / "tasks.json").read_text()))
        return project

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """The tasks of a project."""
        found: dict[str, Any] = self.json("GET", f"/api/tasks?project={project}&page_size=1000&fields=all")
        return list(found["tasks"])

    def choose(self, task: int, choice: str) -> None:
        """Annotate a task as the page does."""
        result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
        self.json("POST", f"/api/tasks/{task}/annotations", {"result": [result]})

    def exported(self, project: int, kind: str) -> bytes:
        """An export of a project: `JSON`, `JSON_MIN` or `CSV`."""
        return self.ask("GET", f"/api/projects/{project}/export?exportType={kind}&download_all_tasks=true")


@contextmanager
def label_studio(python: Path, data: Path, document_root: Path, port: int) -> Iterator[LabelStudioServer]:
    """A server that has started; it is ended afterwards.

    Args:
        python: the interpreter of its environment.
        data: directory of its database.
        document_root: below which files may be served.
        port: on loopback.

    Raises:
        RuntimeError: it does not start.
    """
    data.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(document_root.resolve()),
        # Nothing is sent anywhere.
        "COLLECT_ANALYTICS": "False",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LATEST_VERSION_CHECK": "False",
    }
    command = [str(python.with_name("label-studio")), "start", "-b", "--data-dir", str(data)]
    command += ["--username", USER, "--password", PASSWORD, "--user-token", TOKEN, "--enable-legacy-api-token"]
    with (data / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "-p", str(port), "--internal-host", "127.0.0.1"], stdout=log, stderr=log, env=environment
        )
        try:
            server = LabelStudioServer(f"http://127.0.0.1:{port}")
            _wait(server, process, data / "server.log")
            yield server
        finally:
            process.terminate()
            process.wait(30)


def _wait(server: LabelStudioServer, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            server.ask("GET", "/api/version")
        except (OSError, RuntimeError):
            time.sleep(1)
        else:
            return
    raise RuntimeError(f"Label Studio did not start: {log.read_text(errors='replace')[-TOLD_BYTES:]}")
