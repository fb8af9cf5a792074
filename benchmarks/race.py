"""The race of recipes on drawn tasks, and whether a certificate of its winner is still true.

    python -m benchmarks.race --kept directory                # ten tasks, then 500 certificates; goes on where it was
    python -m benchmarks.race --kept directory --tasks 2 --draws 50

**Tasks.** Each draws frozen features of patches, in which roadwork is a shift of a few patches, another shift is a hard
sub-cluster of it, and groups share a scene. A small head is trained by every recipe of a grid: how patches are pooled,
linear or with a hidden layer, and optimiser with rate. The race of the product (`offline.learning.race`) picks one on
train + val_select. Then every recipe is trained on train alone, three times, and judged on 6,000 fresh rows: exits, the
mean over miss rates of 1 to 10 %. Regret: exits of the best recipe of all minus those of the pick. The best is chosen
on the rows that judge it, so the regret is on the safe side. "Clearly worse": the paired interval of the pick minus the
best recipe, over groups and trainings, lies below zero, on a test set as a night of this size has it (300 rows) and on
all fresh rows.

**Certificates.** Each draw makes score tables of 27 recipes that are alike or differ, lets the race pick one by its own
selection code, and certifies that one on val_calib with the product's calibration, once with all recipes equally good
and once not. The true risk is counted on 40,000 rows of the same law. A certificate is violated if it is above alpha.
Also: how often the simplest recipe is beaten where none is better.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor, nn
from torch.nn import functional as F

from offline.learning.race.competition import Competition, HeldOut
from offline.learning.race.exit_share import ExitShare
from offline.learning.race.group_folds import group_folds
from offline.learning.race.paired_test import ScoreTable, compared, marks, winner
from offline.learning.race.recipes import Axes, Recipe, recipes, starting_order
from offline.learning.race.rungs import halved, rungs
from offline.learning.race.units import Ledger, RaceProgress, Sequential, Unit, UnitOutcome
from offline.learning.settings import LearnSettings
from stage1.artifacts import write_atomic
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.settings import CalibrationSettings
from stage1.metrics.bootstrap import Interval, bootstrap, interval
from stage1.outputs import Stage1Outputs
from stage1.policy import ScrcPolicy
from stage1.probability.calibrator import log_softmax
from stage1.probability.fit import PENALTIES, fit_affine

FALSE_ALARMS = 0.02
PATCHES, WIDTH, EPOCHS = 16, 24, 12
TRAININGS, TEST = 3, 300
AXES: Axes = {
    "pooling": {"mean": {"pooling": "mean"}, "largest": {"pooling": "largest"}, "both": {"pooling": "both"}},
    "head": {"linear": {"hidden": 0}, "hidden": {"hidden": 32}},
    "optimiser": {
        "adamw": {"optimiser": "adamw", "rate": 3e-3},
        "adamw, faster": {"optimiser": "adamw", "rate": 1e-2},
        "sgd": {"optimiser": "sgd", "rate": 3e-2},
    },
}


@dataclass(frozen=True)
class Rows:
    """Drawn rows: patches `(N, P, D)`, labels `(N,)` and groups."""

    patches: Tensor
    labels: np.ndarray
    groups: list[str]

    def at(self, rows: np.ndarray) -> Rows:
        return Rows(self.patches[torch.from_numpy(rows)], self.labels[rows], [self.groups[row] for row in rows])


@dataclass(frozen=True)
class Law:
    """What a task draws from; the easy and the hard kind of roadwork have a direction each."""

    seed: int

    def draw(self, rows: int, seed: int) -> Rows:
        fixed, rng = np.random.default_rng((self.seed, 0)), np.random.default_rng((self.seed, 1, seed))
        easy, hard, decoy = fixed.normal(size=(3, WIDTH)) / np.sqrt(WIDTH)
        share_hard, most = fixed.uniform(0.05, 0.25), int(fixed.choice([3, 8, PATCHES]))
        # What covers more of the picture is fainter, so that no task is easy.
        strength = fixed.uniform(7.0, 11.0) / np.sqrt(most / 3)
        groups = rng.integers(rows // 2, size=rows)
        labels = (np.random.default_rng((self.seed, 2, seed)).random(rows // 2) < 0.4)[groups].astype(np.int8)
        scene = rng.normal(size=(rows // 2, WIDTH))[groups]
        patches = rng.normal(size=(rows, PATCHES, WIDTH)) + 0.5 * scene[:, None]
        kinds = np.where(rng.random(rows) < share_hard, 1, 0)
        for row in range(rows):
            some = rng.choice(PATCHES, size=int(rng.integers(-(-most // 3), most + 1)), replace=False)
            if labels[row]:
                patches[row, some] += strength * (hard if kinds[row] else easy) * (0.6 if kinds[row] else 1.0)
            elif rng.random() < 0.3:
                patches[row, some] += strength * 0.7 * decoy
        tensor = torch.from_numpy(patches.astype(np.float32))
        return Rows(tensor, labels, [f"{seed}/{group}" for group in groups.tolist()])


class Head(nn.Module):
    """A small head on pooled patches."""

    def __init__(self, pooling: str, hidden: int) -> None:
        super().__init__()
        self.pooling = pooling
        width = WIDTH * (2 if pooling == "both" else 1)
        inner = [nn.Linear(width, hidden), nn.GELU()] if hidden else []
        self.layers = nn.Sequential(*inner, nn.Linear(hidden or width, 2))

    def forward(self, patches: Tensor) -> Tensor:
        mean, largest = patches.mean(1), patches.amax(1)
        pooled = {"mean": mean, "largest": largest, "both": torch.cat([mean, largest], 1)}[self.pooling]
        logits: Tensor = self.layers(pooled)
        return logits


def trained(recipe: dict[str, Any], share: float, train: Rows, chooser: Rows, seed: int) -> tuple[Head, Tensor]:
    """The head after its best epoch on the rows that choose, and their logits."""
    torch.manual_seed(seed)
    head = Head(recipe["pooling"], recipe["hidden"])
    kind = torch.optim.AdamW if recipe["optimiser"] == "adamw" else torch.optim.SGD
    epochs, size, labels = max(1, round(EPOCHS * share)), 32, torch.from_numpy(train.labels).long()
    optimiser = kind(head.parameters(), lr=recipe["rate"], weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * (len(labels) // size))
    best, kept = np.inf, head.state_dict()
    for _ in range(epochs):
        for index in torch.randperm(len(labels))[: len(labels) // size * size].reshape(-1, size):
            optimiser.zero_grad()
            F.cross_entropy(head(train.patches[index]), labels[index]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            loss = float(F.cross_entropy(head(chooser.patches), torch.from_numpy(chooser.labels).long()))
        if loss < best:
            best, kept = loss, {name: tensor.clone() for name, tensor in head.state_dict().items()}
    head.load_state_dict(kept)
    with torch.no_grad():
        return head, head(chooser.patches)


def log_odds(head: Head, chooser: Rows, chosen: Tensor, rows: Rows) -> np.ndarray:
    """Calibrated on the rows that choose, as the stage does it."""
    fitted = fit_affine("dirichlet", chosen.numpy(), chooser.labels, PENALTIES["dirichlet"])
    with torch.no_grad():
        log_p = log_softmax(head(rows.patches).numpy())
    of_one, of_zero, shift = fitted.slopes
    found: np.ndarray = of_one * log_p[:, 1] - of_zero * log_p[:, 0] + shift
    return found


def raced(known: Rows, field: Sequence[Recipe], seed: int, ledger: Path, settings: LearnSettings) -> tuple[str, float]:
    """Name of the recipe that the race picks, and its cost in whole trainings."""
    folds = group_folds(known.groups, known.labels, settings.folds, seed)

    def work(unit: Unit) -> UnitOutcome:
        after = (unit.fold + 1) % settings.folds
        train = known.at(np.flatnonzero((folds != unit.fold) & (folds != after)))
        chooser, held = known.at(np.flatnonzero(folds == after)), known.at(np.flatnonzero(folds == unit.fold))
        head, chosen = trained(dict(unit.overrides), unit.share, train, chooser, unit.seed)
        odds = log_odds(head, chooser, chosen, held)
        return UnitOutcome(
            recipe=unit.recipe, share=unit.share, fold=unit.fold, seed=unit.seed, log_odds=tuple(odds.tolist())
        )

    result = Competition(
        order=starting_order(field, None, seed, settings.starters),
        rows=HeldOut(known.labels, known.groups, folds),
        settings=settings,
        false_alarm_rate=FALSE_ALARMS,
        seed=seed,
        ledger=Ledger(ledger),
        executor=Sequential(),
        work=work,
        progress=RaceProgress(lambda *_: None),
    ).run()
    return result.winner.name, sum(one.trainings for one in result.entrants)


def spread(shares: dict[str, list[ExitShare]], pick: str, best: str, groups: Sequence[str], seed: int) -> Interval:
    """Of the pick minus the best: groups are drawn again, and so are the trainings of both."""
    again = np.random.default_rng((seed, 1))

    def difference(weights: np.ndarray) -> float:
        drawn = [
            [shares[name][at](weights) for at in again.integers(TRAININGS, size=TRAININGS)] for name in (pick, best)
        ]
        return float(np.mean(drawn[0]) - np.mean(drawn[1]))

    return interval(bootstrap(difference, groups, 300, np.random.default_rng(seed))[:, 0])


def task(seed: int, kept: Path, settings: LearnSettings) -> dict[str, Any]:
    """One drawn task: what the race picks, and what every recipe is worth."""
    law = Law(seed)
    train, select, fresh = law.draw(900, 0), law.draw(300, 1), law.draw(6000, 2)
    known = Rows(
        torch.cat([train.patches, select.patches]),
        np.concatenate([train.labels, select.labels]),
        [*train.groups, *select.groups],
    )
    field = recipes(AXES, {})
    began = time.monotonic()
    pick, cost = raced(known, field, seed, kept / f"task {seed}", settings)
    minutes = (time.monotonic() - began) / 60
    odds_of: dict[str, list[np.ndarray]] = {}
    for recipe in field:
        heads = [trained(dict(recipe.overrides), 1.0, train, select, 100 + again) for again in range(TRAININGS)]
        odds_of[recipe.name] = [log_odds(head, select, chosen, fresh) for head, chosen in heads]
    shares = {name: [ExitShare(odds, fresh.labels, FALSE_ALARMS) for odds in own] for name, own in odds_of.items()}
    ones = np.ones(len(fresh.labels))
    worth = {name: float(np.mean([share(ones) for share in own])) for name, own in shares.items()}
    best = max(worth, key=worth.__getitem__)
    ends = spread(shares, pick, best, fresh.groups, seed)
    few = {
        name: [ExitShare(odds[:TEST], fresh.labels[:TEST], FALSE_ALARMS) for odds in own]
        for name, own in odds_of.items()
    }
    at_night = spread(few, pick, best, fresh.groups[:TEST], seed)
    return {
        "task": seed,
        "pick": pick,
        "exits": worth[pick],
        "best": best,
        "best_exits": worth[best],
        "simplest_regret": worth[best] - worth[field[0].name],
        "regret": worth[best] - worth[pick],
        "lower": ends.lower,
        "upper": ends.upper,
        "lower_at_night": at_night.lower,
        "upper_at_night": at_night.upper,
        "trainings": cost,
        "minutes": minutes,
    }


def drawn_scores(labels: np.ndarray, worth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scores `(R, N)` of recipes of some separation, whose noise is mostly shared, as that of models of one set is."""
    shared, own = rng.normal(size=len(labels)), rng.normal(size=(len(worth), len(labels)))
    drawn: np.ndarray = worth[:, None] * (labels - 0.5) + np.sqrt(0.8) * shared + np.sqrt(0.2) * own
    return drawn


