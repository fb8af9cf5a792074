"""The bundle's engine in this process, for the time in which no server may answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from engines.engine import Engine
from engines.errors import BundleRefused, InferenceError
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

log = structlog.get_logger(__name__)

AGAIN_S = 30.0


class LastResort:
    """An engine that is loaded when it is needed first; from any thread.

    Args:
        opens: loads it, and makes sure that it may answer; None where this process is to compute nothing.
        clock: monotonic time in seconds.
    """

    def __init__(self, opens: Callable[[], Engine] | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.allowed = opens is not None
        self.batches = 0
        self._opens = opens
        self._clock = clock
        self._engine: Engine | None = None
        self._failure = ""
        self._failed_at = 0.0
        self._lock = threading.Lock()

    @property
    def engine(self) -> Engine | None:
        """What is loaded; None if nothing is."""
        return self._engine

    def load(self) -> Engine:
        """Load it, if it is not there; after a failure only when half a minute is over, for each request would try it.

        Raises:
            InferenceError: this process is to compute nothing, or it is closed.
            BundleRefused: it cannot be loaded, or its golden images differ.
        """
        with self._lock:
            if self._engine is None:
                if self._opens is None:
                    raise InferenceError("no server may answer, and this process is to compute nothing itself")
                if self._failure and self._clock() < self._failed_at + AGAIN_S:
                    raise BundleRefused(self._failure)
                try:
                    self._engine = self._opens()
                except Exception as error:
                    self._failure, self._failed_at = str(error) or repr(error), self._clock()
                    raise
                log.warning("stage1_computed_here", engine=str(self._engine.describe()))
            return self._engine

    def infer(self, batch: Pixels) -> Stage1Outputs:
        """Outputs of a batch.

        Raises:
            BundleRefused: see `load`.
            InferenceError: see `load`, or the engine failed.
        """
        outputs = self.load().infer(batch)
        self.batches += 1
        return outputs

    def close(self) -> None:
        """Free it; nothing is loaded afterwards."""
        with self._lock:
            engine, self._engine, self._opens = self._engine, None, None
        if engine is not None:
            engine.close()
