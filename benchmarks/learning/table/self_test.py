"""Answers with a known difference, through everything that judges real ones: what is planted must be seen, none not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.learning.table.comparison import difference
from benchmarks.learning.table.statistics import aligned
from benchmarks.learning.units.results import Answers, UnitResult

FOLDS, CITIES, FRAMES = 4, 12, 32
# Distance of the classes in standard deviations, and by how much more one row has.
DISTANCE = 1.3
PLANTED = (0.0, 0.3, 0.9)
METRIC = "AUC"
# What no more than so much may be, and what no less.
MOST_FALSE, LEAST_SEEN = 0.2, 0.9


@dataclass(frozen=True)
class SelfTest:
    """How often a difference was seen.

    Attributes:
        planted: additional distance of the classes.
        truth: mean difference of the AUC.
        visible: the smallest difference that the comparison says it can see, mean over draws.
        seen: share of the draws whose interval is above 0.
        denied: share of the draws whose interval is below 0.
    """

    planted: float
    truth: float
    visible: float
    seen: float
    denied: float


def self_test(draws: int, *, seeds: int = 2, repetitions: int = 200) -> list[SelfTest]:
    """Plant differences and look for them.

    Args:
        draws: data sets of each difference.
        seeds: networks of a row.
        repetitions: replicates of the bootstrap.
    """
    found = []
    for planted in PLANTED:
        looks = []
        for draw in range(draws):
            rng = np.random.default_rng((round(1000 * planted), draw))
            ours, theirs = made_rows(rng, planted, seeds)
            compared = difference(ours, theirs, repetitions)
            assert compared is not None
            looks.append(compared.metrics[METRIC])
        signs = np.array([look.sign for look in looks])
        values, visible = ([getattr(look, name) for look in looks] for name in ("value", "visible"))
        seen, denied = float((signs > 0).mean()), float((signs < 0).mean())
        found.append(SelfTest(planted, float(np.mean(values)), float(np.mean(visible)), seen, denied))
    return found


def self_test_text(found: list[SelfTest]) -> str:
    """The result as a table."""
    head = ["planted", "true difference of AUC", "says it can see", "seen", "seen the wrong way"]
    rows = [
        [f"{t.planted:g} sd", f"{t.truth:+.3f}", f"{t.visible:.3f}", f"{t.seen:.0%}", f"{t.denied:.0%}"] for t in found
    ]
    return aligned([head, *rows])


def is_sound(found: list[SelfTest]) -> bool:
    """Whether nothing is seen where nothing is, and the largest difference where it is."""
    nothing, *_, largest = found
    return nothing.seen + nothing.denied <= MOST_FALSE and largest.seen >= LEAST_SEEN and largest.denied == 0


def made_rows(
    rng: np.random.Generator, planted: float, seeds: int
) -> tuple[Mapping[tuple[int, int], UnitResult], Mapping[tuple[int, int], UnitResult]]:
    """Results of two rows on the same frames; the first one's classes are farther apart by what is planted.

    Frames of a city share a shift, and both rows share half of what is noise, as networks do.
    """
    cities = np.repeat(np.arange(CITIES), FRAMES)
    labels = (rng.random(len(cities)) < 0.5).astype(np.int8)
    shared = rng.normal(0, 0.5, CITIES)[cities] + rng.normal(0, 0.7, len(cities))
    rows: list[dict[tuple[int, int], UnitResult]] = []
    for distance in (DISTANCE + planted, DISTANCE):
        row = {}
        for seed in range(seeds):
            scores = distance * labels + shared + rng.normal(0, 0.7, len(cities))
            for fold in range(FOLDS):
                row[fold, seed] = _result(fold, seed, cities, labels, scores)
        rows.append(row)
    return rows[0], rows[1]


def _result(fold: int, seed: int, cities: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> UnitResult:
    def answers(where: np.ndarray) -> Answers:
        places = np.flatnonzero(where).tolist()
        return Answers(
            rows=tuple(f"{place}.jpg" for place in places),
            labels=tuple(int(labels[place]) for place in places),
            groups=tuple(f"city {cities[place]:02d}" for place in places),
            logits=tuple((-scores[place] / 2, scores[place] / 2) for place in places),
            select_score=tuple(abs(scores[place]) for place in places),
        )

    parts = {"val_select": answers(cities % FOLDS == (fold + 1) % FOLDS), "test": answers(cities % FOLDS == fold)}
    return UnitResult(unit=f"made.fold{fold}.seed{seed}", key="", answers=parts)
