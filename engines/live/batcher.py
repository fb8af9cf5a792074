"""Shares engine calls between requests that wait at the same time."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import structlog

from engines.errors import DeadlineExceeded, EngineError, InferenceError
from engines.live.batch_queue import BatchQueue, Waiting
from engines.live.settings import BatchSettings
from engines.live.slot import Lease
from engines.machine.tally import Tally
from stage1.errors import Stage1Error
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

GENERATIONS = 16
# For what waits when the process ends; a service manager kills after a minute and a half.
CLOSE_S = 30.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Job:
    lease: Lease
    image: Pixels
    future: Future[Stage1Outputs]


@dataclass(frozen=True)
class BatcherStats:
    """What a batcher has done since it began.

    Attributes:
        batches: engine calls, without those that looked for a poisoned image.
        images: images that were in a batch, those that failed among them.
        expired: images whose deadline passed while they waited.
        failed: images that the engine failed on.
        waiting: images that wait now.
        images_by_generation: `images`, of each of the latest generations.
        batches_by_size: `batches`, by the number of their images.
    """

    batches: int
    images: int
    expired: int
    failed: int
    waiting: int
    images_by_generation: dict[int, int]
    batches_by_size: dict[int, int]


class Batcher:
    """Computes single images in batches, on threads of its own.

    Every image is computed by the engine of its lease, which is given back when the image is done. If a batch fails,
    its halves are tried, so that only the images that the engine cannot bear fail.

    Args:
        settings: sizes and delays.
        clock: monotonic time in seconds; deadlines are on it.
    """

    def __init__(self, settings: BatchSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue: BatchQueue[_Job] = BatchQueue(settings)
        self._clock = clock
        self._changed = threading.Condition()
        self._running = 0
        self._closing = False
        self._closed_by = math.inf
        self._batches = self._images = self._expired = self._failed = 0
        self._by_generation: Counter[int] = Counter()
        self._by_size: Counter[int] = Counter()
        self._engine_failed, self._batch_failed = Tally("engine_failed"), Tally("batch_failed")
        self._threads = [
            threading.Thread(target=self._work, name=f"stage1-batch-{number}", daemon=True)
            for number in range(settings.workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, lease: Lease, image: Pixels, *, deadline: float, priority: float = 0.0) -> Future[Stage1Outputs]:
        """Compute one image.

        Args:
            lease: whose engine computes; the batcher ends it when the image is done, and not if this raises.
            image: uint8 `(3, H, W)`.
            deadline: when nobody waits for it any more, on the clock.
            priority: in [0, 1]; see `engines.live.batch_queue`.

        Returns:
            A future of the outputs, for one image. Cancelled before its batch starts, it is not computed. It fails with
            `DeadlineExceeded`, `InferenceError` or `stage1.errors.OutputsError`.

        Raises:
            InferenceError: the image has another shape than the engine takes, or the batcher is closed.
            QueueFull: as many images wait as may.
        """
        wanted = 3, *lease.bundle.preprocess.shape
        if image.shape != wanted or image.dtype != np.uint8:
            raise InferenceError(f"an image of shape {image.shape} and type {image.dtype}, expected uint8 {wanted}")
        job = _Job(lease, image, Future())
        waiting = Waiting(job, lease.generation, self._clock(), deadline, min(1.0, max(0.0, priority)))
        with self._changed:
            if self._closing:
                raise InferenceError("the batcher is closed")
            self._queue.put(waiting)
            self._changed.notify()
        # Only now is the lease the batcher's; a future that is done already calls this at once.
        job.future.add_done_callback(lambda _: lease.release())
        return job.future

    @property
    def stats(self) -> BatcherStats:
        """What it has done so far."""
        with self._changed:
            return BatcherStats(
                self._batches,
                self._images,
                self._expired,
                self._failed,
                len(self._queue),
                dict(self._by_generation),
                dict(self._by_size),
            )

    @property
    def working(self) -> bool:
        """Whether every thread is there, and images are taken."""
        return not self._closing and all(thread.is_alive() for thread in self._threads)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Compute what waits, take nothing more, and stop the threads; safe to call twice, and waits as long as once.

        Args:
            timeout_s: after which what waits fails, and a thread whose engine does not come back is left behind.
        """
        with self._changed:
            first, self._closing = not self._closing, True
            self._closed_by = min(self._closed_by, time.monotonic() + timeout_s)
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, self._closed_by - time.monotonic()))
        stuck = sum(thread.is_alive() for thread in self._threads)
        if not stuck or not first:
            return
        with self._changed:
            waiting = self._queue.clear()
        for one in waiting:
            if one.item.future.set_running_or_notify_cancel():
                one.item.future.set_exception(InferenceError("the batcher is closed"))
        log.error("engine_does_not_come_back", calls=stuck, waited_s=timeout_s, waiting=len(waiting))

    def _work(self) -> None:
        buffer = np.empty((0,), np.uint8)
        while True:
            with self._changed:
                turn = self._queue.take(self._clock(), running=self._running)
                if not turn.batch and not turn.expired:
                    if self._closing and not len(self._queue):
                        return
                    left = None if turn.look_again is None else max(0.0, turn.look_again - self._clock())
                    self._changed.wait(left)
                    continue
                self._expired += len(turn.expired)
                self._running += bool(turn.batch)
            for late in turn.expired:
                if late.item.future.set_running_or_notify_cancel():
                    late.item.future.set_exception(DeadlineExceeded("Stage-1 had no time for this image"))
            if not turn.batch:
                continue
            try:
                buffer = self._serve([waiting.item for waiting in turn.batch], buffer)
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()

    def _serve(self, taken: Sequence[_Job], buffer: Pixels) -> Pixels:
        """Run those that nobody has cancelled; returns the buffer for the next batch."""
        jobs = [job for job in taken if job.future.set_running_or_notify_cancel()]
        try:
            return self._compute(jobs, buffer) if jobs else buffer
        except Exception as error:  # noqa: BLE001  it is told, and whoever waits hears of it
            # Memory ran out, for example: whoever waits must hear of it, and the next batch be computed.
            self._batch_failed.add(type(error).__name__, repr(error), error=error, generation=jobs[0].lease.generation)
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(InferenceError(f"the batch failed: {error!r}"))
            return buffer

    def _compute(self, jobs: Sequence[_Job], buffer: Pixels) -> Pixels:
        """Run a batch; returns the buffer for the next one."""
        batch, buffer = _together([job.image for job in jobs], buffer)
        failed = self._run(jobs, batch)
        with self._changed:
            self._batches += 1
            self._images += len(jobs)
            self._by_size[len(jobs)] += 1
            self._failed += failed
            self._by_generation[jobs[0].lease.generation] += len(jobs)
            if len(self._by_generation) > GENERATIONS:
                del self._by_generation[min(self._by_generation)]
        return buffer

    def _run(self, jobs: Sequence[_Job], batch: Pixels) -> int:
        """Compute, and if that fails halve until the images that cannot be computed are alone; how many those are.

        Args:
            jobs: what is computed.
            batch: their images.
        """
        try:
            outputs = jobs[0].lease.bundle.engine.infer(batch)
            if len(outputs) != len(jobs):
                raise InferenceError(f"the engine returned {len(outputs)} outputs for {len(jobs)} images")
        except Exception as error:  # noqa: BLE001  it is told, and whoever waits hears of it
            known = isinstance(error, EngineError | Stage1Error)
            if not known:
                # A bug in an engine must neither end the thread that serves everyone nor go unseen, also where the
                # halves can be computed.
                example = {"generation": jobs[0].lease.generation, "images": len(jobs)}
                self._engine_failed.add(type(error).__name__, repr(error), error=error, **example)
            if len(jobs) > 1:
                half = len(jobs) // 2
                return self._run(jobs[:half], batch[:half]) + self._run(jobs[half:], batch[half:])
            jobs[0].future.set_exception(error if known else InferenceError(f"the engine failed: {error!r}"))
            return 1
        for place, job in enumerate(jobs):
            job.future.set_result(outputs.rows(slice(place, place + 1)))
        return 0


def _together(images: Sequence[Pixels], buffer: Pixels) -> tuple[Pixels, Pixels]:
    """The images as one batch, and the buffer for the next one."""
    if len(images) == 1:
        # Most come alone, and to copy one costs more than all else that is done with it here.
        return np.ascontiguousarray(images[0])[None], buffer
    shape = images[0].shape
    if buffer.shape[1:] != shape or len(buffer) < len(images):
        buffer = np.empty((len(images), *shape), np.uint8)
    batch = buffer[: len(images)]
    np.stack(images, out=batch)
    return batch, buffer
