"""A node of the chain on this machine that answers a real SDK from a recording, and fails in the ways that nodes do.

By hand, for a subnet of 1,024 neurons: `python -m tests.support.chain_replay --port 19944`, and in another terminal
`cascade doctor --set chain.endpoint=ws://127.0.0.1:19944 --set chain.netuid=1`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import lzma
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.exceptions import ConnectionClosed

RECORDING = Path(__file__).parent / "recorded_chain" / "replies.json.xz"
NETUID, BLOCK, NEURONS = 1, 6_852_690, 1_024
NOT_RECORDED = {"code": -32601, "message": "this was not recorded"}


@cache
def recorded() -> dict[str, dict[str, Any]]:
    """Results by method, then by parameters as JSON."""
    replies: dict[str, dict[str, Any]] = json.loads(lzma.decompress(RECORDING.read_bytes()))
    return replies


@dataclass
class ChainReplay:
    """Faults may be set and taken back while it serves.

    Attributes:
        mute: connections are accepted, and nothing is answered.
        drop_every: every so many replies the connection is cut in place of the reply; 0 for never.
        delay_s: how long each reply is held back.
        stuck: the block stays the same; otherwise each question for the latest block finds the next one.
        ahead: how many blocks this node is past the recorded one.
        extra: replies (`result` or `error`) in place of recorded ones, by how the method and its parameters begin.
        questions: every method that was asked, oldest first.
    """

    mute: bool = False
    drop_every: int = 0
    delay_s: float = 0.0
    stuck: bool = False
    ahead: int = 0
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[str]:
        """Serve on the loopback.

        Args:
            port: TCP port, 0 for any that is free.

        Yields:
            The URL.
        """
        async with serve_websocket(self._connection, "127.0.0.1", port, max_size=None, close_timeout=1) as server:
            yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"

    async def _connection(self, connection: ServerConnection) -> None:
        # A worker that is killed says no goodbye.
        with contextlib.suppress(ConnectionClosed):
            async for text in connection:
                await self._answer(connection, json.loads(text))

    async def _answer(self, connection: ServerConnection, question: dict[str, Any]) -> None:
        self.questions.append(question["method"])
        if self.mute:
            return
        if self.drop_every and len(self.questions) % self.drop_every == 0:
            connection.transport.abort()
            return
        await asyncio.sleep(self.delay_s)
        await connection.send(json.dumps({"jsonrpc": "2.0", "id": question["id"], **self._reply(question)}))

    def _reply(self, question: dict[str, Any]) -> dict[str, Any]:
        method, parameters = question["method"], json.dumps(question["params"])
        for asked, reply in self.extra.items():
            if f"{method} {' '.join(map(str, question['params']))}".startswith(asked):
                return dict(reply)
        results = recorded().get(method, {})
        if method == "chain_getBlockHash":
            return {"result": next(iter(results.values()))}
        if method == "chain_getHeader" and parameters in results:
            self.ahead += parameters == "[null]" and not self.stuck
            return {"result": {**results[parameters], "number": hex(BLOCK + self.ahead)}}
        return {"result": results[parameters]} if parameters in results else {"error": NOT_RECORDED}


async def _serve(options: argparse.Namespace) -> None:
    faults = {name: value for name, value in vars(options).items() if name != "port"}
    async with ChainReplay(**faults).listening(options.port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=19944)
    parser.add_argument("--mute", action="store_true", help="accept connections and answer nothing")
    parser.add_argument("--drop-every", type=int, default=0, help="cut the connection in place of every n-th reply")
    parser.add_argument("--delay-s", type=float, default=0.0, help="hold each reply back")
    parser.add_argument("--stuck", action="store_true", help="stay at one block")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))