def selected(
    labels: np.ndarray, groups: list[str], worth: np.ndarray, rng: np.random.Generator
) -> tuple[int, np.ndarray]:
    """The recipe that the product's own selection picks from score tables, and its scores after a whole training.

    Short trainings are worth less, and blurred.
    """
    settings, names = LearnSettings(), [f"{number:02d}" for number in range(len(worth))]
    plan, folds = rungs(settings.folds, 1), group_folds(groups, labels, settings.folds, 0)
    # What a recipe says of a row is much the same on every rung.
    base = drawn_scores(labels, np.zeros(len(worth)), rng)

    def measure(number: int, started: Sequence[str]) -> ScoreTable:
        rung = plan[number]
        held = np.flatnonzero(folds < rung.folds)
        blur = rng.normal(size=(len(worth), len(labels))) * np.sqrt(0.1 * (1 / rung.share - 1))
        grown = (base + worth[:, None] * (0.7 + 0.3 * rung.share) * (labels - 0.5) + blur)[:, held]
        scores = {name: grown[int(name)][None] for name in started}
        return ScoreTable(labels[held], [groups[row] for row in held], scores, {})

    table, _ = halved(names, plan, settings.finalists, measure, lambda found: marks(found, FALSE_ALARMS))
    comparisons = compared(
        table, names[0], false_alarm_rate=FALSE_ALARMS, level=settings.level, repetitions=400, rng=rng
    )
    pick = int(winner(marks(table, FALSE_ALARMS), comparisons, names[0]))
    return pick, base[pick] + worth[pick] * (labels - 0.5)


