"""No disk on the event loop of a running miner: one that hangs would keep every validator from an answer."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from engines.store.bundle import Provenance
from engines.store.store import Store
from miner.start_checks import LOCK
from tests.miner.test_process import (
    LIMIT_S,
    NOW,
    Miner,
    home,
    offline_settings,
    picture,
    stage2_says,
    stage2_table,
    stocked,
    until,
)
from tests.support.ports import free_port
from tests.support.stage2_servers import served

__all__ = ["home", "stocked"]


class Guarded(Miner):
    """A running `cascade mine` that writes down what its event loop touches."""

    @property
    def touched(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in (self.home / "touched").read_text().splitlines()]

    def asked_admin(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", int(str(self.settings()["admin.port"])), timeout=LIMIT_S)
        connection.request(method, path, headers={"x-cascade-admin": "1"})
        reply = connection.getresponse()
        told = reply.status, reply.read()
        connection.close()
        return told


@pytest.fixture
def words(stocked: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Settings of a miner in which everything is on that keeps something on a disk."""
    data = stocked / "data"
    data.mkdir()
    monkeypatch.setenv("NOBODY_THERE", "http://127.0.0.1:9/hook")
    settings = offline_settings(stocked, free_port()) | {
        "harvest.enabled": "true",
        "harvest.random_share": 1,
        "live_risk.enabled": "true",
        "alerts.url_env": "NOBODY_THERE",
        "alerts.ping_env": "NOBODY_THERE",
        "retrain.data": data,
        "retrain.enabled": "true",
        "retrain.workspace": stocked / "workspace",
    }
    return [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]


def test_the_event_loop_of_a_miner_touches_no_disk(
    stocked: Path,
    words: list[str],
    tiny_engine: Path,
    write_bundle_files: Callable[..., Path],
    provenance: Provenance,
) -> None:
    green = stocked / "green.jpg"
    # Of neither class, so that it is handed on.
    Image.new("RGB", (32, 32), (0, 255, 0)).save(green, "JPEG", quality=75)
    files = write_bundle_files(stocked / "second", engine=tiny_engine, note="second night")
    store, file = Store(stocked / "store"), stocked / "cascade.toml"
    server = stage2_says(0.9)
    with served(server):
        file.write_text(stage2_table(first=server) + "[stage2]\nbudget = {calls = 100}\n")
        command = [sys.executable, "-m", "tests.support.loop_guard", str(stocked), str(stocked / "touched")]
        with (stocked / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "mine", "--config", str(file), *words], stderr=log, cwd=Path(__file__).parents[2]
            )
        port = int(words[words.index(next(w for w in words if w.startswith("axon.port=")))].partition("=")[2])
        miner = Guarded(process, stocked, port, (stocked / "address").read_text(), store)
        try:
            until(lambda: miner.saw("ready"))
            (stocked / "touched.on").touch()
            assert [one["status_code"] for one in miner.ask(picture(stocked / "road.jpg", (0, 255, 255)), green)] == [
                200,
                200,
            ]
            second = store.publish(files, provenance)
            store.activate(second, now=NOW)
            until(lambda: miner.saw("bundle_live", bundle=second))
            for path in ("/status", "/metrics", "/readyz", "/", "/page/page.js", "/history.json"):
                assert miner.asked_admin("GET", path)[0] in {200, 404}, path
            assert miner.asked_admin("POST", "/rollback")[0] == 200
            assert miner.asked_admin("POST", "/reload")[0] == 200
            file.write_text(stage2_table(first=server) + "[stage2]\nbudget = {calls = 50}\n[alerts]\nslow_s = 5\n")
            process.send_signal(signal.SIGHUP)
            until(lambda: len(miner.events("settings_taken")) >= 1)
            miner.ask(green)
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == 0, (stocked / "log").read_text()
        finally:
            process.kill()
            process.wait()
    # The lock of the state directory goes with the process: it is the last thing that is let go.
    assert [one for one in miner.touched if not one["on"].endswith(LOCK)] == []
