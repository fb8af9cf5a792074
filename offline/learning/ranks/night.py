"""A night under `torchrun`: the first process runs it and writes every file, the others take part in its trainings.

The stages that compute for hours, `TRAININGS`, run on all processes at once: each draws its share of every batch, the
gradients are summed, and all take the same step. Whatever the others write goes into a directory of their own that is
thrown away. All other stages run on the first process while the others wait.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from engines.machine.clock import utc_now
from offline.errors import TrainingInterrupted
from offline.learning.ranks import team
from offline.pipeline.progress import Silence

if TYPE_CHECKING:
    from offline.pipeline.stage import ConfigT, DataT, Stage, StageContext

TRAININGS = ("adapt_domain", "train_supervised")


def led(stages: Sequence[Stage[ConfigT, DataT]]) -> tuple[Stage[ConfigT, DataT], ...]:
    """The stages of the first process: at each training it calls the others."""

    def called(stage: Stage[ConfigT, DataT]) -> Stage[ConfigT, DataT]:
        # The name of the module stays, and with it the code in the key of the stage.
        @wraps(stage.run)
        def run(context: StageContext[ConfigT, DataT]) -> None:
            with team.together():
                team.shared((stage.name, replace(context, progress=Silence(), now=utc_now)))
                stage.run(context)

        return replace(stage, run=run) if stage.name in TRAININGS else stage

    return tuple(map(called, stages))


@contextmanager
def leading() -> Iterator[None]:
    """Within it the first process runs a night; at its end the others are let go.

    An error in the middle of a training lets nobody go, because the others wait for a sum: `torchrun` ends them when
    this process has ended.
    """
    team.start()
    with team.alone():
        yield
        with team.together():
            team.shared(("", None))


def follow(stages: Sequence[Stage[ConfigT, DataT]]) -> int:
    """Take part in the trainings of the first process until it lets this one go.

    Args:
        stages: of the night.

    Returns:
        The exit status: 0, or that of a training that was told to end.
    """
    team.start()
    by_name = {stage.name: stage for stage in stages}
    while True:
        called: tuple[str, StageContext[ConfigT, DataT] | None] = team.shared(None)
        name, context = called
        if context is None:
            return 0
        scratch = Path(mkdtemp(prefix="rank-"))
        try:
            by_name[name].run(replace(context, out=scratch))
        except TrainingInterrupted as error:
            return error.exit_status
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
