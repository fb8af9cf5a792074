"""Near hashes: what the bands find is what comparing all with all finds, for any hashes and in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.data.checks import near_hashes
from offline.data.checks.near_hashes import HASH_BITS, Places, Words, near_pairs, plan


def drawn(count: int, *, seed: int, places: int, noise: int, shared: int = 0) -> Words:
    """Hashes `(4, N)` of some places, each seen again and again with some bits changed.

    Args:
        count: how many.
        seed: of the draw.
        places: how many places; 0 for a new one each time.
        noise: how many bits are changed at most.
        shared: how many bits of all hashes are alike, as in pictures of the night.
    """
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (places or count, HASH_BITS), dtype=np.uint8)
    bits = bits[rng.integers(0, places, count)] if places else bits
    for row in bits:
        row[rng.choice(HASH_BITS, rng.integers(0, noise + 1), replace=False)] ^= 1
    bits[:, rng.permutation(HASH_BITS)[:shared]] = 1
    return np.ascontiguousarray(np.packbits(bits, axis=1).view(np.uint64).T)


def by_brute_force(words: Words, labels: Places, limit: int) -> dict[tuple[int, int], int]:
    bits = np.bitwise_count(words[:, :, None] ^ words[:, None, :]).sum(0, dtype=np.int64)
    near = np.triu((bits <= limit) & (labels[:, None] != labels[None, :]), k=1)
    return {(int(one), int(other)): int(bits[one, other]) for one, other in zip(*np.nonzero(near), strict=True)}


def found(words: Words, labels: Places, limit: int) -> dict[tuple[int, int], int]:
    pairs: dict[tuple[int, int], int] = {}
    for first, second, bits in near_pairs(words, labels, limit):
        assert len(first)
        for one, other, distance in zip(first.tolist(), second.tolist(), bits.tolist(), strict=True):
            pairs[min(one, other), max(one, other)] = distance
    return pairs


@pytest.fixture
def costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands are taken for however few hashes, and never given up."""
    for name in ("PAIR_NS", "LOOKUP_NS", "STEP_NS"):
        monkeypatch.setattr(near_hashes, name, 1e-12 * getattr(near_hashes, name))


HASHES = st.builds(
    drawn,
    st.integers(2, 90),
    seed=st.integers(0, 2**32),
    places=st.integers(0, 12),
    noise=st.integers(0, 14),
    shared=st.sampled_from((0, 0, 200, 250, 256)),
)


@pytest.mark.usefixtures("costs_nothing")
class TestBands:
    @given(HASHES, st.integers(0, 12), st.integers(1, 5))
    def test_find_all_near_pairs_and_no_others(self, words: Words, limit: int, parts: int) -> None:
        assert plan(words, limit)
        labels = np.arange(words.shape[1]) % parts if parts < 5 else np.arange(words.shape[1])
        assert found(words, labels, limit) == by_brute_force(words, labels, limit)

    @pytest.mark.parametrize("limit", [40, 60, 127])
    @pytest.mark.parametrize("shared", [0, 128, 250])
    def test_find_pairs_of_any_limit(self, limit: int, shared: int) -> None:
        words = drawn(150, seed=limit, places=30, noise=30, shared=shared)
        labels = np.arange(150) // 2
        assert found(words, labels, limit) == by_brute_force(words, labels, limit)

    def test_leave_out_what_has_become_equal(self) -> None:
        words = drawn(60, seed=3, places=1, noise=4)
        labels = np.arange(60)
        first = next(near_pairs(words, labels, 8))
        assert len(first[0])
        for rest in near_pairs(words, labels, 8):
            assert (labels[rest[0]] != labels[rest[1]]).all()
            labels[:] = 0


class TestAllWithAll:
    @given(HASHES, st.integers(0, 256))
    def test_finds_the_same(self, words: Words, limit: int) -> None:
        labels = np.arange(words.shape[1]) // 2
        assert found(words, labels, limit) == by_brute_force(words, labels, limit)

    def test_finds_pairs_of_any_two_tiles(self) -> None:
        words = drawn(near_hashes.COLUMNS + 9, seed=3, places=0, noise=0)
        words[:, -1] = words[:, 2]
        assert found(words, np.arange(words.shape[1]), 40) == {(2, words.shape[1] - 1): 0}


def test_there_are_bands_for_many_hashes_and_none_for_few() -> None:
    assert not plan(drawn(500, seed=0, places=0, noise=0), 40)
    bands = plan(drawn(60_000, seed=0, places=0, noise=0), 40)
    assert sum(band.radius + 1 for band in bands) == 41
    bits = [bit for band in bands for bit in band.bits]
    assert len(bits) == len(set(bits)) == HASH_BITS


def test_a_bit_that_all_share_is_dealt_last() -> None:
    words = drawn(60_000, seed=0, places=0, noise=0, shared=100)
    same = np.bitwise_count(np.bitwise_and.reduce(words, axis=1)).sum()
    assert same == 100
    for band in plan(words, 40):
        told = [bit for bit in band.bits if not ((words[bit // 64] >> np.uint64(bit % 64)) & np.uint64(1)).all()]
        assert len(told) in {156 // len(plan(words, 40)), 156 // len(plan(words, 40)) + 1}


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs were compared, call by call."""
    counts: list[int] = []
    real = near_hashes._near

    def near(hashes: near_hashes._Hashes, limit: int, one: Places, other: Places) -> near_hashes.Pairs:
        counts.append(len(one))
        return real(hashes, limit, one, other)

    monkeypatch.setattr(near_hashes, "_near", near)
    return counts


def test_few_pairs_of_many_hashes_are_compared(compared: list[int]) -> None:
    words = drawn(60_000, seed=1, places=30_000, noise=8)
    assert sum(len(first) for first, _, _ in near_pairs(words, np.arange(60_000), 12)) > 25_000
    assert sum(compared) < 0.001 * 60_000**2 / 2


@pytest.mark.usefixtures("costs_nothing")
def test_a_place_that_is_one_group_already_is_not_compared_with_itself(compared: list[int]) -> None:
    words = drawn(3000, seed=1, places=2, noise=4)
    assert not found(words, np.zeros(3000, np.intp), 12)
    assert sum(compared) == 0


@pytest.mark.parametrize("shared", [220, 256])
def test_memory_does_not_grow_with_the_square_where_most_bits_are_shared(shared: int) -> None:
    """Pictures of the night: values of a band are few, and each is that of thousands of hashes."""
    words = drawn(12_000, seed=1, places=0, noise=0, shared=shared)
    labels = np.arange(12_000) % 2
    tracemalloc.start()
    try:
        pairs = sum(len(first) for first, _, _ in near_pairs(words, labels, 3))
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert pairs >= (36_000_000 if shared == 256 else 0)
