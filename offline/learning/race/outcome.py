"""`race.json`: which recipes raced, how each did, and which one won."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from stage1.artifacts import Artifact


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RungResult(_Part):
    """How a recipe did on a rung.

    Attributes:
        rung: from 1.
        exits: mean share of the held-out rows that exit at miss rates of 1 to 10 %; None if it did not train.
        log_loss: of calibrated probabilities, in nats; None as well.
    """

    rung: int = Field(ge=1)
    exits: float | None = None
    log_loss: float | None = None


class Gain(_Part):
    """What a finalist has over the simplest recipe.

    Attributes:
        exits: difference of the exits on the last rung.
        lower: lower end of its paired group-bootstrap interval, at the level that Holm's procedure gives it.
        upper: upper end.
        p_value: one-sided, that it is no better.
        level: of the interval.
        better: whether it beats the simplest recipe, all finalists considered.
    """

    exits: float
    lower: float
    upper: float
    p_value: float
    level: float
    better: bool


class Entrant(_Part):
    """A recipe that was to race.

    Attributes:
        name: of the recipe.
        overrides: what it changes of the config, by dotted path.
        rungs: how it did on each of its rungs.
        dropped: why it went no further; empty for a finalist.
        trainings: whole trainings of one fold that it cost.
        seconds: that they took.
        gain: over the simplest recipe; None for that one and for all that are no finalists.
    """

    name: str
    overrides: dict[str, JsonValue]
    rungs: tuple[RungResult, ...]
    dropped: str = ""
    trainings: float = 0.0
    seconds: float = 0.0
    gain: Gain | None = None


class Suspect(_Part):
    """A row whose label is contradicted by models that did not train on it.

    Attributes:
        row: its id.
        label: what the file says.
        probability: of roadwork, held out.
        loss: of the label, in nats.
    """

    row: str
    label: int
    probability: float
    loss: float


class RaceRecord(Artifact):
    """`race.json`.

    Attributes:
        recipe: `auto` if recipes raced, `fixed` if the config was taken as it is.
        winner: name of the recipe that won; empty for a fixed one.
        overrides: what the winner changes of the config, by dotted path.
        simplest: name of the recipe that was to be beaten.
        last_winner: name of the recipe of the current bundle, which started early; None if it is none of these.
        rows: rows that were held out in their turn, of train and val_select.
        groups: groups among them.
        folds: of these rows.
        budget: in words.
        entrants: all recipes, in the order in which they started.
        unstarted: recipes that were not among the starters.
        reviewed: rows whose labels were looked at with held-out answers.
        suspects: those that contradict them most, the worst first.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    recipe: str
    winner: str = ""
    overrides: dict[str, JsonValue] = Field(default_factory=dict)
    simplest: str = ""
    last_winner: str | None = None
    rows: int = 0
    groups: int = 0
    folds: int = 0
    budget: str = ""
    entrants: tuple[Entrant, ...] = ()
    unstarted: int = 0
    reviewed: int = 0
    suspects: tuple[Suspect, ...] = ()
