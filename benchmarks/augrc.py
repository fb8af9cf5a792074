"""CPU time of AUGRC for a million rows: ours against torch-uncertainty's, on the same single-precision confidences.

    python -m benchmarks.augrc --rounds 9

Both run in this process on one thread, in turns. The answers are compared first, where no two confidences are equal:
torch-uncertainty orders equal ones as its sort leaves them, and leaves the first row out of the area. What is timed is
the area alone; torch-uncertainty has taken the rows in before. Importing the whole of it needs lightning, torchvision
and timm, so the one file with the metric is loaded by its path.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from stage1.metrics.risk_coverage import Ranking, augrc

METRIC = "torch_uncertainty/metrics/classification/risk_coverage.py"
# Sums of a million rows in single precision, and the missing first row.
TOLERANCE = 2e-6


def their_metric() -> Any:
    try:
        path = Path(str(distribution("torch-uncertainty").locate_file(METRIC)))
        spec = importlib.util.spec_from_file_location("risk_coverage", path)
        if spec is None or spec.loader is None:
            raise FileNotFoundError(path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (PackageNotFoundError, ImportError, FileNotFoundError) as error:
        print(
            f"nothing to compare with ({error}): pip install torch torchmetrics matplotlib && "
            "pip install --no-deps torch-uncertainty",
            file=sys.stderr,
        )
        raise SystemExit(2) from error
    return module.AUGRC


def timed(call: Any) -> tuple[float, float]:
    begin = time.process_time()
    value = float(call())
    return value, (time.process_time() - begin) * 1e3


def compare(metric: Any, rows: int, rounds: int) -> None:
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    distinct = ((1 + rng.permutation(rows) / rows) / 2).astype(np.float32)
    errors = (rng.random(rows) < (1 - distinct) * 0.4).astype(np.float32)
    # Above one half class 1 is predicted, so an error is a target of 0.
    target = torch.from_numpy((1 - errors).astype(np.int64))
    print(f"AUGRC of {rows} rows, {errors.mean():.1%} errors, CPU ms, median of {rounds}")
    print(
        f"{'confidences':<12} {'ours':>8} {'sorted once':>12} {'theirs':>8} {'theirs / ours':>14}  {'difference':>10}"
    )
    for name, confidence in (("distinct", distinct), ("3 digits", np.round(distinct, 3))):
        costs: dict[str, list[float]] = {"ours": [], "ranking": [], "theirs": []}
        for _ in range(rounds):
            loaded = metric()
            loaded.update(torch.from_numpy(confidence), target)
            calls = {
                "ours": lambda c=confidence: augrc(c, errors),
                "ranking": lambda c=confidence: Ranking.of(c, errors).augrc(),
                "theirs": loaded.compute,
            }
            values = {}
            for side, call in calls.items():
                values[side], cost = timed(call)
                costs[side].append(cost)
            difference = abs(values["theirs"] - values["ours"])
            if abs(values["ranking"] - values["ours"]) > 1e-12 or (name == "distinct" and difference > TOLERANCE):
                raise SystemExit(f"{name}: the answers differ: {values}")
        ours, ranking, theirs = (statistics.median(costs[side]) for side in ("ours", "ranking", "theirs"))
        ratio = statistics.median(t / o for o, t in zip(costs["ours"], costs["theirs"], strict=True))
        print(f"{name:<12} {ours:8.1f} {ranking:12.1f} {theirs:8.1f} {ratio:14.2f}  {difference:10.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    compare(their_metric(), options.rows, options.rounds)


if __name__ == "__main__":
    main()
