"""A queue of images whose thread waits for a disk when the miner ends."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from engines.machine.tally import Tally
from miner.answering.image_queue import ImageQueue

LIMIT_S = 60.0


def test_a_disk_that_hangs_does_not_keep_a_miner_from_its_end_and_what_has_not_begun_is_lost() -> None:
    goes_on, hangs, done, lost = threading.Event(), threading.Event(), list[str](), Tally("lost")

    def hang() -> None:
        hangs.set()
        goes_on.wait(LIMIT_S)
        done.append("what hung")

    queue = ImageQueue("harvest", lambda _: None, lost, after_s=0.0)
    queue.submit(hang)
    assert hangs.wait(LIMIT_S)
    queue.close(lambda: done.append("the last"), 0.01)
    assert done == []
    assert lost.counts == {"not_closed": 1}
    goes_on.set()
    queue.close()
    assert done == ["what hung"]


def test_it_says_how_long_its_disk_has_been_waited_for() -> None:
    goes_on, hangs, now = threading.Event(), threading.Event(), [100.0]

    def hang() -> None:
        hangs.set()
        goes_on.wait(LIMIT_S)

    queue = ImageQueue("live risk", lambda _: None, Tally("lost"), after_s=0.0, clock=lambda: now[0])
    assert (queue.disk.name, queue.disk.hangs_s) == ("live risk", 0.0)
    queue.submit(hang)
    assert hangs.wait(LIMIT_S)
    now[0] = 131.0
    assert queue.disk.hangs_s == 31.0
    goes_on.set()
    queue.close()
    assert queue.disk.hangs_s == 0.0


def test_the_end_waits_for_what_a_disk_that_answers_takes() -> None:
    done, lost = list[str](), Tally("lost")
    queue = ImageQueue("harvest", lambda _: None, lost, after_s=0.0)
    queue.submit(lambda: done.append("first"))
    queue.close(lambda: done.append("the last"), LIMIT_S)
    assert done == ["first", "the last"]
    assert not lost.counts


def test_an_image_that_another_thread_hands_over_first_is_no_failure() -> None:
    """A change of the settings closes it in a thread while the timer of the event loop comes."""

    class Shared(deque[Any]):
        def popleft(self) -> Any:
            if len(self) == 1:
                self.clear()
            return super().popleft()

    looked_at, lost = list[Any](), Tally("lost")
    queue = ImageQueue("harvest", looked_at.append, lost, after_s=0.0)
    queue._queue = Shared(["mine", "taken by the other"])
    queue.hand_over()
    queue.close()
    assert looked_at == ["mine"]
    assert not lost.counts
