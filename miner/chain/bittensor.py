"""The chain through bittensor, in a process of its own; see `miner.chain.worker`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import ValidationError

from miner.chain.port import ChainSnapshot
from miner.chain.settings import ChainSettings, WalletSettings
from miner.chain.worker import Call, LogFormat, Reply
from miner.errors import ChainError, ChainUnavailable, NotRegistered, ServeRefused
from miner.logs import LogSettings

log = structlog.get_logger(__name__)

LONGEST_REPLY = 16 * 1024 * 1024
CLOSE_S = 2.0
REFUSED: dict[str, type[ChainError]] = {"not_registered": NotRegistered, "serve_refused": ServeRefused}
_IMPORT_ROOT = Path(__file__).resolve().parents[2]


class BittensorChain:
    """A `ChainPort` over a worker process, which is started with the first call and again after it was ended.

    Args:
        wallet: whose hotkey publishes the axon's address.
        chain: which endpoint and subnet, and the longest wait for one call, the start of the worker included.
        logs: how much the worker tells, and how.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        wallet: WalletSettings,
        chain: ChainSettings,
        *,
        logs: LogSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._arguments = _arguments(wallet, chain, logs or LogSettings())
        self._where = f"chain endpoint {chain.endpoint or chain.network}, netuid {chain.netuid}"
        self._deadline_s = chain.deadline_s
        self._clock = clock
        self._worker: _Child | None = None
        self._one_at_a_time = asyncio.Lock()

    async def snapshot(self) -> ChainSnapshot:
        """See `ChainPort.snapshot`."""
        reply = await self._call(Call(op="snapshot"))
        return ChainSnapshot(reply.block, reply.neurons, self._clock())

    async def serve(self, ip: str, port: int) -> None:
        """See `ChainPort.serve`."""
        await self._call(Call(op="serve", ip=ip, port=port))

    async def close(self) -> None:
        """End the worker; a call it is busy with fails."""
        worker = self._worker
        if worker is not None and self._one_at_a_time.locked():
            worker.kill()
        async with self._one_at_a_time:
            await self._discard_worker(grace_s=CLOSE_S)

    async def _call(self, call: Call) -> Reply:
        async with self._one_at_a_time:
            try:
                async with asyncio.timeout(self._deadline_s):
                    reply = await self._exchange(call)
            except TimeoutError:
                await self._discard_worker()
                raise self._unavailable(call, f"gave no answer within {self._deadline_s:g} s") from None
            except (OSError, ValueError) as error:
                await self._discard_worker()
                raise self._unavailable(call, f"cannot be asked: {error}") from error
            except asyncio.CancelledError:
                # Its reply would be taken for the answer to the next call.
                await asyncio.shield(self._discard_worker())
                raise
        if reply.failure == "unavailable":
            raise self._unavailable(call, f"failed: {reply.message}")
        if reply.failure is not None:
            raise REFUSED[reply.failure](f"{self._where}: {reply.message}")
        return reply

    async def _exchange(self, call: Call) -> Reply:
        worker = self._worker or await self._start()
        worker.calls.write(call.model_dump_json().encode() + b"\n")
        await worker.calls.drain()
        line = await worker.replies.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError(f"the worker ended with status {await worker.process.wait()}; its log says why")
        try:
            return Reply.model_validate_json(line)
        except ValidationError as error:
            raise ValueError(f"the worker wrote {line[:80]!r}") from error

    async def _start(self) -> _Child:
        # Signals of the terminal are for the miner; the worker ends when its input is closed.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "miner.chain.worker",
            *self._arguments,
            stdin=PIPE,
            stdout=PIPE,
            limit=LONGEST_REPLY,
            env=_environment(),
            start_new_session=True,
        )
        if process.stdin is None or process.stdout is None:
            raise OSError("the worker has no pipes")
        self._worker = _Child(process, process.stdin, process.stdout)
        log.debug("chain_worker_started", pid=process.pid)
        return self._worker

    async def _discard_worker(self, grace_s: float = 0.0) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.end(grace_s)

    def _unavailable(self, call: Call, what: str) -> ChainUnavailable:
        advice = "check the network connection and the endpoint, or try another endpoint"
        return ChainUnavailable(f"{self._where}: {call.op} {what}; {advice}")


@dataclass(frozen=True, slots=True)
class _Child:
    process: Process
    calls: asyncio.StreamWriter
    replies: asyncio.StreamReader

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def end(self, grace_s: float) -> None:
        self.calls.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self.process.wait()
        self.kill()
        await self.process.wait()
        with contextlib.suppress(OSError):
            await self.calls.wait_closed()


def _arguments(wallet: WalletSettings, chain: ChainSettings, logs: LogSettings) -> list[str]:
    log_format: LogFormat = "auto" if logs.json_lines is None else "json" if logs.json_lines else "text"
    options = {
        "network": chain.endpoint or chain.network,
        "netuid": str(chain.netuid),
        "wallet-name": wallet.name,
        "wallet-hotkey": wallet.hotkey,
        "wallet-path": str(wallet.path.expanduser()),
        "log-level": logs.level,
        "log-format": log_format,
    }
    return [f"--{name}={value}" for name, value in options.items()]


def _environment() -> dict[str, str]:
    # The worker imports the same `miner` as we do, wherever it was started.
    paths = [str(_IMPORT_ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "BT_NO_PARSE_CLI_ARGS": "true",
    }
