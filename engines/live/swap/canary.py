"""A bundle's first requests after a swap: watched, and rolled back if it is not what its certificate says."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import structlog

from engines.errors import EXPECTED, DeadlineExceeded, InferenceError, ParityError, QueueFull, UnknownBundle
from engines.live.batcher import Batcher
from engines.live.load.golden_check import check_outputs, limits
from engines.live.load.load_bundle import LiveBundle
from engines.live.settings import CanarySettings
from engines.live.slot import BundleSlot
from engines.live.swap.bands import Answered, Counts, looks, out_of_band
from engines.machine.background_tasks import BackgroundTasks, begun_in_thread
from engines.store.bundle import certified_spec
from engines.store.file_names import GOLDEN
from engines.store.golden import read_golden
from engines.store.store import Store

log = structlog.get_logger(__name__)

# Requests of the live bundle that the next one is compared with.
REMEMBERED = 500
# Golden images of one look: few, because they wait with the requests.
GOLDEN_IMAGES, GOLDEN_LOOKS, GOLDEN_S = 8, 4, 60.0
# An image whose deadline is over fails by itself, unless the engine does not come back.
LATE_S = 60.0
# A subnet that asks rarely may never ask so often.
LONGEST_S = 24 * 3600.0
POLL_S = 0.25


@dataclass
class Watched:
    """A bundle whose first requests are watched.

    Attributes:
        bundle: it.
        generation: of it.
        since: monotonic time of the swap.
        before: requests of the bundle before it.
        answered: its own requests.
        images: hashes of what was counted: one image counts once.
        looked: looks that are over.
    """

    bundle: LiveBundle
    generation: int
    since: float
    before: Counts
    answered: list[Answered] = field(default_factory=list)
    images: set[str] = field(default_factory=set)
    looked: int = 0


@dataclass(frozen=True)
class Ruling:
    """What a canary found.

    Attributes:
        bundle: id of the bundle.
        reason: why it was rolled back; empty if it was not.
        counts: its requests.
        seconds: from the swap to the ruling.
        back: whether another bundle serves in its place; False also where there is none.
    """

    bundle: str
    reason: str
    counts: Counts
    seconds: float
    back: bool


class Canary:
    """Watches each bundle that a swap makes live; in the event loop.

    Args:
        settings: how long, and how sure.
        store: where the golden images of bundles are.
        slot: lends the live bundle.
        batcher: computes the golden images among the requests.
        roll_back: makes the bundle before live again, if the one with this id is live, and says why; False if nothing
            can take its place.
        tell: told of every ruling.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        settings: CanarySettings,
        *,
        store: Store,
        slot: BundleSlot,
        batcher: Batcher,
        roll_back: Callable[[str, str], Awaitable[bool]],
        tell: Callable[[Ruling], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._store, self._slot, self._batcher = store, slot, batcher
        self._roll_back, self._tell, self._clock = roll_back, tell, clock
        self._looks = looks(settings.requests)
        self._recent: deque[Answered] = deque(maxlen=REMEMBERED)
        self._generation = 0
        # Bundles that serve or have served here, and were not given up.
        self._served: set[str] = set()
        self._watched: Watched | None = None
        self._tasks = BackgroundTasks()

    def begin(self, bundle: LiveBundle, generation: int, *, known: bool) -> None:
        """A bundle is live; one that is watched, and has another engine now, is watched from its start again.

        Args:
            bundle: it.
            generation: of it.
            known: it need not be watched: it is the first of the process, or has served before.
        """
        watched = self._watched
        goes_on = watched is not None and watched.bundle.bundle_id == bundle.bundle_id
        before = watched.before if watched is not None and goes_on else Counts.of(self._recent)
        self._recent.clear()
        self._generation = generation
        self._watched = None
        known = not goes_on and (known or bundle.bundle_id in self._served)
        self._served.add(bundle.bundle_id)
        if known or not self._settings.enabled:
            return
        self._watched = Watched(bundle, generation, self._clock(), before)
        self._tasks.begin(self._watch(self._watched))

    def note(self, generation: int, image: str, answered: Answered) -> None:
        """A request was answered.

        Args:
            generation: that answered it.
            image: hash of the image, empty if there is none.
            answered: how.
        """
        if generation != self._generation:
            return
        self._recent.append(answered)
        watched = self._watched
        if watched is None or len(watched.answered) >= self._settings.requests or image in watched.images:
            return
        if image:
            watched.images.add(image)
        watched.answered.append(answered)

    def status(self) -> dict[str, Any] | None:
        """What is watched: its id, counts, and seconds since the swap; None if nothing is."""
        watched = self._watched
        if watched is None:
            return None
        counts = asdict(Counts.of(watched.answered))
        return {
            "bundle": watched.bundle.bundle_id,
            **counts,
            "of_requests": self._settings.requests,
            "seconds": round(self._clock() - watched.since, 1),
        }

    async def close(self) -> None:
        """Stop watching."""
        self._watched = None
        await asyncio.gather(*self._tasks.cancel(), return_exceptions=True)

    async def _watch(self, watched: Watched) -> None:
        """Until a reason is found, everything was seen, or another bundle is live."""
        settings, golden = self._settings, 0
        while self._watched is watched:
            passed = self._clock() - watched.since
            reason = self._out_of_band(watched)
            if reason is None and golden <= GOLDEN_LOOKS and passed >= golden * settings.minutes * 60 / GOLDEN_LOOKS:
                golden += 1
                reason = await self._golden(watched)
            if self._watched is not watched:
                return
            if reason is not None:
                await self._end(watched, reason)
                return
            seen = len(watched.answered) >= settings.requests and watched.looked == len(self._looks)
            if (seen and golden > GOLDEN_LOOKS) or passed >= max(LONGEST_S, settings.minutes * 60):
                await self._end(watched, "")
                return
            await asyncio.sleep(POLL_S)

    async def _end(self, watched: Watched, reason: str) -> None:
        self._watched = None
        counts, seconds = Counts.of(watched.answered), self._clock() - watched.since
        back = False
        if reason:
            self._served.discard(watched.bundle.bundle_id)
            back = await self._roll_back(watched.bundle.bundle_id, reason)
        self._tell(Ruling(watched.bundle.bundle_id, reason, counts, seconds, back))

    def _out_of_band(self, watched: Watched) -> str | None:
        """At each look that is due, over exactly the requests of that look."""
        while watched.looked < len(self._looks) and len(watched.answered) >= self._looks[watched.looked]:
            number = self._looks[watched.looked]
            watched.looked += 1
            reason = out_of_band(
                Counts.of(watched.answered[:number]),
                watched.bundle.params.exit_coverage,
                watched.before,
                false_alarm=self._settings.false_alarm,
                looks_in_all=len(self._looks),
            )
            if reason is not None:
                return reason
        return None

    async def _golden(self, watched: Watched) -> str | None:
        """Golden images once more, among the requests and through the engine that answers them."""
        try:
            await begun_in_thread(partial(self._check_golden, watched), "golden images")
        except ParityError as error:
            return f"golden images: {error}"
        except (QueueFull, DeadlineExceeded, UnknownBundle) as error:
            # Too much is asked at this moment, or the bundle has gone.
            log.info("canary_golden_put_off", bundle=watched.bundle.bundle_id, reason=str(error))
        except InferenceError as error:
            return f"golden images: {error}"
        except EXPECTED as error:
            # The store cannot be read, which says nothing of the engine that is in memory.
            log.warning("canary_golden_not_read", bundle=watched.bundle.bundle_id, reason=str(error))
        return None

    def _check_golden(self, watched: Watched) -> None:
        home, bundle = self._store.path(watched.bundle.bundle_id), watched.bundle
        images, expected = read_golden(home / GOLDEN)
        serving = bundle.engine.describe().spec.precision
        most = limits(expected, bundle.manifest.parity_tolerance, certified_spec(home).precision, serving)
        for number, image in enumerate(images[:GOLDEN_IMAGES]):
            lease = self._slot.lease()
            if lease.generation != watched.generation:
                lease.release()
                return
            try:
                outputs = self._batcher.submit(lease, image, deadline=self._clock() + GOLDEN_S)
            except BaseException:
                lease.release()
                raise
            try:
                found = outputs.result(GOLDEN_S + LATE_S)
            except TimeoutError:
                raise InferenceError(f"one did not come back within {GOLDEN_S + LATE_S:.0f} s") from None
            check_outputs(found, expected.rows(slice(number, number + 1)), most)
