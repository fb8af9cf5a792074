"""How often the gate promotes a challenger whose true difference from the champion is known.

    python -m benchmarks.gate

Two models answer the same groups of three dependent frames; four fifths of what decides whether they are right, or let
an image exit, is the same for both. The champion has an accuracy of 0.9 and an exit coverage of 0.7. False refusals are
in the row of no difference, false promotions in the rows of losses beyond the margins (0.03 and 0.05). The last table
plays sixteen nights, each challenger 2.5 points of coverage worse than the champion of that night.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.made_bundles import certificate
from benchmarks.rivals import rivals
from offline.publish.comparison import compare
from offline.publish.settings import GateSettings

# Of accuracy and of exit coverage, challenger minus champion.
DIFFERENCES = (
    (0.0, 0.0),
    (0.01, 0.02),
    (-0.01, 0.0),
    (0.0, -0.025),
    (-0.03, 0.0),
    (0.0, -0.05),
    (-0.05, 0.0),
    (0.0, -0.1),
)
GROUPS = (100, 300, 1000)
NIGHTS, STEP = 16, 0.025


def promoted(rng: np.random.Generator, groups: int, accuracy: float, coverage: float, settings: GateSettings) -> bool:
    """Whether a challenger with these true differences passes."""
    new, old = rivals(certificate(), rng, groups, accuracy=(0.9 + accuracy, 0.9), coverage=(0.7 + coverage, 0.7))
    return not compare(new, old, "champion", settings, like=True).reasons


def slide(rng: np.random.Generator, groups: int, settings: GateSettings, *, remembers: bool) -> float:
    """Exit coverage of the champion after nights in which each challenger is a little worse than the champion."""
    champion = best = 0.7
    for _ in range(NIGHTS):
        challenger = champion - STEP
        rounds = [champion, best] if remembers and best > champion else [champion]
        won = True
        for other in rounds:
            new, old = rivals(certificate(), rng, groups, coverage=(challenger, other))
            won = won and not compare(new, old, "other", settings, like=True).reasons
        champion = challenger if won else champion
        best = max(best, champion)
    return champion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--draws", type=int, default=400, help="of each cell; the standard error is at most 0.5 / sqrt(draws)"
    )
    parser.add_argument("--repetitions", type=int, default=500, help="replicates of the bootstrap")
    options = parser.parse_args()
    settings = GateSettings(repetitions=options.repetitions)
    print(
        f"share of {options.draws} challengers that are promoted, standard error {0.5 / options.draws**0.5:.3f} at most"
    )
    print("accuracy  coverage   " + "".join(f"{groups:>6} groups" for groups in GROUPS))
    for accuracy, coverage in DIFFERENCES:
        shares = []
        for groups in GROUPS:
            rng = np.random.default_rng(groups)
            won = [promoted(rng, groups, accuracy, coverage, settings) for _ in range(options.draws)]
            shares.append(f"{np.mean(won):>13.3f}")
        print(f"{accuracy:>+8.3f}  {coverage:>+8.3f}   " + "".join(shares))
    print(f"exit coverage after {NIGHTS} nights, each challenger {STEP} worse than the champion; it began at 0.7")
    for remembers in (False, True):
        ends = []
        for groups in GROUPS:
            rng = np.random.default_rng(groups)
            ends.append(
                np.mean([slide(rng, groups, settings, remembers=remembers) for _ in range(options.draws // 20)])
            )
        what = "beside the champion and the best of late" if remembers else "beside the champion alone"
        print(f"  {what:<42}" + "".join(f"{end:>9.3f}" for end in ends))


if __name__ == "__main__":
    main()
