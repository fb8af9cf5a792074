"""How much frozen features say about roadwork, without training the backbone.

References:
    Caron et al. (2021), DINO, arXiv 2104.14294, section 4.1 (linear probe and weighted nearest neighbours).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

RIDGE = 1e-3
MOST_ROWS = 4000
NEIGHBOURS = 20
TEMPERATURE = 0.07

Features = NDArray[np.floating]
Labels = NDArray[np.integer]


def fitting(count: int) -> NDArray[np.intp]:
    """Numbers of the rows that fit a judge: of so many no more than a few thousand, evenly picked, `(K,)`."""
    return np.unique(np.linspace(0, count - 1, min(MOST_ROWS, count)).astype(np.intp))


def linear_probe(train: Features, train_labels: Labels, features: Features) -> NDArray[np.float64]:
    """Scores of a logistic regression on standardised features, classes weighing the same.

    Args:
        train: features that it is fitted on, `(N, D)`.
        train_labels: 0 or 1, both present, `(N,)`.
        features: of the rows that it is asked about, `(M, D)`.

    Returns:
        Logits of 1, `(M,)`; above 0 where 1 is likelier with classes of equal size.
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
    return np.asarray(np.c_[(features - centre) / spread, np.ones(len(features))] @ found, np.float64)


def nearest_neighbours(train: Features, train_labels: Labels, features: Features) -> NDArray[np.float64]:
    """Vote of the nearest training rows, weighted by their cosine similarity.

    Args:
        train: features that vote, `(N, D)`.
        train_labels: 0 or 1, `(N,)`.
        features: of the rows that are voted on, `(M, D)`.

    Returns:
        Share of the votes for 1, less one half, `(M,)`.
    """
    ours, theirs = (each / np.linalg.norm(each, axis=1, keepdims=True).clip(1e-12) for each in (features, train))
    similarity = ours @ theirs.T
    count = min(NEIGHBOURS, len(train))
    nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    weight = np.exp(np.take_along_axis(similarity, nearest, 1) / TEMPERATURE)
    return np.asarray(np.sum(weight * train_labels[nearest], 1) / weight.sum(1) - 0.5, np.float64)