def labelled(scores: np.ndarray, labels: np.ndarray, prefix: str) -> LabelledOutputs:
    logits = np.stack([np.zeros(len(scores)), scores], axis=1).astype(np.float32)
    outputs = Stage1Outputs(logits, np.abs(scores).astype(np.float32))
    ids = [f"{prefix}{row}" for row in range(len(labels))]
    return LabelledOutputs(outputs, labels, ids, ids)


def certificate(seed: int, *, alike: bool, alpha: float, delta: float) -> dict[str, Any]:
    """One draw: the race picks, val_select chooses candidates and val_calib certifies; the risk is counted."""
    rng = np.random.default_rng((seed, int(alike)))
    worth = np.full(27, 3.0) if alike else 3.0 + rng.normal(0, 0.25, 27)
    draws = {name: (rng.random(rows) < 0.4).astype(np.int8) for name, rows in (("train", 800), ("val_select", 300))}
    known = np.concatenate([*draws.values()])
    pick, scores = selected(known, [str(row // 2) for row in range(len(known))], worth, rng)
    # The rows of val_select are those that the race saw, with what is hard about each of them.
    chosen = slice(len(draws["train"]), None)
    sets = {"val_select": labelled(scores[chosen], draws["val_select"], "val_select/")}
    for name, rows in (("val_calib", 600), ("fresh", 40_000)):
        labels = (rng.random(rows) < 0.4).astype(np.int8)
        sets[name] = labelled(drawn_scores(labels, worth[[pick]], rng)[0], labels, f"{name}/")
    settings = CalibrationSettings(alpha=alpha, delta=delta, unit="row", spending="single_use", false_alarm_rate=0.05)
    params = calibrate(sets["val_select"], sets["val_calib"], settings, CalibrationContext("0" * 64, "0" * 64))
    if params.rule is None:
        return {"draw": seed, "picked": pick, "risk": None}
    decided = ScrcPolicy(params).decide(sets["fresh"].outputs)
    exited = sets["fresh"].positive & decided.exits
    return {"draw": seed, "picked": pick, "risk": float((exited & (decided.exit_label == 0)).sum() / exited.sum())}


def kept_or(path: Path, make: object) -> dict[str, Any]:
    """What is kept of a piece of work, or the work."""
    if not path.exists():
        assert callable(make)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(make()).encode())
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def tell_tasks(found: list[dict[str, Any]]) -> None:
    print("\ntask  pick                                  exits   best recipe                           exits  regret")
    for one in found:
        print(
            f"{one['task']:>4}  {one['pick']:<36}  {one['exits']:.3f}  {one['best']:<36}  {one['best_exits']:.3f}  "
            f"{one['regret']:+.3f} [{-one['upper']:+.3f}, {-one['lower']:+.3f}]"
        )
    regret, simplest, trainings, minutes = (
        float(np.mean([one[name] for one in found])) for name in ("regret", "simplest_regret", "trainings", "minutes")
    )
    print(
        f"mean regret {regret:.4f}, of always taking the simplest {simplest:.4f}; a race takes {trainings:.1f} "
        f"trainings and {minutes:.2f} minutes"
    )
    others = [one for one in found if one["pick"] != one["best"]]
    for where, suffix in (("a test set of a night", "_at_night"), ("all fresh rows", "")):
        worse = sum(one[f"upper{suffix}"] < 0 for one in others)
        half = np.mean([one[f"upper{suffix}"] - one[f"lower{suffix}"] for one in others] or [0.0]) / 2
        print(
            f"clearly worse than the best recipe on {where}: {worse} of {len(found)}; power: seen if it exits less by "
            f"about {half:.3f}"
        )


def tell_certificates(found: list[dict[str, Any]], *, alike: bool, alpha: float, delta: float) -> None:
    risks = [one["risk"] for one in found if one["risk"] is not None]
    wrong, draws = sum(risk > alpha for risk in risks), len(found)
    bar = delta + 3 * np.sqrt(delta * (1 - delta) / draws)
    beaten = sum(one["picked"] != 0 for one in found) / draws
    kind = "all recipes alike" if alike else "recipes differ"
    seen = next(rate for rate in np.linspace(delta, 1, 1000) if binom.sf(bar * draws, draws, rate) >= 0.9)
    print(
        f"\n{kind}: {len(risks)} of {draws} certified, violated {wrong} = {wrong / draws:.3f}, bar {bar:.3f}; "
        f"the simplest recipe was beaten in {beaten:.3f}\nPower: a violation rate of {seen:.3f} would be found with "
        "chance 0.9."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kept", type=Path, required=True, help="directory of results; what is there is not run again")
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--delta", type=float, default=0.1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = LearnSettings(recipe="auto", budget_trainings=1e6, repetitions=1000)
    tasks = []
    for seed in range(options.tasks):
        tasks.append(kept_or(options.kept / f"task-{seed}.json", lambda seed=seed: task(seed, options.kept, settings)))
        print(f"task {seed + 1} of {options.tasks}", flush=True)
    if tasks:
        tell_tasks(tasks)
    for alike in (True, False):
        levels = {"alike": alike, "alpha": options.alpha, "delta": options.delta}
        name = f"draws-{options.alpha}-{options.delta}-{alike}"
        found = [
            kept_or(options.kept / name / f"{seed}.json", lambda seed=seed, levels=levels: certificate(seed, **levels))
            for seed in range(options.draws)
        ]
        if found:
            tell_certificates(found, **levels)


if __name__ == "__main__":
    main()
