"""What a budget of half of the hand-offs earns, against dropping as many by chance; and whether it is ever exceeded.

    python -m benchmarks.stage2_load.budget_day
    python -m benchmarks.stage2_load.budget_day --days 8 --kills 300 --json budget_day.json

Days of traffic run through the budget of the product, on a clock that is passed in: challenges come by chance, thrice
as many by day as by night. Stage-1 is calibrated, exits where it is at least 95 % sure and defers the rest. Stage-2 is
better and independent of it. The reward is the subnet's own. Every day of traffic is drawn anew. Compared are: all to
Stage-2, none, the budget by expected gain, the same bucket that asks whoever comes first, and as many as the budget
asked drawn by chance. Then real processes that spend from one budget are killed at random moments, on a clock that is
20 000 times as fast.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.stage2_load.killed import killed, most_in_a_period
from stage1.metrics.reward import challenge_rewards
from stage2_bridge.protection.budget.budget import Budget
from stage2_bridge.protection.budget.cost import Cost
from stage2_bridge.protection.budget.state_file import StateFile
from stage2_bridge.protection.settings import BudgetSettings

DAY_S = 86400.0
CHALLENGES_A_DAY = 6000
SURE = 0.95
# Distances of the classes' scores in standard deviations: areas under the ROC curve of 0.933 and 0.999.
STAGE1_APART, STAGE2_APART = 2.12, 4.4
CHANCES = 50


@dataclass(frozen=True)
class Traffic:
    """Challenges in the order in which they come.

    Attributes:
        at: in seconds from the beginning, `(N,)`.
        labels: 0 or 1, `(N,)`.
        stage1: Stage-1's calibrated probability, `(N,)`.
        stage2: Stage-2's probability, `(N,)`.
        deferred: `(N,)`.
    """

    at: NDArray[np.float64]
    labels: NDArray[np.int64]
    stage1: NDArray[np.float64]
    stage2: NDArray[np.float64]
    deferred: NDArray[np.bool_]

    def rewarded(self, asked: NDArray[np.bool_], since: float) -> tuple[float, float]:
        """Mean reward and accuracy from a time on, if these were handed on."""
        answers = np.where(asked, self.stage2, self.stage1)
        late = self.at >= since
        right = (answers > 0.5) == (self.labels == 1)
        return float(challenge_rewards(self.labels, answers).reward[late].mean()), float(right[late].mean())


def traffic(days: int, seed: int) -> Traffic:
    """Challenges of so many days."""
    rng = np.random.default_rng(seed)
    number = rng.poisson(CHALLENGES_A_DAY * days)
    # By rejection, from a rate of 1 + cos/2 in the time of a day.
    times = np.empty(0)
    while len(times) < number:
        drawn = rng.uniform(0, days * DAY_S, 2 * number)
        kept = rng.uniform(0, 1.5, 2 * number) < 1 + 0.5 * np.cos(2 * np.pi * (drawn / DAY_S - 0.5))
        times = np.concatenate([times, drawn[kept]])
    labels = rng.integers(0, 2, number)

    def probability(apart: float) -> NDArray[np.float64]:
        score = rng.normal(apart * (labels - 0.5))
        return np.asarray(1 / (1 + np.exp(-apart * score)))

    stage1 = probability(STAGE1_APART)
    deferred = np.maximum(stage1, 1 - stage1) < SURE
    return Traffic(np.sort(times[:number]), labels, stage1, probability(STAGE2_APART), deferred)


def spent(seen: Traffic, settings: BudgetSettings, path: Path, *, by_gain: bool) -> NDArray[np.bool_]:
    """Which challenges a budget lets pass to Stage-2."""
    now = 0.0

    def clock() -> float:
        return now

    budget = Budget(settings, 1.0, StateFile(path), clock=clock, now=clock)
    asked = np.zeros(len(seen.at), np.bool_)
    for place in np.flatnonzero(seen.deferred):
        now = float(seen.at[place])
        claim = budget.claim(float(seen.stage1[place]) if by_gain else None)
        asked[place] = claim.reserve(Cost()) is not None
    return asked


def by_chance(number: int, among: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """As many of them, drawn."""
    asked = np.zeros(len(among), np.bool_)
    asked[rng.choice(np.flatnonzero(among), number, replace=False)] = True
    return asked


def compared(days: int, seed: int) -> dict[str, float]:
    """One stretch of traffic in all ways, judged from the second day on; the first one spends what was there."""
    seen = traffic(days, seed)
    limit = int(seen.deferred.sum() / days / 2)
    settings = BudgetSettings(calls=limit, per="day")
    late = seen.at >= DAY_S
    with tempfile.TemporaryDirectory() as home:
        gain = spent(seen, settings, Path(home) / "gain", by_gain=True)
        first = spent(seen, settings, Path(home) / "first", by_gain=False)
    rng = np.random.default_rng(seed + 1)
    chances = [by_chance(int((gain & late).sum()), seen.deferred & late, rng) for _ in range(CHANCES)]
    all_of_them, none = seen.rewarded(seen.deferred, DAY_S), seen.rewarded(np.zeros_like(gain), DAY_S)
    drawn = np.array([seen.rewarded(one, DAY_S) for one in chances]).mean(0)
    budgeted, first_come = seen.rewarded(gain, DAY_S), seen.rewarded(first, DAY_S)
    return {
        "handed_share": float(gain[late].sum() / seen.deferred[late].sum()),
        "first_come_share": float(first[late].sum() / seen.deferred[late].sum()),
        "most_in_a_day_of_limit": most_in_a_period([float(one) for one in seen.at[gain]], DAY_S) / limit,
        "reward_all": all_of_them[0],
        "reward_budget": budgeted[0],
        "reward_first_come": first_come[0],
        "reward_by_chance": float(drawn[0]),
        "reward_none": none[0],
        "accuracy_all": all_of_them[1],
        "accuracy_budget": budgeted[1],
        "accuracy_first_come": first_come[1],
        "accuracy_by_chance": float(drawn[1]),
        "accuracy_none": none[1],
    }


def main(words: Sequence[str] | None = None) -> None:
    """Simulate, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=3, help="of each stretch, of which the first is not judged")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write everything there")
    options = parser.parse_args(words)
    rounds = [compared(options.days, seed) for seed in range(options.rounds)]
    print(f"{options.rounds} stretches of {options.days} days, {CHALLENGES_A_DAY} challenges a day")
    for key in rounds[0]:
        values = [one[key] for one in rounds]
        print(f"{key:<26}{np.median(values):8.4f}   {min(values):.4f} to {max(values):.4f}")
    gained = [one["reward_budget"] - one["reward_by_chance"] for one in rounds]
    print(f"budget less chance, reward  {np.median(gained):+.4f}   {min(gained):+.4f} to {max(gained):+.4f}")
    settings = BudgetSettings(calls=1000, per="day")
    with tempfile.TemporaryDirectory() as home:
        found = killed(Path(home), settings, kills=options.kills, speed=20_000.0)
    print(
        f"{options.kills} kills in {found.seconds / DAY_S:.2f} days of fast time: {found.calls} calls in {found.lives} "
        f"lives, {found.set_aside:.0f} set aside, at most {found.most} in a day of {settings.calls}"
    )
    if options.json:
        options.json.write_text(json.dumps({"rounds": rounds, "kills": asdict(found)}, indent=1))


if __name__ == "__main__":
    main()
