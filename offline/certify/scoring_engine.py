"""Which engine scores what certifies nothing: the fastest one on this machine that says what the serving engine says.

A certificate rests on the numbers of the engine that serves, and so do the test rows of the report. What a report
counts besides, thousands of pictures as validators sent them, may come from any engine that computes the same graph as
exactly: a night that trained on a GPU need not wait for the engine of a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from engines.backends.registry import check_available, compile_engine, known, open_engine, slow_to_compile
from engines.engine import Engine
from engines.errors import EngineError
from engines.spec import EngineSpec
from stage1.artifacts import Artifact
from stage1.errors import Stage1Error
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

# Largest difference of a logit or a score at which an engine counts as equal: two of fp32 are 1e-5 apart.
PARITY = 1e-3
# Another engine has to be so much faster: opening and comparing it takes time as well.
FASTER = 1.2
BATCH = 16


class EngineTrial(BaseModel):
    """One engine on some pictures.

    Attributes:
        engine: which.
        difference: largest difference of a logit or a score from the serving engine; None if it was not compared.
        images_a_second: its speed; None as well.
        reason: why it does not score; empty if it could.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineSpec
    difference: float | None = None
    images_a_second: float | None = Field(default=None, gt=0)
    reason: str = ""


class ScoringRecord(Artifact):
    """`scoring.json`: which engine scored the pictures of the report that certify nothing, and what others were tried.

    Attributes:
        serving: the engine whose numbers are certified.
        engine: the one that scored.
        images: pictures on which they were compared; 0 where there were too few to score for another to pay.
        trials: every engine that was compared, the serving one first.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    serving: EngineSpec
    engine: EngineSpec
    images: int = 0
    trials: tuple[EngineTrial, ...] = ()

    @property
    def words(self) -> str:
        """One sentence for the report; empty if the serving engine scored."""
        if self.engine == self.serving:
            return ""
        trial = next(trial for trial in self.trials if trial.engine == self.engine)
        return (
            f"What validators sent was scored on {self.engine}, whose scores differ from those of {self.serving} by at "
            f"most {trial.difference:.1g} on {self.images} pictures; the test rows and the certificate are those of "
            f"{self.serving}."
        )


@dataclass(frozen=True)
class Trials:
    """Compares engines.

    Attributes:
        images: pictures, uint8 `(N, 3, H, W)`.
        seconds: a clock that only runs forward.
    """

    images: Pixels
    seconds: Callable[[], float]

    def choose(
        self, serving: Engine, others: Sequence[EngineSpec], opened: Callable[[EngineSpec], Engine]
    ) -> tuple[Engine, ScoringRecord]:
        """The fastest engine among those that agree with the serving one; all others are closed, but that one.

        Args:
            serving: whose numbers are certified.
            others: engines to try.
            opened: opens one; raises an `EngineError` where it cannot.
        """
        spec = serving.describe().spec
        expected, ours = self._timed(serving)
        best, speed, trials = serving, ours * FASTER, [EngineTrial(engine=spec, difference=0.0, images_a_second=ours)]
        for other in others:
            try:
                engine = opened(other)
            except EngineError as error:
                trials.append(EngineTrial(engine=other, reason=str(error)))
                continue
            trial = self._trial(engine, other, expected)
            trials.append(trial)
            if not trial.reason and trial.images_a_second is not None and trial.images_a_second > speed:
                if best is not serving:
                    best.close()
                best, speed = engine, trial.images_a_second
            else:
                engine.close()
        record = ScoringRecord(serving=spec, engine=best.describe().spec, images=len(self.images), trials=tuple(trials))
        return best, record

    def _trial(self, engine: Engine, spec: EngineSpec, expected: Stage1Outputs) -> EngineTrial:
        try:
            outputs, speed = self._timed(engine)
        except (EngineError, Stage1Error) as error:
            return EngineTrial(engine=spec, reason=str(error))
        apart = difference(outputs, expected)
        reason = "" if apart <= PARITY else f"differs from the serving engine by {apart:.2g}, more than {PARITY:g}"
        return EngineTrial(engine=spec, difference=apart, images_a_second=speed, reason=reason)

    def _timed(self, engine: Engine) -> tuple[Stage1Outputs, float]:
        """Outputs, and images a second of the second run: in the first one a runtime prepares itself."""
        self._run(engine)
        began = self.seconds()
        outputs = self._run(engine)
        return outputs, len(self.images) / max(self.seconds() - began, 1e-9)

    def _run(self, engine: Engine) -> Stage1Outputs:
        starts = range(0, len(self.images), BATCH)
        return Stage1Outputs.concatenate([engine.infer(self.images[start : start + BATCH]) for start in starts])


def difference(ours: Stage1Outputs, theirs: Stage1Outputs) -> float:
    """Largest difference of a logit, of any head, or a selection score."""
    pairs = [(ours.logits, theirs.logits), (ours.select_score, theirs.select_score)]
    pairs += [(logits, theirs.heads[name]) for name, logits in ours.heads.items()]
    return max(float(np.abs(a.astype(np.float64) - b).max()) for a, b in pairs)


def candidates(serving: EngineSpec) -> list[EngineSpec]:
    """Engines of this machine that compute as exactly as the reference, without the serving one."""
    found = []
    for spec in known():
        if spec.precision != "fp32" or spec == serving or slow_to_compile(spec):
            continue
        try:
            check_available(spec)
        except EngineError:
            continue
        found.append(spec)
    return found


def compiled(spec: EngineSpec, model: Path, into: Path) -> Engine:
    """Compile a graph for an engine beside the bundle, and open it.

    Args:
        spec: the engine.
        model: the fp32 graph.
        into: directory for what is compiled, made if needed; nothing of it goes into a bundle.

    Raises:
        EngineError: it cannot be compiled or opened here.
    """
    into.mkdir(parents=True, exist_ok=True)
    compile_engine(spec, model, into=into)
    return open_engine(spec, model, compiled=into)
