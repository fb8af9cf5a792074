"""An event loop whose clock jumps to the next timer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer: deadlines are exact, and nothing takes time."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual_s = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def jump(timeout: float | None = None) -> Any:
            if timeout is None:
                raise AssertionError("the test waits for ever: nothing is scheduled")
            self._virtual_s += max(0.0, timeout)
            return select(0)

        selector.select = jump

    def time(self) -> float:
        return self._virtual_s


def run(scenario: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(scenario)


def clock() -> float:
    return asyncio.get_running_loop().time()
