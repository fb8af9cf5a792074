"""Settings of the watch on the live certificate."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stage1.monitor.levels import LevelSettings
from stage1.monitor.settings import AdaptationSettings, AuditShares, SequentialSettings
from stage1.settings import Section

Reaction = Literal["observe", "tighten", "defer_all", "rollback"]


class LiveRiskSettings(Section):
    """The watch on the live certificate.

    Attributes:
        enabled: keep counts by the hour and watch the scores for drift; nothing is kept of a picture but 64 bits.
        audits: have a share of the exits looked at again, by Stage-2 and by people. The pictures of these exits are
            kept until their verdict is there, and each costs Stage-2 one request.
        shares: of the exits that are audited.
        test: when it is an alarm. A certificate keeps the tests that it began with.
        adapt: lower t0 while audits see more misses than are certified, before any alarm.
        adaptation: by how much.
        reaction: to an alarm, until another bundle is live: `observe` only tells; `tighten` lets nothing exit as no
            roadwork; `defer_all` lets nothing exit; `rollback` goes back to the bundle before, if that is certified,
            stands by and has no alarm itself, and tightens if not.
        levels: when the level is `watch`.
        audits_per_hour: that Stage-2 is asked for at most.
        verdict_s: how long Stage-2 may think about one; nobody waits for it.
        second_server: name of a Stage-2 server that is asked about what the first one flags. If it agrees, the flag is
            a miss without a person; it must be another model. None leaves it to people.
        most_waiting: audits whose pictures are kept; while there are so many no more are drawn.
    """

    enabled: bool = True
    audits: bool = False
    shares: AuditShares = AuditShares()
    test: SequentialSettings = SequentialSettings()
    adapt: bool = True
    adaptation: AdaptationSettings = AdaptationSettings()
    reaction: Reaction = "tighten"
    levels: LevelSettings = LevelSettings()
    audits_per_hour: int = Field(default=60, ge=1)
    verdict_s: float = Field(default=20.0, gt=0, le=600)
    second_server: str | None = None
    most_waiting: int = Field(default=2000, ge=1, le=100_000)

    @model_validator(mode="after")
    def _audits_are_watched(self) -> Self:
        if self.audits and not self.enabled:
            raise ValueError("audits is true and enabled is false: nothing would watch what the audits tell")
        return self
