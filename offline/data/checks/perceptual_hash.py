"""Perceptual hashes of many pictures: which pictures belong together, and which two are the most alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from offline.data.checks.near_hashes import HASH_BITS, Places, Words, near_pairs

ROWS, COLUMNS = 256, 4096
# So many pairs are joined at once.
JOINED_TOGETHER = 1 << 14


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
    pairs = len(first)
    if not pairs:
        return labels
    known, found = np.unique(labels[np.concatenate([first, second])], return_inverse=True)
    graph = coo_array((np.ones(pairs, np.int8), (found[:pairs], found[pairs:])), shape=(len(known), len(known)))
    parts = connected_components(graph, directed=False)[1]
    now = np.arange(int(labels.max()) + 1)
    # The smallest label of the part, so that labels stay below their number.
    now[known] = known[np.unique(parts, return_index=True)[1]][parts]
    return now[labels]


def join_near(labels: Places, places: Places, words: Words, limit: int) -> Places:
    """Labels of the components after joining every two items whose hashes differ in at most `limit` bits.

    Args:
        labels: component of each of N items, `(N,)`, numbers from 0.
        places: item of each of H hashes, `(H,)`.
        words: the hashes, `(4, H)`.
        limit: largest number of bits.
    """
    own = labels[places]
    waiting: list[tuple[Places, Places]] = []
    count = 0
    for first, second, _ in near_pairs(words, own, limit):
        waiting.append((places[first], places[second]))
        count += len(first)
        if count >= JOINED_TOGETHER:
            labels = _join_all(labels, waiting)
            # What is joined by now need not be found again.
            own[:] = labels[places]
            waiting, count = [], 0
    return _join_all(labels, waiting)


def _join_all(labels: Places, pairs: Sequence[tuple[Places, Places]]) -> Places:
    if not pairs:
        return labels
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return join(labels, first, second)


def nearest(first: Words, second: Words) -> tuple[int, int, int] | None:
    """The smallest distance between two sets of hashes, and where: `(bits, index in first, index in second)`.

    None if a set is empty. The time grows with the product of their sizes.
    """
    best: tuple[int, int, int] | None = None
    for rows, columns in _tiles(first.shape[1], second.shape[1]):
        block = _pairwise(first[:, rows], second[:, columns])
        row, column = divmod(int(block.argmin()), block.shape[1])
        found = int(block[row, column]), row + rows.start, column + columns.start
        best = found if best is None else min(best, found)
    return best


def near_others(words: Words, others: Words, limit: int) -> NDArray[np.bool_]:
    """Which of N hashes differ from any of M others in at most `limit` bits, `(N,)`; not all are compared with all.

    Args:
        words: the hashes, `(4, N)`.
        others: those that they are compared with, `(4, M)`.
        limit: largest number of bits, 0 to 256.
    """
    count = words.shape[1]
    found = np.zeros(count, np.bool_)
    if not count or not others.shape[1]:
        return found
    # Two labels: hashes of one side are not looked for among their own.
    labels = (np.arange(count + others.shape[1]) >= count).astype(np.intp)
    for first, second, _ in near_pairs(np.concatenate([words, others], axis=1), labels, limit):
        found[np.minimum(first, second)] = True
    return found


def nearest_apart(words: Words, parts: Places, within: int) -> tuple[int, int, int] | None:
    """The smallest distance between hashes of different parts, and where: `(bits, smaller index, larger index)`.

    Of several pairs at this distance it is one, and always the same one of the same hashes.

    Args:
        words: the hashes, `(4, N)`.
        parts: part of each, `(N,)`, numbers from 0.
        within: pairs that differ in more bits are not looked for. At 256 the time grows with the square of N.

    Returns:
        None if every two hashes of different parts differ in more bits than `within`.
    """
    if within >= HASH_BITS:
        return _nearest_of_all(words, parts)
    best: tuple[int, int, int] | None = None
    limit, looking = within, True
    while looking:
        looking = False
        for first, second, bits in near_pairs(words, parts, limit):
            place = int(bits.argmin())
            if best is None or bits[place] < best[0]:
                one, other = sorted((int(first[place]), int(second[place])))
                best = int(bits[place]), one, other
                if best[0] <= limit // 2:
                    # Nearer ones are found in much less time than the rest of these.
                    limit, looking = best[0] - 1, best[0] > 0
                    break
    return best


def _nearest_of_all(words: Words, parts: Places) -> tuple[int, int, int] | None:
    best: tuple[int, int, int] | None = None
    members = [np.flatnonzero(parts == part) for part in np.unique(parts)]
    for mine, theirs in combinations(members, 2):
        found = nearest(words[:, mine], words[:, theirs])
        if found is not None:
            one, other = sorted((int(mine[found[1]]), int(theirs[found[2]])))
            best = min(best or (found[0], one, other), (found[0], one, other))
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
