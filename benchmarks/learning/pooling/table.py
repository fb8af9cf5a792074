"""The table of the probe: AUC by city bootstrap, paired differences, and what one engine call costs."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.learning.pooling import probe
from benchmarks.learning.pooling.probe import POOLINGS, QUERIES, Norm, Pooling, held_out_scores, inputs_of
from benchmarks.learning.pooling.tokens import BLOCKS, SHAPES, tokens
from benchmarks.learning.table.statistics import aligned, auc, cell, estimate, pairs_in_groups
from offline.data.dataset import Dataset
from offline.data.sources.source import read_dataset
from stage1.artifacts import sha256_json
from stage1.metrics.bootstrap import group_weights

CITIES = "roadwork_clips"
SEEDS = (0, 1, 2)
REPETITIONS = 2000
CHOICES: Mapping[str, tuple[int, ...]] = {"-3": (-3,), "-1": (-1,), "-1, -3": (-1, -3)}
NORMS: tuple[Norm, ...] = ("channel", "row")

CODE_LENGTH = 8

Key = tuple[str, str, str, str]
"""Input, blocks, pooling, norm."""


@dataclass(frozen=True)
class Probed:
    """A row of the table.

    Attributes:
        scores: log-odds of each row of a city, `(N,)`.
        gflops: of one picture through backbone and pooling.
    """

    scores: NDArray[np.float32]
    gflops: float


def pooling_table(photographs: Path, backbone: Path, home: Path) -> str:
    """Probe every pooling at every size and block; what was probed before is kept.

    Args:
        photographs: data directory with `labels.csv`.
        backbone: directory of a pretrained ViT.
        home: where tokens and scores are kept.
    """
    data = read_dataset(photographs)
    cities = np.asarray([row.group if row.source == CITIES else "" for row in data.rows])
    code = sha256_json(inspect.getsource(probe))[:CODE_LENGTH]
    probed: dict[Key, Probed] = {}
    for shape in SHAPES:
        made = tokens(backbone, data, shape, home)
        for (name, blocks), norm, pooling in itertools.product(CHOICES.items(), NORMS, POOLINGS):
            states = [made.states[BLOCKS.index(block)] for block in blocks]
            key = (f"{shape[0]} x {shape[1]}", name, pooling, norm)
            path = home / f"scores_{'_'.join(key).replace(' ', '').replace(',', '')}_{made.key}_{code}.npy"
            if not path.exists():
                np.save(path, held_out_scores(inputs_of(pooling, states), norm, data.labels, cities, SEEDS))
                print(f"{' '.join(key)}: done", file=sys.stderr, flush=True)
            patches, width = states[0].shape[1] - 1, states[0].shape[2]
            gflops = made.gflops + _pooling_gflops(pooling, patches, width * len(blocks))
            probed[key] = Probed(np.load(path), gflops)
    return _table(data, cities, probed)


def _pooling_gflops(pooling: Pooling, patches: int, width: int) -> float:
    """Multiplications and additions of a pooling of so many patches, in 1e9."""
    return (4 * QUERIES if pooling == "attention" else 1) * patches * width / 1e9


def _table(data: Dataset, cities: NDArray[np.str_], probed: Mapping[Key, Probed]) -> str:
    rows = np.flatnonzero(cities != "")
    labels, groups = data.labels[rows], cities[rows]
    weights = list(group_weights(groups, REPETITIONS, np.random.default_rng(0)))
    drawn = {key: np.array([auc(labels, row.scores[rows], w) for w in weights]) for key, row in probed.items()}
    plain = {key: auc(labels, row.scores[rows]) for key, row in probed.items()}
    pairs = {key: pairs_in_groups(labels, row.scores[rows], groups) for key, row in probed.items()}
    inside = {key: right.sum() / every.sum() for key, (right, every) in pairs.items()}

    def less(key: Key, other: Key) -> str:
        if key == other:
            return ""
        return cell(estimate(plain[key] - plain[other], drawn[key] - drawn[other]), signed=True)

    squashed = next(iter(probed))[0]
    head = ["input", "blocks", "pooling", "norm over", "AUC", "inside a city"]
    lines = [[*head, "less CLS + mean", "less the mean", "less 224", "GFLOP"]]
    for key, row in probed.items():
        others = [(key[0], key[1], pooling, key[3]) for pooling in ("cls_mean", "mean")] + [(squashed, *key[1:])]
        paired = [less(key, other) for other in others]
        lines.append([*key, cell(estimate(plain[key], drawn[key])), f"{inside[key]:.3f}", *paired, f"{row.gflops:.2f}"])
    negatives = int((labels == 0).sum())
    told = (
        f"{len(rows)} frames of {len(set(groups.tolist()))} cities, {negatives} without roadwork, each answered by "
        f"heads that saw nothing of its city; mean of {len(SEEDS)} seeds; intervals draw cities {REPETITIONS} times, "
        "differences under the same draws. All heads are trained alike and nothing is tuned."
    )
    return f"{aligned(lines)}\n\n{told}"
