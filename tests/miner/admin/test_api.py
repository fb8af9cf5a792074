"""The administrator's endpoint, over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from engines.live.batcher import Batcher
from engines.live.load.background_loader import EngineOptions
from engines.live.settings import BatchSettings, SwapSettings
from engines.live.swap.follower import StoreFollower
from engines.store.records import VERDICTS, VerdictEntry
from engines.store.store import Store
from miner.admin.api import HEADER, admin_app
from miner.axon.server import AxonServer
from miner.axon.settings import AxonSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Publish = Callable[[str], str]


@asynccontextmanager
async def endpoint(store: Store) -> AsyncIterator[int]:
    follower = StoreFollower(store, settings=SwapSettings(trial=False), options=EngineOptions(threads=1, most=1))
    batcher = Batcher(BatchSettings())
    await follower.start()
    app = admin_app(follower, batcher, lambda: NOW, lambda: {"replies": {200: 3, 403: 1}, "refused": {"replay": 1}})
    server = AxonServer(app, AxonSettings(host="127.0.0.1", port=0), name="admin")
    await server.start()
    try:
        yield server.port
    finally:
        await server.stop(1)
        await follower.close()
        batcher.close()


async def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = {"host": f"127.0.0.1:{port}", "connection": "close", "content-length": "0"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    body = answer.split("\r\n\r\n", 1)[1]
    return int(answer.split()[1]), json.loads(body) if body.startswith("{") else {}


def test_it_tells_reloads_and_rolls_back(store: Store, publish: Publish) -> None:
    async def scenario() -> None:
        first = publish("a")
        async with endpoint(store) as port:
            code, told = await ask(port, "GET", "/status")
            assert (code, told["bundle"], told["generation"]) == (200, first, 1)
            assert told["engine"].startswith("onnxruntime")
            assert (told["policy"], told["stream"]) == ("CERTIFIED", "mixture")
            assert told["history"][0]["state"] == "active"
            assert told["batcher"]["images"] == 0
            assert told["verdict"] is None
            said = {"verdict": "KEEP", "reasons": ("it is no better",), "notes": ("it defers every image",)}
            store.judged(VerdictEntry.model_validate({"bundle": first, "at": "2026-01-01", **said}))
            told = (await ask(port, "GET", "/status"))[1]
            assert {name: told["verdict"][name] for name in said} == {
                "verdict": "KEEP",
                "reasons": ["it is no better"],
                "notes": ["it defers every image"],
            }
            (store.root / VERDICTS).write_text('{"bundle": 1}\n')
            assert (await ask(port, "GET", "/status"))[1]["verdict"] is None
            assert (await ask(port, "POST", "/rollback", x_cascade_admin="1"))[0] == 409
            second = publish("b")
            code, told = await ask(port, "POST", "/reload", x_cascade_admin="1")
            assert (code, told["swapped"], told["bundle"], told["standby"]) == (200, True, second, first)
            code, told = await ask(port, "POST", "/rollback", x_cascade_admin="1")
            assert (code, told["bundle"], told["generation"]) == (200, first, 3)
            pointer = store.current()
            assert pointer is not None
            assert pointer.bundle == first
            # No night makes it current again.
            assert set(store.rejected()) == {second}

    asyncio.run(scenario())


def test_a_page_in_a_browser_can_neither_look_nor_act(store: Store, publish: Publish) -> None:
    async def scenario() -> None:
        publish("a")
        async with endpoint(store) as port:
            code, told = await ask(port, "POST", "/reload")
            assert (code, HEADER in told["error"]) == (403, True)
            assert (await ask(port, "GET", "/status", host=f"evil.example:{port}"))[0] == 403
            assert (await ask(port, "GET", "/reload", x_cascade_admin="1"))[0] == 405
            assert (await ask(port, "GET", "/", x_cascade_admin="1"))[0] == 404

    asyncio.run(scenario())
