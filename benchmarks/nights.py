"""Thirty nights of certificates on the same calibration rows: what each way of dividing delta is worth.

    python -m benchmarks.nights --positives 300 --draws 60

A night's model differs from the last one's: four fifths of the noise of a row's score is the same every night, and the
distance between the classes varies by a tenth. `looks` asks val_select first, and looks at val_calib only if the model
could let more exit than the champion; the others look every night. Columns: looks at val_calib, certified nights, exit
coverage of the live bundle on the last night, its age, and the share of draws in which any certificate was wrong or the
live one was on some night, by the true miss rate on 200,000 fresh rows. The promise of `looks` and `nights` is that the
first of these shares is at most delta = 0.1.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from stage1.certificate.budget import Spending
from stage1.certificate.calibrate import CalibrationContext, calibrate, obstacle
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.search.candidates import select
from stage1.certificate.settings import CalibrationSettings
from stage1.exit_rule import ExitRule
from stage1.outputs import Stage1Outputs

NIGHTS = 30
PREVALENCE, SEPARATION, SPREAD, SHARED = 0.3, 3.19, 0.10, 0.8
FRESH = 200_000


@dataclass(frozen=True)
class Rows:
    """Labels of some rows, and the part of their scores that all models share."""

    labels: np.ndarray
    noise: np.ndarray
    ids: list[str]

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int, prefix: str) -> Rows:
        labels = (np.arange(count) < PREVALENCE * count).astype(np.int8)
        return cls(labels, rng.normal(size=count), [f"{prefix}{row}" for row in range(count)])

    def seen_by(self, rng: np.random.Generator, separation: float) -> LabelledOutputs:
        """What a model says of them."""
        own = rng.normal(size=len(self.labels))
        score = separation * (self.labels - 0.5) + np.sqrt(SHARED) * self.noise + np.sqrt(1 - SHARED) * own
        trust = np.abs(score) + 0.5 * rng.normal(size=len(score))
        logits = np.stack([-score / 2, score / 2], axis=1).astype(np.float32)
        return LabelledOutputs(Stage1Outputs(logits, trust.astype(np.float32)), self.labels, self.ids, self.ids)


def true_rates(rule: ExitRule, rng: np.random.Generator, separation: float) -> tuple[float, float]:
    """Miss rate on exits, and exit coverage, on fresh rows."""
    fresh = Rows.draw(rng, FRESH, "").seen_by(rng, separation)
    said = rule.exit_labels(fresh.outputs)
    exits = fresh.positive & (said >= 0)
    return float(np.sum(fresh.positive & (said == 0)) / exits.sum()), float(np.mean(said >= 0))


@dataclass
class Season:
    """What came of the nights of one draw."""

    looks: int = 0
    certified: int = 0
    wrong: bool = False
    live: tuple[float, float] | None = None
    live_wrong: bool = False
    age: int = 0


def season(rng: np.random.Generator, positives: int, settings: CalibrationSettings) -> Season:
    """Thirty nights on one draw of val_select and val_calib."""
    chose, judged = Rows.draw(rng, 1500, "s"), Rows.draw(rng, round(positives / PREVALENCE), "c")
    found, best = Season(), -1.0
    for _ in range(NIGHTS):
        separation = SEPARATION * (1 + SPREAD * rng.uniform(-1, 1))
        val_select, val_calib = chose.seen_by(rng, separation), judged.seen_by(rng, separation)
        found.age += 1
        context = CalibrationContext("e" * 64, "p" * 64, prior_uses=found.looks)
        expected = select(val_select, settings).expected_coverage
        screened = settings.spending == "looks" and expected <= best
        if screened or obstacle(val_select, val_calib, settings, context):
            continue
        found.looks += 1
        params = calibrate(val_select, val_calib, settings, context)
        if params.rule is not None:
            risk, coverage = true_rates(params.rule, rng, separation)
            found.certified += 1
            found.wrong |= risk > settings.alpha
            if found.live is None or coverage > found.live[1] - 0.05:
                found.live, found.age, best = (risk, coverage), 0, max(best, expected)
        found.live_wrong |= found.live is not None and found.live[0] > settings.alpha
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positives", type=int, nargs="+", default=[300, 1000])
    parser.add_argument("--draws", type=int, default=60)
    options = parser.parse_args()
    error = 0.3 / options.draws**0.5
    print(
        f"{options.draws} draws; the standard error of a share of 0.1 is {error:.3f}, so 0.1 is exceeded above", end=" "
    )
    print(f"{0.1 + 3 * error:.2f}")
    print("positives  spending     looks  certified  coverage   age   any wrong  live wrong")
    for positives in options.positives:
        for spending in ("looks", "nights", "single_use"):
            chosen: Spending = spending
            settings = CalibrationSettings(unit="row", spending=chosen, gate_size=8, grid_size=300)
            rng = np.random.default_rng(positives)
            ran = [season(rng, positives, settings) for _ in range(options.draws)]
            live = [one.live[1] if one.live else 0.0 for one in ran]
            means = [
                float(np.mean(column)) for column in zip(*((o.looks, o.certified, o.age) for o in ran), strict=True)
            ]
            shares = np.mean([o.wrong for o in ran]), np.mean([o.live_wrong for o in ran])
            print(
                f"{positives:>9}  {spending:<10}  {means[0]:>6.1f}  {means[1]:>9.1f}  {np.mean(live):>8.3f}"
                f"  {means[2]:>4.1f}"
                f"  {shares[0]:>10.3f}  {shares[1]:>10.3f}"
            )


if __name__ == "__main__":
    main()
