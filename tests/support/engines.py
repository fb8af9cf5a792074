"""Real engines that tests can look at."""

from __future__ import annotations

from dataclasses import dataclass, field

from engines.engine import Engine, EngineDescription
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels


@dataclass
class Watched:
    """A real engine that counts how often it is closed."""

    engine: Engine
    closed: int = field(default=0, init=False)

    def infer(self, batch: Pixels) -> Stage1Outputs:
        return self.engine.infer(batch)

    def warm_up(self, most: int) -> None:
        self.engine.warm_up(most)

    def close(self) -> None:
        self.closed += 1
        self.engine.close()

    def describe(self) -> EngineDescription:
        return self.engine.describe()


@dataclass
class Seen(Watched):
    """A real engine that keeps the batches that it is given."""

    batches: list[Pixels] = field(default_factory=list, init=False)

    def infer(self, batch: Pixels) -> Stage1Outputs:
        self.batches.append(batch.copy())
        return super().infer(batch)
