"""An engine that servers compute: the one with the fewest batches under way is asked, and one that fails is left out.

It is made for one bundle, and every request names the version that this bundle is. So a batch never mixes bundles,
whatever else a server holds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from engines.batches import buckets
from engines.engine import EngineDescription, ServerStatus
from engines.errors import (
    EXPECTED,
    InferenceError,
    NotThereYet,
    ParityError,
    RemoteError,
    Unavailable,
)
from engines.live.remote.last_resort import LastResort
from engines.live.remote.network import Network
from engines.live.remote.seat import Asked, Seat
from engines.live.remote.settings import ATTEMPTS, RemoteSettings
from engines.machine.tally import Tally
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

log = structlog.get_logger(__name__)

# Between two attempts of a server that may not answer; each takes golden images through it.
LONGEST_PAUSE_S = 60.0


class RemoteEngine:
    """An engine that servers compute for this process.

    Args:
        seats: makes the servers, each of which calls what it is given when it may answer.
        asked: what the bundle wants of them.
        network: where they are asked.
        last_resort: computes where none may.
        settings: how they are asked.
        waits: whether another bundle serves meanwhile, so that this one can wait for servers that lack it.
        on_close: told when it is closed.
    """

    def __init__(
        self,
        seats: Callable[[Callable[[], None]], Sequence[Seat]],
        asked: Asked,
        network: Network,
        last_resort: LastResort,
        settings: RemoteSettings,
        *,
        waits: bool = False,
        on_close: Callable[[RemoteEngine], None] = lambda _: None,
    ) -> None:
        self._seats, self._asked, self._network = tuple(seats(self._rise)), asked, network
        self._last_resort, self._settings, self._waits = last_resort, settings, waits
        self._on_close = on_close
        self._sizes: tuple[int, ...] = buckets(1)
        self._turn = 0
        # Set when a server may answer; made anew by whoever waits for that.
        self._risen = asyncio.Event()
        self._order = {id(seat): 0 for seat in self._seats}
        self._watches: list[Future[None]] = []
        # Loads the last resort beside those that wait for a server.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="stage1-last-resort")
        self._preparing: Future[None] | None = None
        self._not_prepared = Tally("stage1_not_computed_here")
        self._closed = False

    @property
    def version(self) -> str:
        """That the bundle is."""
        return self._asked.version

    @property
    def servers(self) -> tuple[ServerStatus, ...]:
        """See `ServedElsewhere.servers`."""
        return tuple(seat.status for seat in self._seats)

    @property
    def own_batches(self) -> int:
        """See `ServedElsewhere.own_batches`."""
        return self._last_resort.batches

    def infer(self, batch: Pixels) -> Stage1Outputs:
        """See `Engine.infer`: by a server, by another one if that fails, and by this process if none may.

        Raises:
            InferenceError: nobody could compute it, or the engine is closed.
            BundleRefused: no server may, and the engine of this process cannot be loaded.
        """
        if self._closed:
            raise InferenceError("the engine is closed")
        found = self._network.run(self._asked_in_turn(batch))
        if isinstance(found, Stage1Outputs):
            return found
        if not self._last_resort.allowed:
            raise InferenceError(f"no server answered: {'; '.join(found) or self._why()}")
        return self._last_resort.infer(batch)

    def warm_up(self, most: int) -> None:
        """Take the golden images through every server at every size of batch, and watch the servers from then on.

        Args:
            most: images of the largest batch.

        Raises:
            ParityError: those that answered did so otherwise than the engine of the bundle, and none may serve it.
            NotThereYet: none has the bundle, and another one serves meanwhile.
            BundleRefused: none may serve it, nor can this process.
        """
        self._sizes = buckets(most)
        self._network.run(self._gate_all())
        if not self._up():
            self._without_servers()
        elif self._settings.last_resort == "loaded":
            self._last_resort.load()
        self._watches = [self._network.begin(self._watch(seat)) for seat in self._seats]

    def close(self) -> None:
        """See `Engine.close`."""
        if self._closed:
            return
        self._closed = True
        for watch in self._watches:
            watch.cancel()
        self._loader.shutdown(wait=True, cancel_futures=True)
        self._last_resort.close()
        self._on_close(self)

    def describe(self) -> EngineDescription:
        """See `Engine.describe`."""
        up, own = self._up(), self._last_resort.engine
        told = f"{len(up)} of {len(self._seats)} servers"
        if not up and own is not None:
            told += f", {own.describe().runtime} here"
        details = {seat.url: seat.state if not seat.reason else f"{seat.state}: {seat.reason}" for seat in self._seats}
        return EngineDescription(self._asked.spec, told, self._asked.shape, 0, details)

    def _up(self) -> list[Seat]:
        return [seat for seat in self._seats if seat.state == "up"]

    def _why(self) -> str:
        return "; ".join(f"{seat.url}: {seat.reason}" for seat in self._seats if seat.state != "up")

    def _without_servers(self) -> None:
        """No server may answer at the start: what that means for the bundle."""
        if any(seat.state == "refused" for seat in self._seats):
            raise ParityError(f"no server computes this bundle as its engine does: {self._why()}")
        if self._waits and any(seat.absent for seat in self._seats):
            raise NotThereYet(f"no server has version {self.version} of {self._asked.model} yet: {self._why()}")
        if not self._last_resort.allowed:
            raise Unavailable(f"no server may answer: {self._why()}")
        self._last_resort.load()

    async def _gate_all(self) -> None:
        await asyncio.gather(*(seat.gate(self._sizes) for seat in self._seats))

    async def _asked_in_turn(self, batch: Pixels) -> Stage1Outputs | list[str]:
        """The outputs, or why each server that was asked has none."""
        loop = asyncio.get_running_loop()
        until = loop.time() + ATTEMPTS * self._settings.timeout_s
        asked, told = list[Seat](), list[str]()
        while len(told) < ATTEMPTS and (left := until - loop.time()) > 0:
            seat = self._next(asked)
            if seat is None and not self._last_resort.allowed:
                seat = await self._awaited(asked, left)
            if seat is None:
                break
            asked.append(seat)
            try:
                return await seat.infer(batch, min(self._settings.timeout_s, until - loop.time()))
            except RemoteError as error:
                told.append(str(error))
        return told

    async def _awaited(self, asked: Sequence[Seat], timeout_s: float) -> Seat | None:
        """The next server that may answer, where nobody else is left: one that was too slow, or one that comes back."""
        late = [seat for seat in self._seats if seat.state == "late" and seat not in asked]
        if late:
            return min(late, key=lambda seat: seat.in_flight)
        self._risen.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._risen.wait()
        return self._next(())

    def _rise(self) -> None:
        self._risen.set()

    def _next(self, asked: Sequence[Seat]) -> Seat | None:
        """The server with the fewest batches under way; of several the one that was asked least lately."""
        free = [seat for seat in self._seats if seat.state == "up" and seat not in asked]
        if not free:
            return None
        found = min(free, key=lambda seat: (seat.in_flight, self._order[id(seat)]))
        self._turn += 1
        self._order[id(found)] = self._turn
        return found

    async def _watch(self, seat: Seat) -> None:
        """Look at a server now and then while it may answer, and try it again while it may not; for ever."""
        pause = 0.0
        while True:
            if seat.state == "up":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.look_s):
                        await seat.failed.wait()
                pause = 0.0
            else:
                await asyncio.sleep(pause)
            self._prepare_without()
            try:
                if seat.state in {"up", "late"}:
                    await seat.look()
                    continue
                await seat.gate(self._sizes)
            except Exception as error:
                # The edge to what a server may send: one that nobody looks at any more would answer for ever, or never.
                log.exception("stage1_server_not_looked_at", server=seat.url, version=self.version)
                seat.fail(error)
            longer = min(LONGEST_PAUSE_S, 2 * pause) if seat.state == "refused" else 0.0
            pause = max(self._settings.look_s, longer)

    def _prepare_without(self) -> None:
        """Load the last resort in good time, if no server is left."""
        if self._up() or not self._last_resort.allowed or self._last_resort.engine is not None or self._closed:
            return
        if self._preparing is not None and not self._preparing.done():
            return
        with contextlib.suppress(RuntimeError):
            self._preparing = self._loader.submit(self._load_quietly)

    def _load_quietly(self) -> None:
        try:
            self._last_resort.load()
        except EXPECTED as error:
            # Whoever asks hears of it as well.
            self._not_prepared.add(type(error).__name__, f"{error}; it is tried again", version=self.version)
