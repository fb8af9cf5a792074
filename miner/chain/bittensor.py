"""One endpoint of the chain through bittensor, in a process of its own; see `miner.chain.worker`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from miner.chain.child import WorkerChild
from miner.chain.port import ChainSnapshot
from miner.chain.settings import ChainSettings, WalletSettings, endpoint_name
from miner.chain.worker import Call, LogFormat, Publication, Reply
from miner.errors import AddressUnknown, ChainError, ChainUnavailable, NotRegistered, ServeRefused
from miner.logs import LogSettings

log = structlog.get_logger(__name__)

CLOSE_S = 2.0
REFUSED: dict[str, type[ChainError]] = {
    "not_registered": NotRegistered,
    "serve_refused": ServeRefused,
    "no_address": AddressUnknown,
}


class BittensorChain:
    """A `ChainPort` over a worker process, which is started with the first call and again after it was ended.

    The SDK keeps some memory with every reading. A worker that has grown too much, or is old, is replaced without a
    gap: the next one gives the next snapshot, and only then does the old one end. If the next one fails, the old one
    stays and gives the snapshot, so that this call may take the deadline twice.

    Args:
        endpoint: WebSocket URL or name of a network.
        chain: which subnet, the longest wait for one call, the start of the worker included, and when to replace it.
        wallets: of the hotkeys (ss58 addresses) whose addresses are published.
        logs: how much the worker tells, and how.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        endpoint: str,
        chain: ChainSettings,
        wallets: Mapping[str, WalletSettings] | None = None,
        *,
        logs: LogSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = endpoint_name(endpoint)
        self._endpoint = endpoint
        self._chain = chain
        self._wallets = dict(wallets or {})
        self._arguments = _arguments(endpoint, chain, logs or LogSettings())
        self._clock = clock
        self._worker: WorkerChild | None = None
        self._successor: WorkerChild | None = None
        self._failed_successors = 0
        self._successor_after = 0
        self._one_at_a_time = asyncio.Lock()

    async def snapshot(self) -> ChainSnapshot:
        """See `ChainPort.snapshot`."""
        reply = await self._call(Call())
        return ChainSnapshot(reply.block, reply.neurons, self._clock(), self.name)

    async def block_time(self) -> float | None:
        """See `ChainPort.block_time`."""
        return (await self._call(Call(clock=True))).block_time

    async def serve(self, hotkey: str, ip: str, port: int) -> None:
        """See `ChainPort.serve`."""
        wallet = self._wallets[hotkey]
        names = (wallet.name, wallet.hotkey, str(wallet.path.expanduser()))
        await self._call(Call(publication=Publication(hotkey=hotkey, wallet=names, ip=ip, port=port)))

    async def close(self) -> None:
        """End the worker; a call it is busy with fails."""
        if self._one_at_a_time.locked():
            for worker in (self._worker, self._successor):
                if worker is not None:
                    worker.kill()
        async with self._one_at_a_time:
            await self._discard_worker(grace_s=CLOSE_S)

    async def _call(self, call: Call) -> Reply:
        async with self._one_at_a_time:
            reply = await self._by_successor(call) if self._is_due(call) else None
            reply = reply or await self._by_worker(call)
        if reply.failure == "unavailable":
            raise self._unavailable(call, f"failed: {reply.message}")
        if reply.failure is not None:
            raise REFUSED[reply.failure](f"{self._where}: {self._without_keys(reply.message)}")
        return reply

    async def _by_worker(self, call: Call) -> Reply:
        try:
            async with asyncio.timeout(self._chain.deadline_s):
                worker = self._worker or await self._start()
                return await worker.ask(call)
        except TimeoutError:
            await self._discard_worker()
            raise self._unavailable(call, f"gave no answer within {self._chain.deadline_s:g} s") from None
        except (OSError, ValueError) as error:
            await self._discard_worker()
            raise self._unavailable(call, f"cannot be asked: {error}") from error
        except asyncio.CancelledError:
            # Its reply would be taken for the answer to the next call.
            await asyncio.shield(self._discard_worker())
            raise

    async def _start(self) -> WorkerChild:
        self._worker = await WorkerChild.start(self._arguments)
        log.debug("chain_worker_started", pid=self._worker.pid)
        return self._worker

    async def _discard_worker(self, grace_s: float = 0.0) -> None:
        worker, self._worker = self._worker, None
        self._failed_successors = self._successor_after = 0
        if worker is not None:
            await worker.end(grace_s)

    def _is_due(self, call: Call) -> bool:
        worker = self._worker
        if worker is None or call != Call() or worker.answered < self._successor_after:
            return False
        return worker.answered >= self._chain.worker_calls or worker.grown_mib >= self._chain.worker_growth_mib

    async def _by_successor(self, call: Call) -> Reply | None:
        """The answer of a new worker, which is in the place of the old one then; None if the old one stays."""
        reason = f"it gave no answer within {self._chain.deadline_s:g} s"
        try:
            async with asyncio.timeout(self._chain.deadline_s):
                self._successor = await WorkerChild.start(self._arguments)
                reply = await self._successor.ask(call)
            if reply.failure is None:
                await self._succeed()
                return reply
            reason = reply.message
        except TimeoutError:
            pass
        except (OSError, ValueError) as error:
            reason = str(error)
        finally:
            successor, self._successor = self._successor, None
            if successor is not None:
                await asyncio.shield(successor.end())
        self._keep_worker(reason)
        return None

    async def _succeed(self) -> None:
        old, successor = self._worker, self._successor
        assert old is not None
        assert successor is not None
        log.info(
            "chain_worker_replaced",
            pid=old.pid,
            answered=old.answered,
            grown_mib=round(old.grown_mib),
            by=successor.pid,
        )
        self._worker, self._successor = successor, None
        self._failed_successors = self._successor_after = 0
        await asyncio.shield(old.end(CLOSE_S))

    def _keep_worker(self, reason: str) -> None:
        worker = self._worker
        if worker is None:
            return
        self._failed_successors += 1
        calls = 2 ** min(self._failed_successors, 10)
        self._successor_after = worker.answered + calls
        log.warning(
            "chain_worker_kept",
            pid=worker.pid,
            grown_mib=round(worker.grown_mib),
            reason=self._without_keys(reason),
            consequence=f"a worker that should take its place failed; the next is tried after {calls} more calls",
            remedy="look at free memory, at the endpoint, and whether `import bittensor` works",
        )

    @property
    def _where(self) -> str:
        return f"chain endpoint {self.name}, netuid {self._chain.netuid}"

    def _without_keys(self, message: str) -> str:
        return message.replace(self._endpoint, self.name)

    def _unavailable(self, call: Call, what: str) -> ChainUnavailable:
        advice = "check the network connection and the endpoint, or try another endpoint"
        return ChainUnavailable(f"{self._where}: {call.op} {self._without_keys(what)}; {advice}")


def _arguments(endpoint: str, chain: ChainSettings, logs: LogSettings) -> list[str]:
    log_format: LogFormat = "auto" if logs.json_lines is None else "json" if logs.json_lines else "text"
    options = {
        "network": endpoint,
        "netuid": str(chain.netuid),
        "log-level": logs.level,
        "log-format": log_format,
    }
    return [f"--{name}={value}" for name, value in options.items()]
