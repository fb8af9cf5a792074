"""The miner's load in a file, for nights that share the machine with it."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from engines.machine.background_tasks import begun_in_thread
from engines.machine.load_gauge import GAUGE, LoadGauge, write_reading
from engines.machine.tally import Tally
from miner.answering.record import RequestRecord

EVERY_S = 1.0


class LoadFile:
    """An observer of answers that writes how long they take, without the time of Stage-2.

    Args:
        state: the state directory, where the file is.
        limit_ms: of the 99th percentile, above which a night is to wait.
    """

    def __init__(self, state: Path, limit_ms: float) -> None:
        self._path = state / GAUGE
        self._gauge = LoadGauge(limit_ms)
        self._failed = Tally("load_not_written")

    def on_answer(self, record: RequestRecord) -> None:
        """See `miner.answering.record.Observer.on_answer`."""
        # What is given up says how slow it was, too.
        self._gauge.add(record.total_ms - (record.stage2_ms or 0.0))

    async def run(self) -> None:
        """Write it once a second, for ever."""
        while True:
            try:
                await begun_in_thread(partial(write_reading, self._path, self._gauge.reading()), "load")
            except OSError as error:
                self._failed.add(type(error).__name__, str(error))
            await asyncio.sleep(EVERY_S)
