"""Bundles whose engine is for another machine: compiled and calibrated anew for this one, by somebody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from engines.machine.background_tasks import BackgroundTasks
from engines.spec import EngineSpec

log = structlog.get_logger(__name__)

# Compiles the model of a bundle for this machine, calibrates it through the new engine, and makes that bundle current
# in its place; False if it cannot, for example because the calibration rows are elsewhere.
Recalibrate = Callable[[str, EngineSpec], Awaitable[bool]]


class Recalibration:
    """Has each bundle recalibrated once, in the background.

    Args:
        recalibrate: does it; None where nobody can.
        tasks: where it runs.
        over: called with the bundle's id when it is over, whatever came of it.
    """

    def __init__(
        self, recalibrate: Recalibrate | None, tasks: BackgroundTasks, over: Callable[[str], Awaitable[object]]
    ) -> None:
        self._recalibrate = recalibrate
        self._tasks = tasks
        self._over = over
        self._under_way: set[str] = set()
        self._done: set[str] = set()

    @property
    def under_way(self) -> tuple[str, ...]:
        """Ids of the bundles that are being recalibrated."""
        return tuple(self._under_way)

    def begin(self, bundle: str, spec: EngineSpec) -> bool:
        """Have it done in the background; False if it is over, or nobody can."""
        recalibrate = self._recalibrate
        if recalibrate is None or bundle in self._done:
            return False
        if bundle not in self._under_way:
            self._under_way.add(bundle)
            self._tasks.begin(self._work(recalibrate, bundle, spec))
        return True

    async def _work(self, recalibrate: Recalibrate, bundle: str, spec: EngineSpec) -> None:
        try:
            done = await recalibrate(bundle, spec)
            log.info("recalibration_done" if done else "recalibration_not_possible", bundle=bundle)
        except Exception:
            # The edge to whoever does it: without, the bundle is compiled here and judged by its golden images.
            log.exception("recalibration_failed", bundle=bundle)
        finally:
            self._under_way.discard(bundle)
            self._done.add(bundle)
        await self._over(bundle)
