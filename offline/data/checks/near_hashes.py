"""Pairs of perceptual hashes that differ in few bits, found without comparing all with all.

The bits are dealt into disjoint bands. Each band has a radius, and the radii, each plus one, sum to more than the
limit. Two hashes within the limit then differ in one band at least by no more bits than its radius. So only hashes are
compared whose band has the same value or a near one. What is found is what comparing all with all finds.

References:
    Norouzi, Punjani, Fleet (2012), Fast search in Hamming space with multi-index hashing, CVPR (the bands).
    Qin, Xiao, Wang, Wang, Ishikawa (2018), GPH: similarity search in Hamming space, ICDE (radii that differ).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain, combinations
from math import comb
from typing import Self

import numpy as np
from numpy.typing import NDArray

HASH_BITS = 256
WORD_BITS = 64
# A tile in which all are compared with all; it should stay in the cache of a core.
ROWS, COLUMNS = 64, 4096
# The table of a band's values should stay in the cache of a core.
WIDEST_BAND = 20
# Fewer hashes of one value and one label are not worth the looking after a run.
SMALLEST_RUN = 32
# If so many of all pairs have one label, it pays to look at the labels before the hashes.
MANY_OF_ONE_LABEL = 0.05
# Pairs in memory at once.
TOGETHER = 1 << 18
# Measured nanoseconds: a pair among all with all, a pair by itself, a value that is looked up, a step over all values.
ALL_PAIRS_NS, PAIR_NS, LOOKUP_NS, STEP_NS = 4.0, 20.0, 4.0, 50_000.0

Words = NDArray[np.uint64]
Places = NDArray[np.intp]
# Of some pairs: index of the first, index of the second, bits in which they differ.
Pairs = tuple[Places, Places, NDArray[np.uint16]]


@dataclass(frozen=True)
class Band:
    """Some bits of the hashes.

    Attributes:
        bits: their numbers, 0 to 255.
        radius: values that differ in at most so many bits are compared.
    """

    bits: tuple[int, ...]
    radius: int


def near_pairs(words: Words, labels: Places, limit: int) -> Iterator[Pairs]:
    """Every two hashes that have different labels and differ in at most `limit` bits; each pair at least once.

    Whoever takes the pairs may change `labels` in place on the way, from different ones to equal ones only. Pairs of
    labels that have become equal may be left out from then on.

    Args:
        words: the hashes, `(4, N)`.
        labels: of the hashes, `(N,)`, numbers from 0.
        limit: largest number of bits, 0 to 256.

    Yields:
        Some pairs, in no order; how many at a time does not grow with N.
    """
    bands = plan(words, limit)
    finished = bool(bands) and (yield from _by_bands(words, labels, limit, bands))
    if not finished:
        yield from (pairs for pairs in _all_with_all(words, labels, limit) if len(pairs[0]))


def plan(words: Words, limit: int) -> tuple[Band, ...]:
    """The bands by which the pairs are found in the least time; none if comparing all with all takes less.

    Args:
        words: the hashes, `(4, N)`.
        limit: largest number of bits.
    """
    count = words.shape[1]
    least, number = ALL_PAIRS_NS * count**2 / 2, 0
    for bands in range(1, min(limit + 1, HASH_BITS) + 1):
        cost = sum(_cost_ns(count, _width(bands), radius) for radius in _radii(bands, limit))
        if cost < least:
            least, number = cost, bands
    if not number:
        return ()
    # Bits that most hashes share tell little. Dealt out in the order of what they tell, every band gets some of them.
    telling = np.argsort(np.abs(_shares(words) - 0.5), kind="stable").tolist()
    radii = _radii(number, limit)
    return tuple(Band(tuple(telling[n::number][:WIDEST_BAND]), radius) for n, radius in enumerate(radii))


def _width(bands: int) -> int:
    return min(HASH_BITS // bands, WIDEST_BAND)


def _radii(bands: int, limit: int) -> list[int]:
    whole, more = divmod(limit + 1, bands)
    return [whole - 1 + (n < more) for n in range(bands)]


def _cost_ns(count: int, width: int, radius: int) -> float:
    """Expected time for hashes whose bits are as good as drawn; for others it is more, which is seen on the way."""
    steps = sum(comb(width, bits) for bits in range(radius + 1))
    return steps * (STEP_NS + count / 2 * (LOOKUP_NS + PAIR_NS * count / (1 << width)))


def _shares(words: Words) -> NDArray[np.float64]:
    """Share of the hashes that have each bit set, `(256,)`."""
    return np.asarray([_bit(words, number).mean() for number in range(HASH_BITS)])


def _bit(words: Words, number: int) -> Words:
    word, place = divmod(number, WORD_BITS)
    bit: Words = (words[word] >> np.uint64(place)) & np.uint64(1)
    return bit


def _values(words: Words, band: Band) -> Places:
    """Value of each hash in a band, `(N,)`."""
    bits = (_bit(words, number).astype(np.intp) << place for place, number in enumerate(band.bits))
    return reduce(np.bitwise_or, bits)


def _by_bands(words: Words, labels: Places, limit: int, bands: tuple[Band, ...]) -> Generator[Pairs, None, bool]:
    """Pairs by their values in the bands; False if it was given up, because comparing all with all takes less time.

    That is so where most hashes share the values of a band, as pictures of the night do.
    """
    values = [_values(words, band) for band in bands]
    # First what is beside each other in some order. It joins most copies of a picture, whose pairs need not be listed
    # then.
    yield from (pairs for pairs in _beside_each_other(words, labels, limit, values) if len(pairs[0]))
    left_ns = ALL_PAIRS_NS * words.shape[1] ** 2 / 2
    for band, own in zip(bands, values, strict=True):
        runs = _Runs.of(words, own, labels, band)
        if _expected(runs, band) * PAIR_NS > left_ns:
            return False
        for checked, pairs in _in_band(runs, limit, band):
            yield from _apart(labels, pairs)
            left_ns -= checked * PAIR_NS
            if left_ns < 0:
                return False
    return True


def _apart(labels: Places, pairs: Pairs) -> Iterator[Pairs]:
    """Those of some pairs that have different labels, if there are any."""
    one, other, bits = pairs
    if len(one) and (some := np.flatnonzero(labels[one] != labels[other])).size:
        yield one[some], other[some], bits[some]


def _beside_each_other(words: Words, labels: Places, limit: int, values: Sequence[Places]) -> Iterator[Pairs]:
    hashes = _Hashes.of(words)
    for n in range(len(values)):
        # Three bands at most fit into a number.
        one, two, three = (values[(n + more) % len(values)] for more in range(3))
        order = np.argsort(one << 2 * WIDEST_BAND | two << WIDEST_BAND | three)
        apart = np.flatnonzero(labels[order[:-1]] != labels[order[1:]])
        yield _near(hashes, limit, order[apart], order[apart + 1])


@dataclass(frozen=True)
class _Runs:
    """Hashes in the order of their values in a band; many of one value and one label are a run, others one each.

    Attributes:
        hashes: the hashes in this order.
        order: their indices.
        start: where each run begins.
        size: number of hashes of each run.
        label: of each run.
        first: first run of each value of the band.
        count: number of runs of each value.
        taken: whether a value has a run.
        lacking: for each bit of the band, the runs whose value does not have it set, and these values.
        large: whether a run has several hashes.
        labels_first: whether many pairs have one label.
    """

    hashes: _Hashes
    order: Places
    start: Places
    size: Places
    label: Places
    first: Places
    count: Places
    taken: NDArray[np.bool_]
    lacking: tuple[tuple[Places, Places], ...]
    large: NDArray[np.bool_]
    labels_first: bool

    @classmethod
    def of(cls, words: Words, values: Places, labels: Places, band: Band) -> Self:
        width = len(band.bits)
        order = np.argsort((values * (int(labels.max()) + 1)) + labels)
        ordered, own = values[order], labels[order]
        new = np.concatenate([[True], (ordered[1:] != ordered[:-1]) | (own[1:] != own[:-1])])
        alike = np.diff(np.flatnonzero(new), append=len(order))
        start = np.flatnonzero(new | np.repeat(alike < SMALLEST_RUN, alike))
        value, label = ordered[start], own[start]
        count = np.bincount(value, minlength=1 << width)
        lacking = ((some := np.flatnonzero((value >> bit) & 1 == 0), value[some]) for bit in range(width))
        size = np.diff(start, append=len(order))
        of_one_label = float(np.square(np.bincount(label) / len(label)).sum())
        return cls(
            hashes=_Hashes.of(words[:, order]),
            order=order,
            start=start,
            size=size,
            label=label,
            first=np.cumsum(count) - count,
            count=count,
            taken=count > 0,
            lacking=tuple(lacking),
            large=size > 1,
            labels_first=of_one_label > MANY_OF_ONE_LABEL,
        )

    def partners(self, places: tuple[int, ...]) -> tuple[Places, Places, Places]:
        """Runs whose values differ in just these bits of the band: one, the first of its others, how many they are."""
        if not places:
            behind = np.repeat(self.first + self.count, self.count) - np.arange(len(self.start)) - 1
            own = np.flatnonzero(behind)
            return own, own + 1, behind[own]
        # Of two such values one lacks the highest of the bits.
        own, value = self.lacking[places[-1]]
        value = value ^ sum(1 << place for place in places)
        some = np.flatnonzero(self.taken[value])
        value = value[some]
        return own[some], self.first[value], self.count[value]


def _expected(runs: _Runs, band: Band) -> float:
    """How many pairs will be compared, if values that differ a little are shared as equal ones are."""
    of_value = np.add.reduceat(runs.size, runs.first[runs.taken]).astype(np.float64)
    equal = (np.square(of_value).sum() - np.square(runs.size.astype(np.float64)).sum()) / 2
    return float(equal) * sum(comb(len(band.bits), bits) for bits in range(band.radius + 1))


def _in_band(runs: _Runs, limit: int, band: Band) -> Iterator[tuple[int, Pairs]]:
    """Near pairs whose values in a band differ in at most its radius; before each, how many were compared for them."""
    for bits in range(band.radius + 1):
        for places in combinations(range(len(band.bits)), bits):
            own, first, count = runs.partners(places)
            more = np.flatnonzero(count > 1)
            rest = _expanded(own[more], first[more] + 1, count[more] - 1)
            for one, other in chain([(own, first)], rest):
                for mine, theirs in _members(runs, one, other):
                    near, near_other, bits_apart = _near(runs.hashes, limit, mine, theirs)
                    yield len(mine), (runs.order[near], runs.order[near_other], bits_apart)


def _expanded(own: Places, first: Places, count: Places) -> Iterator[tuple[Places, Places]]:
    """Each `own` with the `count` numbers from `first` on, not too many at a time."""
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, TOGETHER):
        stop = min(start + TOGETHER, total)
        part = slice(int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, stop, "left")) + 1)
        begin = ends[part] - count[part]
        times = np.minimum(ends[part], stop) - np.maximum(begin, start)
        yield np.repeat(own[part], times), np.arange(start, stop) + np.repeat(first[part] - begin, times)


def _members(runs: _Runs, one: Places, other: Places) -> Iterator[tuple[Places, Places]]:
    """Each hash of a run with each of another run, as places in the order of the runs.

    None of two large runs of one label. Others of one label may be there.
    """
    if runs.labels_first:
        one, other = _some(runs.label[one] != runs.label[other], one, other)
    if len(runs.start) == len(runs.order):
        yield one, other
        return
    large = runs.large[one] | runs.large[other]
    single, single_other = _some(~large, one, other)
    if len(single):
        yield runs.start[single], runs.start[single_other]
    one, other = _some(large, one, other)
    one, other = _some(runs.label[one] != runs.label[other], one, other)
    width = runs.size[other]
    for pair, place in _expanded(np.arange(len(one)), np.zeros(len(one), np.intp), runs.size[one] * width):
        yield runs.start[one[pair]] + place // width[pair], runs.start[other[pair]] + place % width[pair]


def _some(which: NDArray[np.bool_], one: Places, other: Places) -> tuple[Places, Places]:
    places = np.flatnonzero(which)
    return one[places], other[places]


@dataclass(frozen=True)
class _Hashes:
    """Hashes in two halves, each one item of an array: a half is fetched at once.

    Attributes:
        halves: twice `(N,)`, 128 bits an item.
    """

    halves: tuple[NDArray[np.complex128], NDArray[np.complex128]]

    @classmethod
    def of(cls, words: Words) -> Self:
        first, second = (np.ascontiguousarray(half.T).view(np.complex128)[:, 0] for half in (words[:2], words[2:]))
        return cls((first, second))

    def differing(self, half: int, one: Places, other: Places) -> NDArray[np.uint8]:
        """Bits of a half, 0 to 128, in which some hashes differ from others."""
        items = self.halves[half]
        bits: NDArray[np.uint8] = np.bitwise_count(items.take(one).view(np.uint64) ^ items.take(other).view(np.uint64))
        both: NDArray[np.uint8] = bits[::2] + bits[1::2]
        return both


def _near(hashes: _Hashes, limit: int, one: Places, other: Places) -> Pairs:
    """Those of some pairs that differ in at most `limit` bits."""
    # The first half says of nearly all pairs that they are too far apart.
    bits = hashes.differing(0, one, other)
    maybe = np.flatnonzero(bits <= limit)
    one, other = one[maybe], other[maybe]
    total = bits[maybe].astype(np.uint16) + hashes.differing(1, one, other)
    near = total <= limit
    return one[near], other[near], total[near]


def _all_with_all(words: Words, labels: Places, limit: int) -> Iterator[Pairs]:
    count = words.shape[1]
    for row in range(0, count, ROWS):
        for column in range(row, count, COLUMNS):
            rows, columns = slice(row, row + ROWS), slice(column, column + COLUMNS)
            if (labels[rows] == labels[row]).all() and (labels[columns] == labels[row]).all():
                continue
            bits = _tile(words[:, rows], words[:, columns])
            close = bits <= limit
            if close.any():
                # A parked camera would give a pair for every two of its frames.
                close &= labels[rows, None] != labels[None, columns]
                one, other = np.nonzero(close)
                yield one + row, other + column, bits[one, other]


def _tile(first: Words, second: Words) -> NDArray[np.uint16]:
    """Bits in which each of N hashes differs from each of M, `(N, M)`."""
    one, two, three, four = (
        np.bitwise_count(mine[:, None] ^ theirs) for mine, theirs in zip(first, second, strict=True)
    )
    total: NDArray[np.uint16] = np.add(one + two, three + four, dtype=np.uint16)
    return total
