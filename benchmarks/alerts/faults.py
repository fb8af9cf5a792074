"""The world around a miner that tells of its faults, and everything in it that can be broken and mended."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.alerts.receiver import Receiver
from benchmarks.made_bundles import SIZE_PX, linear, publish
from benchmarks.serving.callers import Caller, body_of
from benchmarks.serving.client import closed_loop
from benchmarks.serving.miner import UNLIMITED, Home, free_port, text_of
from miner.chain.offline import ChainFile
from miner.nights.record import VERDICT, Nights, NightVerdict, noted

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "support" / "pynvml_stand_in.py"
GIB = 2**30
# What one validator sends in ten minutes is one place to the watch on the certificate: each of these is another.
CALLERS = 60
# Between what is free and where the alarm is, and what the disk is filled with.
MARGIN_GIB, FILL_GIB = 8.0, 14.0
STAGE2 = '''
import asyncio, json
from pathlib import Path
from stage2_bridge import Stage2Error


class Server:
    """Says roadwork of every image; as slow as its file says, and broken if it says so."""

    def __init__(self, name, file):
        self.name, self._file = name, Path(file)

    async def ask(self, content, timeout_s):
        told = json.loads(self._file.read_text())
        await asyncio.sleep(told["delay_s"])
        if told["broken"]:
            raise Stage2Error("it is broken")
        return 0.98

    async def close(self):
        pass
'''
GPU = {"name": "NVIDIA H200", "temperature": 45, "slowdown": 89, "events": 8, "recovery": 0, "ecc": [0, 0]}
# The made engine scores red against blue, and is the surer the greener an image is.
ROADWORK, ROAD, UNSURE = (190, 200, 60), (60, 200, 190), (120, 45, 120)


class World:
    """A home of a miner with a chain, two bundles, two Stage-2 servers, a GPU and a night that fails.

    Args:
        place: an empty directory.
        receiver: takes what the miner tells.
    """

    def __init__(self, place: Path, receiver: Receiver) -> None:
        self.home = Home.make(place, (1e5,) * CALLERS)
        self.place = place
        self.state = place / "state"
        self.admin = free_port()
        engine, note = linear(place / "engine.onnx", SIZE_PX), place / "note.txt"
        # Another file makes another bundle of the same engine.
        note.write_text("the second")
        self.first = publish(self.home.store, engine, place / "first")
        self.second = publish(self.home.store, engine, place / "second", note)
        self.home.activate(self.first)
        self._whole_chain = (place / "chain.json").read_bytes()
        self._ours = next(name for name, one in ChainFile.read(place / "chain.json").neurons.items() if one.uid == 0)
        (place / "stage2.py").write_text(STAGE2)
        self.stage2()
        # A file of labels that no night can read.
        (place / "data").mkdir()
        (place / "data" / "labels.csv").write_text("image,label\nnowhere.jpg,7\n")
        shutil.copy(STAND_IN, place / "pynvml.py")
        self.gpu()
        os.environ |= {
            "BENCHMARK_HOOK": f"{receiver.url}/hook",
            "BENCHMARK_PING": f"{receiver.url}/ping",
            "PYNVML_STATE": str(place / "gpus.json"),
            "PYTHONPATH": f"{place}:{ROOT}",
        }
        # The last thing that is known of the nights: one failed, long ago.
        begun = datetime.now(UTC) - timedelta(hours=40)
        noted(Nights(self.state).begin(begun), outcome="failed", ended_at=begun, reason="no space left on device")
        self._images = np.random.default_rng(0)
        self._free_gib = shutil.disk_usage(place).free / GIB

    @property
    def settings(self) -> dict[str, Any]:
        """Of the miner; times are short, so that each event comes within minutes."""
        soon = datetime.now(UTC) + timedelta(seconds=100)
        file = str(self.place / "stage2.json")
        servers = [
            {"kind": "python", "name": name, "file": str(self.place / "stage2.py"), "factory": "Server"}
            | {"options": {"name": name, "file": file}}
            for name in ("one", "two")
        ]
        return UNLIMITED | {
            "state": self.state,
            "alerts.url_env": "BENCHMARK_HOOK",
            "alerts.ping_env": "BENCHMARK_PING",
            "alerts.ping_s": 1,
            "alerts.per_hour": 1000,
            "alerts.silent_h": 30 / 3600,
            "alerts.slow_s": 1.0,
            "alerts.deferral_band": "[0.0, 0.5]",
            "alerts.free_gib": self._free_gib - MARGIN_GIB,
            "admin.port": self.admin,
            "chain.refresh_s": 5,
            "chain.deadline_s": 5,
            "stage2.servers": json.dumps(servers),
            "live_risk.audits": "true",
            "live_risk.shares.exit0": 1.0,
            "live_risk.shares.exit1": 0.01,
            "live_risk.second_server": "two",
            "live_risk.audits_per_hour": 100_000,
            "live_risk.reaction": "observe",
            "retrain.enabled": "true",
            "retrain.data": self.place / "data",
            "retrain.workspace": self.place / "workspace",
            "retrain.preset": "tiny",
            "retrain.cron": f"{soon.minute} {soon.hour} * * *",
        }

    # What is broken, and mended.

    def chain(self, *, broken: bool = False, bad: bool = False) -> None:
        """The chain: cannot be read; or burns its emission, while our hotkey is gone."""
        file = self.place / "chain.json"
        if broken:
            file.write_bytes(b"{")
            return
        file.write_bytes(self._whole_chain)
        if bad:
            content = ChainFile.read(file)
            burned = self.home.callers[0].hotkey
            neurons = {
                name: neuron.model_copy(update={"incentive": 1.0} if name == burned else {})
                for name, neuron in content.neurons.items()
                if name != self._ours
            }
            ChainFile(block=content.block + 1, neurons=neurons).write(file)

    def stage2(self, *, delay_s: float = 0.0, broken: bool = False) -> None:
        """Both Stage-2 servers."""
        self._replace("stage2.json", {"delay_s": delay_s, "broken": broken})

    def gpu(self, **changes: Any) -> None:
        """The GPU that the stand-in of the management library tells of."""
        self._replace("gpus.json", {"driver": "580.65.06", "gpus": [GPU | changes]})

    def disk(self, *, full: bool) -> None:
        """The disk, filled with a file that takes room and has no content."""
        file = self.place / "filled"
        file.unlink(missing_ok=True)
        if full:
            with file.open("wb") as opened:
                os.posix_fallocate(opened.fileno(), 0, round(FILL_GIB * GIB))

    def night_succeeds(self) -> None:
        """A night of another process, `cascade nightly`, which shares the state directory, as it records itself."""
        now = datetime.now(UTC)
        home = Nights(self.state).begin(now)
        NightVerdict(at=now, bundle=self.first, verdict="KEEP", reasons=("it is no better",)).write(home / VERDICT)
        noted(home, outcome="done", ended_at=now)

    def roll_back(self) -> int:
        """As the button of the status page does; the status of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=30)
        try:
            connection.request("POST", "/rollback", headers={"x-cascade-admin": "1"})
            return connection.getresponse().status
        finally:
            connection.close()

    # Who asks.

    def ask(self, port: int, colour: Sequence[int], times: int, clients: int = 8) -> None:
        """Permitted requests, each with an image of its own."""
        caller = self.home.callers[0]
        requests = (caller.request(body_of(text_of(self._image(colour)))) for _ in range(times))
        asyncio.run(closed_loop(port, requests, clients))

    def ask_from_everywhere(self, port: int, colour: Sequence[int]) -> None:
        """One image of each permitted caller."""
        requests = [one.request(body_of(text_of(self._image(colour)))) for one in self.home.callers]
        asyncio.run(closed_loop(port, requests, 4))

    def knock(self, port: int) -> None:
        """A few requests of somebody who may not ask."""
        stranger: Caller = self.home.stranger
        body = body_of(text_of(self._image(ROAD)))
        asyncio.run(closed_loop(port, [stranger.request(body) for _ in range(3)], 1))

    @property
    def ours(self) -> str:
        """The hotkey of the miner."""
        return self._ours

    def _image(self, colour: Sequence[int]) -> bytes:
        # Light and dark of its own, so that each is another place; the colour is the same everywhere.
        light = self._images.integers(-35, 36, (8, 8, 1)).repeat(8, axis=0).repeat(8, axis=1)
        pixels = np.array(colour) + light + self._images.integers(-9, 10, (64, 64, 3))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    def _replace(self, name: str, content: dict[str, Any]) -> None:
        whole = self.place / f"{name}.new"
        whole.write_text(json.dumps(content))
        whole.replace(self.place / name)
