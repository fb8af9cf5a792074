"""Perceptual hashes compared all with all, in tiles, so that memory does not grow with the square of their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

HASH_BITS = 256
ROWS, COLUMNS = 256, 4096

Words = NDArray[np.uint64]
Places = NDArray[np.intp]


def words_of(hashes: Sequence[str]) -> Words:
    """Hashes of 64 hex digits as 64-bit words, `(4, N)`."""
    flat = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint64)
    return np.ascontiguousarray(flat.reshape(len(hashes), HASH_BITS // 64).T)


def join(labels: Places, first: Places, second: Places) -> Places:
    """Labels of the components after joining pairs.

    Args:
        labels: component of each of N items, `(N,)`, numbers from 0.
        first: one item of each pair, `(P,)`.
        second: the other one.
    """
    if not len(first):
        return labels
    size = int(labels.max()) + 1
    graph = coo_array((np.ones(len(first), np.int8), (labels[first], labels[second])), shape=(size, size))
    return connected_components(graph, directed=False)[1][labels].astype(np.intp)


def join_near(labels: Places, places: Places, words: Words, limit: int) -> Places:
    """Labels of the components after joining every two items whose hashes differ in at most `limit` bits.

    Args:
        labels: component of each of N items, `(N,)`, numbers from 0.
        places: item of each of H hashes, `(H,)`.
        words: the hashes, `(4, H)`.
        limit: largest number of bits.
    """
    for rows, columns in _tiles(len(places), len(places)):
        if columns.stop <= rows.start:
            continue
        near = _pairwise(words[:, rows], words[:, columns]) <= limit
        if near.any():
            # Only what is not joined yet: a parked camera would otherwise give a pair for every two of its frames.
            near &= labels[places[rows], None] != labels[None, places[columns]]
            first, second = np.nonzero(near)
            labels = join(labels, places[first + rows.start], places[second + columns.start])
    return labels


def nearest(first: Words, second: Words) -> tuple[int, int, int] | None:
    """The smallest distance between two sets of hashes, and where: `(bits, index in first, index in second)`.

    None if a set is empty.
    """
    best: tuple[int, int, int] | None = None
    for rows, columns in _tiles(first.shape[1], second.shape[1]):
        block = _pairwise(first[:, rows], second[:, columns])
        row, column = divmod(int(block.argmin()), block.shape[1])
        found = int(block[row, column]), row + rows.start, column + columns.start
        best = found if best is None else min(best, found)
    return best


def _tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, rows, ROWS):
        for column in range(0, columns, COLUMNS):
            yield slice(row, min(row + ROWS, rows)), slice(column, min(column + COLUMNS, columns))


def _pairwise(first: Words, second: Words) -> NDArray[np.uint16]:
    """Bits in which each of N hashes differs from each of M, `(N, M)`."""
    total = np.zeros((first.shape[1], second.shape[1]), np.uint16)
    for mine, theirs in zip(first, second, strict=True):
        total += np.bitwise_count(mine[:, None] ^ theirs[None, :])
    return total
