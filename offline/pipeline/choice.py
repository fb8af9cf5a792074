"""Which stages of a run a person asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offline.errors import PipelineError
from offline.pipeline.stage import Stage


@dataclass(frozen=True)
class Choice:
    """Which stages are to run.

    Attributes:
        only: this stage and those that it needs; None for all.
        until: no stage after this one; None for all.
        start: this stage and those that depend on it run again, though they are finished; None for none.
        again: this stage runs again, though it is finished; None for none.
    """

    only: str | None = None
    until: str | None = None
    start: str | None = None
    again: str | None = None

    def last(self, stages: Sequence[Stage[Any, Any]]) -> str:
        """Name of the last stage that may run."""
        return self.only or self.until or stages[-1].name

    def wanted(self, stages: Sequence[Stage[Any, Any]]) -> set[str]:
        """Names of the stages that are asked for, with those that they need.

        Raises:
            PipelineError: no stage is called so, or what is to run again is not among them.
        """
        names = [stage.name for stage in stages]
        for name in (self.only, self.until, self.start, self.again):
            if name is not None and name not in names:
                raise PipelineError(f"no stage is called {name!r}; the stages are {', '.join(names)}")
        found = set(names)
        if self.until is not None:
            found = set(names[: names.index(self.until) + 1])
        if self.only is not None:
            found &= self._needed(stages, self.only)
        # What follows from the first of them may be left out.
        outside = [name for name in (self.start, self.again) if name is not None and name not in found]
        if outside:
            raise PipelineError(f"{outside[0]} is to run again, and is not among the stages that are asked for")
        return found

    def forced(self, stages: Sequence[Stage[Any, Any]]) -> set[str]:
        """Names of the stages that run again though they are finished."""
        found = set() if self.again is None else {self.again}
        if self.start is not None:
            found.add(self.start)
            following = {self.start}
            for stage in stages:
                if following & set(stage.needs):
                    following.add(stage.name)
            found |= following
        return found

    @staticmethod
    def _needed(stages: Sequence[Stage[Any, Any]], only: str) -> set[str]:
        by_name = {stage.name: stage for stage in stages}
        before = list(by_name)[: list(by_name).index(only)]
        wanted, queue = set[str](), [only, *(name for name in before if by_name[name].decides is not None)]
        while queue:
            name = queue.pop()
            wanted.add(name)
            queue += by_name[name].needs
        return wanted


EVERYTHING = Choice()
