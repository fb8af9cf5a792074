"""Cost of calibrating, ranking and deciding, each beside a library that does the same.

    python -m benchmarks.selective --rounds 3

Calibration: MAPIE's fixed-sequence control of the miss rate of all roadwork, on the same rows and thresholds, in turns
in this process; both must end at the same threshold. AUGRC: see `benchmarks.augrc`. Policy: decisions a second in one
array, and the time of a single one. CPU time throughout; MAPIE keeps a row for every candidate: about 1.6 GB.
"""

from __future__ import annotations

import argparse
import statistics
import time
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from benchmarks import augrc
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import Chain, ScrcParams
from stage1.certificate.risks import Risk
from stage1.certificate.search.algorithms import Claim, walk
from stage1.certificate.settings import CalibrationSettings
from stage1.outputs import Stage1Outputs
from stage1.policy import ScrcPolicy

ALPHA, DELTA, CANDIDATES = 0.02, 0.10, 1000
SEPARATION = float(np.sqrt(2) * norm.ppf(0.988))


def draw(rows: int, seed: int, prefix: str) -> LabelledOutputs:
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.3).astype(np.int8)
    score = rng.normal((labels - 0.5) * SEPARATION).astype(np.float32)
    select_score = np.abs(score) + rng.normal(0, 0.5, rows)
    outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], 1), select_score.astype(np.float32))
    ids = [f"{prefix}{i}" for i in range(rows)]
    return LabelledOutputs(outputs, labels, ids, ids)


def cpu_ms(call: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.process_time()
    value = call()
    return value, (time.process_time() - begin) * 1e3


def thresholds() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.linspace(-4, 1, CANDIDATES, dtype=np.float32)


def ours(data: LabelledOutputs, grid: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    chain = Chain(tau=float(data.outputs.select_score.min()), t1=float(grid[-1]), grid=tuple(grid.tolist()))
    found = walk(data, data.units("row", 0), chain, [Claim(Risk.MISS_ALL, ALPHA, DELTA)])
    return chain.grid[found.certified - 1]


class Probabilities:
    """What MAPIE asks for the probability of both classes."""

    def __call__(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        probability = expit(rows[:, 0].astype(np.float64))
        return np.stack([1 - probability, probability], 1)


def theirs(data: LabelledOutputs, grid: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    from mapie.risk_control import BinaryClassificationController, BinaryRisk

    missed = BinaryRisk(
        risk_occurrence=lambda _, guess: guess.ravel() == 0,
        risk_condition=lambda truth, _: truth.ravel() == 1,
        higher_is_better=False,
    )
    controller = BinaryClassificationController(
        Probabilities(),
        missed,
        ALPHA,
        confidence_level=1 - DELTA,
        best_predict_param_choice="precision",
        list_predict_params=expit(grid.astype(np.float64)),
        fwer_method="fixed_sequence",
    )
    controller.calibrate(data.outputs.roadwork_score[:, None], data.labels)
    return float(logit(controller.valid_predict_params.max()))


def calibration(rows: int, rounds: int) -> None:
    data, grid = draw(rows, 0, "row "), thresholds()
    costs: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        mine, cost = cpu_ms(lambda: ours(data, grid))
        costs["ours"].append(cost)
        other, cost = cpu_ms(lambda: theirs(data, grid))
        costs["theirs"].append(cost)
        if abs(mine - other) > 1e-6:
            raise SystemExit(f"the thresholds differ: ours {mine}, MAPIE's {other}")
    ratio = statistics.median(t / o for o, t in zip(costs["ours"], costs["theirs"], strict=True))
    print(f"calibration of {rows} rows at {CANDIDATES} thresholds, CPU ms, median of {rounds}; both end at {mine:.4f}")
    print(f"  ours {statistics.median(costs['ours']):.1f}   MAPIE {statistics.median(costs['theirs']):.0f}", end="")
    print(f"   MAPIE / ours {ratio:.0f}")


def alone(rows: int, rounds: int) -> None:
    data, grid = draw(rows, 1, "row "), thresholds()
    walked = statistics.median(cpu_ms(lambda: ours(data, grid))[1] for _ in range(rounds))
    chosen = draw(rows // 10, 2, "select ")
    settings = CalibrationSettings(unit="row")
    context = CalibrationContext("e" * 64, "p" * 64, code_version="benchmark")
    whole = statistics.median(cpu_ms(lambda: calibrate(chosen, data, settings, context))[1] for _ in range(rounds))
    print(f"calibration of {rows} rows alone, CPU ms, median of {rounds}")
    print(f"  the walk {walked:.0f}   all of it, with {rows // 10} rows of val_select {whole:.0f}")


def certified() -> ScrcParams:
    context = CalibrationContext("e" * 64, "p" * 64, code_version="benchmark")
    return calibrate(draw(4000, 3, "select "), draw(4000, 4, "calib "), CalibrationSettings(unit="row"), context)


def policy(rows: int, rounds: int) -> None:
    decide, outputs = ScrcPolicy(certified()).decide, draw(rows, 5, "row ").outputs
    many = min(cpu_ms(lambda: decide(outputs))[1] for _ in range(max(rounds, 5)))
    single = outputs.rows(slice(0, 1))
    one = min(timeit.repeat(lambda: decide(single), number=5000, repeat=max(rounds, 5), timer=time.process_time)) / 5000
    whole = decide(outputs).level[:200].tolist()
    if [int(decide(outputs.rows(slice(i, i + 1))).level[0]) for i in range(200)] != whole:
        raise SystemExit("one row at a time is decided otherwise")
    print(
        f"policy: {rows / many / 1e3:.0f} million decisions a second in one array, {one * 1e6:.1f} microseconds for one"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    calibration(options.rows // 10, options.rounds)
    alone(options.rows, options.rounds)
    policy(options.rows, options.rounds)
    augrc.compare(augrc.their_metric(), options.rows, 3 * options.rounds)


if __name__ == "__main__":
    main()
