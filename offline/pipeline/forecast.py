"""Says how long a stage and a run will still take, by how long they took before."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from offline.pipeline.progress import Progress
from offline.pipeline.stage_times import StageTime, duration_words, expected_seconds


class Forecast:
    """A `Progress` that adds to each step what is left.

    Args:
        progress: is told everything.
        stages: names of the stages that may run, in order.
        times: how long stages took, oldest first.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        progress: Progress,
        stages: Sequence[str],
        times: Sequence[StageTime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress, self._clock = progress, clock
        self._left = list(stages)
        self._expected = {stage: expected_seconds(times, stage) for stage in stages}
        self._now, self._started = "", 0.0
        self._took: list[tuple[str, float]] = []

    @property
    def times(self) -> tuple[tuple[str, float], ...]:
        """How long each stage took that has ended, s."""
        return tuple(self._took)

    def stage(self, name: str, state: str) -> None:
        """See `Progress.stage`."""
        self._progress.stage(name, state)
        if name in self._left:
            self._left.remove(name)
        if state == "done":
            self._took.append((name, self._clock() - self._started))
        self._now, self._started = (name, self._clock()) if state == "running" else ("", 0.0)
        if state == "running" and (words := self.words()):
            self._progress.step(0, 1, words)

    def step(self, done: int, total: int, note: str = "") -> None:
        """See `Progress.step`."""
        words = self.words(done, total)
        self._progress.step(done, total, f"{note}; {words}" if note and words else note or words)

    def words(self, done: int = 0, total: int = 0) -> str:
        """What is left, for example `about 12 min left, 1 h 40 min to the end`; empty if no past run says it.

        A stage that takes longer than before is judged by how much of it is done.

        Args:
            done: steps of this stage.
            total: how many it has, 0 if that is not known.
        """
        expected = self._expected.get(self._now)
        if expected is None:
            return ""
        took = self._clock() - self._started
        after = [self._expected[stage] for stage in self._left]
        rest = sum(seconds for seconds in after if seconds is not None)
        more = " or more" if None in after else ""
        if took < expected:
            here = expected - took
        elif 0 < done <= total:
            here = took * (total - done) / done
        else:
            return "longer than before" + (f", and {duration_words(rest)}{more} after it" if after else "")
        return f"about {duration_words(here)} left, {duration_words(here + rest)}{more} to the end"
