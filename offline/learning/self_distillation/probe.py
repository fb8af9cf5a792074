"""How much frozen features say about roadwork, without training the backbone.

References:
    Caron et al. (2021), DINO, arXiv 2104.14294, section 4.1 (linear probe and weighted nearest neighbours).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from stage1.metrics.classification import matthews_correlation

if TYPE_CHECKING:
    from offline.learning.predict import ImageSet
    from stage1.model.net import Stage1Net

RIDGE = 1e-3
MOST_ROWS = 4000
NEIGHBOURS = 20
TEMPERATURE = 0.07

Features = NDArray[np.floating]
Labels = NDArray[np.integer]


def feature_judge(kind: Literal["probe", "neighbours"], train: ImageSet, val_select: ImageSet) -> Callable[..., float]:
    """Judges a network by what its features of train say of val_select.

    Args:
        kind: `probe` or `neighbours`.
        train: images that fit the judge; see `fitting`.
        val_select: images that it is judged on.

    Returns:
        Maps a `Stage1Net` to the Matthews correlation.
    """
    from offline.learning.predict import features  # noqa: PLC0415  torch is loaded only where a network is judged

    judge = linear_probe if kind == "probe" else nearest_neighbours
    picked = fitting(len(train.images))

    def judged(net: Stage1Net) -> float:
        ours, theirs = (
            features(net, images).float().cpu().numpy() for images in (train.images[picked], val_select.images)
        )
        return judge(ours, train.data.labels[picked], theirs, val_select.data.labels)

    return judged


def fitting(count: int) -> NDArray[np.intp]:
    """Numbers of the rows that fit a judge: of so many no more than a few thousand, evenly picked, `(K,)`."""
    return np.unique(np.linspace(0, count - 1, min(MOST_ROWS, count)).astype(np.intp))


def linear_probe(train: Features, train_labels: Labels, features: Features, labels: Labels) -> float:
    """Matthews correlation of a logistic regression on standardised features, classes weighing the same.

    Args:
        train: features that it is fitted on, `(N, D)`.
        train_labels: 0 or 1, both present, `(N,)`.
        features: that it is judged on, `(M, D)`.
        labels: 0 or 1, `(M,)`.
    """
    centre, spread = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64) + 1e-6
    x = np.c_[(train - centre) / spread, np.ones(len(train))]
    weight = np.where(train_labels == 1, 0.5 / np.mean(train_labels == 1), 0.5 / np.mean(train_labels == 0)) / len(x)

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = x @ w
        value = weight @ (np.logaddexp(0, z) - train_labels * z) + RIDGE / 2 * float(w[:-1] @ w[:-1])
        gradient = x.T @ (weight * (expit(z) - train_labels))
        gradient[:-1] += RIDGE * w[:-1]
        return float(value), gradient

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    scores = np.c_[(features - centre) / spread, np.ones(len(features))] @ found
    return matthews_correlation(labels, (scores > 0).astype(np.int8))


def nearest_neighbours(train: Features, train_labels: Labels, features: Features, labels: Labels) -> float:
    """Matthews correlation of the vote of the nearest training rows, weighted by their cosine similarity.

    Args:
        train: features that vote, `(N, D)`.
        train_labels: 0 or 1, `(N,)`.
        features: that it is judged on, `(M, D)`.
        labels: 0 or 1, `(M,)`.
    """
    ours, theirs = (each / np.linalg.norm(each, axis=1, keepdims=True).clip(1e-12) for each in (features, train))
    similarity = ours @ theirs.T
    count = min(NEIGHBOURS, len(train))
    nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    weight = np.exp(np.take_along_axis(similarity, nearest, 1) / TEMPERATURE)
    share = np.sum(weight * train_labels[nearest], 1) / weight.sum(1)
    return matthews_correlation(labels, (share > 0.5).astype(np.int8))
