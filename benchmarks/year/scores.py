"""Years of certificates on scores alone: how many folds of val_calib ever had a certificate that was wrong.

Rows come each night, in groups of one row, and the folds, the budget and the calibration are the product's own. A
night's model differs from the last one's, as in `benchmarks.nights`; it looks whenever a look can be paid for, which is
more often than the product does. A certificate is wrong if the miss rate on exits of 100,000 fresh rows is above alpha;
where it is within one part in a hundred of it, nobody could tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from offline.certify.compact_look import LedgerEntry
from offline.certify.folds import Fold, budget_of, folds_on_offer, most_powerful
from offline.splits.splits_file import SplitRow, Splits, SplitSet
from stage1.certificate.calibrate import CalibrationContext, calibrate, obstacle
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.statistics.binomial import trials_needed
from stage1.exit_rule import ExitRule
from stage1.outputs import Stage1Outputs

NIGHTS, FIRST, EACH, SELECT = 365, 240, 4, 400
SEPARATION, DRIFT, SHARED = 3.4, 0.1, 0.8
FRESH = 100_000
SETTINGS = CalibrationSettings(alpha=0.05, delta=0.1, unit="row", gate_size=1, grid_size=200, stream="originals")


@dataclass
class Rows:
    """Rows that all models see: labels and the part of the scores that models share."""

    labels: NDArray[np.int8]
    noise: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int) -> Rows:
        return cls((rng.random(count) < 0.5).astype(np.int8), rng.normal(size=count))

    def outputs(self, rng: np.random.Generator, separation: float) -> Stage1Outputs:
        own = rng.normal(size=len(self.labels))
        score = separation * (self.labels - 0.5) + np.sqrt(SHARED) * self.noise + np.sqrt(1 - SHARED) * own
        return Stage1Outputs(np.stack([-score / 2, score / 2], axis=1).astype(np.float32), np.abs(score, dtype="f4"))


@dataclass
class FoldHistory:
    """What the certificates on one fold came to."""

    looks: int = 0
    certified: int = 0
    wrong: int = 0


@dataclass
class ScoreYear:
    """One year."""

    seed: int
    folds: dict[int, FoldHistory] = field(default_factory=dict)

    def run(self) -> list[FoldHistory]:
        rng = np.random.default_rng([17, self.seed])
        chose = Rows.draw(rng, SELECT)
        calib = Rows.draw(rng, FIRST + EACH * NIGHTS)
        names = [f"{number:05d}" for number in range(len(calib.labels))]
        select_names = [f"s{number}" for number in range(SELECT)]
        entries: list[LedgerEntry] = []
        fold_of: dict[str, int] = {}
        for night in range(NIGHTS):
            there = names[: FIRST + EACH * night]
            if not self._affordable(fold_of, there, calib.labels):
                continue
            fold = self._fold(there, entries, calib.labels)
            places = [int(row) for row in fold.rows]
            separation = SEPARATION * (1 + DRIFT * rng.uniform(-1, 1))
            val_select = _labelled(chose, chose.outputs(rng, separation), select_names)
            part = Rows(calib.labels[places], calib.noise[places])
            val_calib = _labelled(part, part.outputs(rng, separation), list(fold.rows))
            context = CalibrationContext("e" * 64, "p" * 64, prior_uses=fold.uses, spent_before=fold.spent)
            if obstacle(val_select, val_calib, SETTINGS, context):
                continue
            key, level = f"{night:016x}", budget_of(fold, SETTINGS).level
            entries.append(LedgerEntry(key=key, rows=fold.rows, groups=fold.rows, level=level, at=""))
            opened = {fold_of[row] for row in fold.rows if row in fold_of}
            number = min(opened) if opened else len(self.folds)
            fold_of |= dict.fromkeys(fold.rows, number)
            history = self.folds.setdefault(number, FoldHistory())
            history.looks += 1
            params = calibrate(val_select, val_calib, SETTINGS, context)
            if params.rule is not None:
                history.certified += 1
                history.wrong += _risk(params.rule, rng, separation) > params.alpha
        return [*self.folds.values()]

    def _affordable(self, fold_of: dict[str, int], there: list[str], labels: NDArray[np.int8]) -> bool:
        """Whether any fold can be looked at: one with looks left, or enough fresh rows for one of their own."""
        if any(history.looks < SETTINGS.looks for history in self.folds.values()) or not self.folds:
            return True
        fresh = [int(row) for row in there if row not in fold_of]
        return int(labels[fresh].sum()) >= trials_needed(0, SETTINGS.alpha, SETTINGS.delta / SETTINGS.looks)

    def _fold(self, there: list[str], entries: list[LedgerEntry], labels: NDArray[np.int8]) -> Fold:
        rows = tuple(SplitRow(row=row, group=row) for row in there)
        sets = {"val_calib": SplitSet(rows=rows, groups=len(rows), positives=0)}
        splits = Splits(seed=0, data_sha256="d", sets=sets, folds=(tuple(there),))

        def units(some: Sequence[str]) -> int:
            return sum(int(labels[int(row)]) for row in some)

        needed = trials_needed(0, SETTINGS.alpha, SETTINGS.delta / SETTINGS.looks)
        offers = folds_on_offer(splits, entries, delta=SETTINGS.delta, enough=lambda some: units(some) >= needed)
        return most_powerful(offers, units, SETTINGS)


def many_years(years: int, seed: int) -> str:
    """What became of the folds of so many years, in words."""
    folds = [fold for number in range(years) for fold in ScoreYear(seed * 10**6 + number).run()]
    wrong = sum(fold.wrong > 0 for fold in folds)
    share, error = wrong / len(folds), (SETTINGS.delta * (1 - SETTINGS.delta) / len(folds)) ** 0.5
    limit = SETTINGS.delta + 3 * error
    certified = sum(fold.certified for fold in folds)
    return (
        f"{years} years: {len(folds)} folds, {sum(fold.looks for fold in folds)} looks, {certified} certificates, "
        f"{sum(fold.wrong for fold in folds)} of them false\n"
        f"folds with any false certificate: {wrong} of {len(folds)} = {share:.4f}; delta + 3 standard errors = "
        f"{limit:.4f}: {'kept' if share <= limit else 'BROKEN'}"
    )


def _labelled(rows: Rows, outputs: Stage1Outputs, names: list[str]) -> LabelledOutputs:
    return LabelledOutputs(outputs, rows.labels, names, names)


def _risk(rule: ExitRule, rng: np.random.Generator, separation: float) -> float:
    fresh = Rows.draw(rng, FRESH)
    said = rule.exit_labels(fresh.outputs(rng, separation))
    exits = (fresh.labels == 1) & (said >= 0)
    return float(np.sum((fresh.labels == 1) & (said == 0)) / max(1, exits.sum()))
