"""The recipes that race: what each changes of the config, which one is the simplest, and which ones start first."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import getitem
from typing import Any

from stage1.errors import SettingsError

Overrides = Mapping[str, Any]
Axes = Mapping[str, Mapping[str, Overrides]]
FACTOR = "*"
_OPTIMISER, _RATE, _DECAY = (f"train_supervised.{name}" for name in ("optimiser", "learning_rate", "weight_decay"))
# What races by default; the first option of each axis is the simplest.
AXES: Axes = {
    "adapter": {name: {"model.adapter": name} for name in ("lora", "dora", "doran")},
    "optimiser": {
        "adamw": {_OPTIMISER: "adamw"},
        "adamw at a third of the rate": {_OPTIMISER: "adamw", _RATE: "*0.333"},
        "adamw at three times the rate": {_OPTIMISER: "adamw", _RATE: "*3"},
        "fsam": {_OPTIMISER: "fsam"},
        "fsam at three times the rate": {_OPTIMISER: "fsam", _RATE: "*3"},
        # It steps by signs: a fifth of the rate and as much more decay, as train_supervised.optimiser says.
        "lion": {_OPTIMISER: "lion", _RATE: "*0.2", _DECAY: "*5"},
        "lion at three times the rate": {_OPTIMISER: "lion", _RATE: "*0.6", _DECAY: "*5"},
    },
    "pooling": {
        "attention pooling": {"model.pooling": "attention"},
        "mean patch": {"model.pooling": "mean"},
        "largest patch": {"model.pooling": "largest"},
    },
    "adaptation": {
        "no adaptation": {"adapt_domain.enabled": False},
        "adapted backbone": {"adapt_domain.enabled": True},
    },
    "conformal training": {
        "no conformal training": {"train_conformal_risk.enabled": False},
        "conformal training": {"train_conformal_risk.enabled": True},
    },
}
SWITCH = ".enabled"


@dataclass(frozen=True)
class Recipe:
    """A way to train.

    Attributes:
        options: name of the option on each axis.
        overrides: what it changes of the config, by dotted path.
    """

    options: tuple[str, ...]
    overrides: Overrides

    @property
    def name(self) -> str:
        """What it is called in records and reports."""
        return " + ".join(self.options)

    def differs(self, other: Recipe) -> int:
        """Number of axes on which the two have another option."""
        return sum(mine != theirs for mine, theirs in zip(self.options, other.options, strict=True))


def recipes(axes: Axes, tree: Mapping[str, Any]) -> list[Recipe]:
    """Every combination of one option an axis, the simplest first.

    An axis is what may vary, and its first option is the simplest. A text that begins with `*` multiplies the value
    that the config has there. An option that switches on what the config has switched off is left out, because there is
    nothing to try it with; an axis that then has no option left is, too.

    Args:
        axes: options by name of the axis, and what each option changes of the config.
        tree: the config as plain values.

    Raises:
        SettingsError: two axes change the same value, a path is not in the config, or a factor is no number.
    """
    known: dict[str, str] = {}
    for axis, options in axes.items():
        for path in {path for overrides in options.values() for path in overrides}:
            if known.setdefault(path, axis) != axis:
                raise SettingsError(
                    f"learn.axes: {known[path]!r} and {axis!r} both change {path}: put their options into one axis"
                )
    possible = [
        {name: _resolved(overrides, tree) for name, overrides in options.items() if not _switches_on(overrides, tree)}
        for options in axes.values()
    ]
    chosen = product(*(options.items() for options in possible if options))
    return [
        Recipe(tuple(name for name, _ in options), {k: v for _, overrides in options for k, v in overrides.items()})
        for options in chosen
    ]


def _switches_on(overrides: Overrides, tree: Mapping[str, Any]) -> bool:
    return any(path.endswith(SWITCH) and value and not _at(tree, path) for path, value in overrides.items())


def _resolved(overrides: Overrides, tree: Mapping[str, Any]) -> dict[str, Any]:
    return {path: _value(path, value, tree) for path, value in overrides.items()}


def _value(path: str, value: object, tree: Mapping[str, Any]) -> object:
    if not (isinstance(value, str) and value.startswith(FACTOR)):
        return value
    try:
        return float(_at(tree, path)) * float(value.removeprefix(FACTOR))
    except (TypeError, ValueError) as error:
        raise SettingsError(f"learn.axes: {path} is {_at(tree, path)!r}, which {value!r} cannot multiply") from error


def _at(tree: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401  a value of a config
    try:
        return reduce(getitem, path.split("."), tree)
    except (KeyError, TypeError, IndexError) as error:
        raise SettingsError(f"learn.axes: the config has no {path}") from error


def recipe_of(field: Sequence[Recipe], tree: Mapping[str, Any]) -> Recipe | None:
    """The recipe by which a config trained; None if it is none of these.

    Args:
        field: the recipes.
        tree: the config as plain values.
    """
    return next((one for one in field if _follows(tree, one.overrides)), None)


def _follows(tree: Mapping[str, Any], overrides: Overrides) -> bool:
    try:
        return all(_at(tree, path) == value for path, value in overrides.items())
    except SettingsError:
        return False


def starting_order(field: Sequence[Recipe], last: Recipe | None, seed: int, most: int) -> list[Recipe]:
    """The recipes that start, in the order in which they do.

    The simplest one first, then the last winner and its neighbours, which differ from it on one axis, then the
    neighbours of the simplest, then the others in an order that the seed draws.

    Args:
        field: all recipes, the simplest first.
        last: which won last; None for none.
        seed: of the order of the others.
        most: how many start, at least 1.
    """
    simplest = field[0]
    winner = simplest if last is None else last

    def place(recipe: Recipe) -> tuple[bool, bool, bool, bool, bytes]:
        drawn = hashlib.blake2b(f"{seed}\0{recipe.name}".encode(), digest_size=16).digest()
        near, plain = recipe.differs(winner), recipe.differs(simplest)
        return plain > 0, near > 0, near > 1, plain > 1, drawn

    return sorted(field, key=place)[:most]
