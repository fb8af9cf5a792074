"""Settings of the way to Stage-2."""

from __future__ import annotations

from pydantic import Field

from stage1.settings import Section, UserPath


class Stage2Settings(Section):
    """Where deferred images go.

    Attributes:
        engine: directory of a larger engine in this process; None for no Stage-2.
        threads: intra-op threads of that engine.
        max_in_flight: hand-offs at a time.
        max_waiting: hand-offs that wait for one to end, while there is time left for an answer.
        reserve_s: time kept before the deadline to answer without Stage-2.
    """

    engine: UserPath | None = None
    threads: int | None = Field(default=None, ge=1)
    max_in_flight: int = Field(default=16, ge=1)
    max_waiting: int = Field(default=256, ge=0)
    reserve_s: float = Field(default=0.25, ge=0)
