"""Groups and nearest pairs of perceptual hashes are those of comparing one by one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.data.checks import near_hashes
from offline.data.checks.perceptual_hash import COLUMNS, ROWS, join_near, near_others, nearest, nearest_apart, words_of


def bits(first: str, second: str) -> int:
    return (int(first, 16) ^ int(second, 16)).bit_count()


def some_hashes(count: int, *, seed: int = 0, noise: int = 20) -> list[str]:
    """Hashes in clusters: a few places, each seen with a few bits changed."""
    rng = np.random.default_rng(seed)
    places = [int.from_bytes(rng.bytes(32)) for _ in range(count // 3 + 1)]
    changed = [sum(1 << int(bit) for bit in rng.choice(256, noise, replace=False)) for _ in range(count)]
    return [f"{places[n % len(places)] ^ changed[n]:064x}" for n in range(count)]


def components(hashes: list[str], limit: int) -> list[int]:
    labels = list(range(len(hashes)))
    for first, second in combinations(range(len(hashes)), 2):
        if bits(hashes[first], hashes[second]) <= limit:
            labels = [labels[first] if label == labels[second] else label for label in labels]
    return labels


def assert_same_parts(found: list[int], expected: list[int]) -> None:
    assert len(set(zip(expected, found, strict=True))) == len(set(expected)) == len(set(found))


@pytest.fixture(params=["bands", "tiles"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way of finding near hashes, whatever their number."""
    for name in ("PAIR_NS", "LOOKUP_NS", "STEP_NS"):
        monkeypatch.setattr(
            near_hashes, name, getattr(near_hashes, name) * (1e-12 if request.param == "bands" else 1e12)
        )


@pytest.mark.usefixtures("way")
class TestGroups:
    @pytest.mark.parametrize("limit", [0, 36, 40, 110])
    def test_are_those_of_all_pairs(self, limit: int) -> None:
        hashes = some_hashes(ROWS + 70)
        start = np.arange(len(hashes))
        assert_same_parts(join_near(start, start, words_of(hashes), limit).tolist(), components(hashes, limit))

    @pytest.mark.parametrize("limit", range(13))
    def test_are_those_of_all_pairs_at_the_limit(self, limit: int) -> None:
        """A chain in which each picture differs from the one before by one bit more than from the last but one."""
        steps = [(1 << (limit + more)) - 1 for more in (0, 0, 1)]
        chain = [0]
        for number in range(60):
            chain.append(chain[-1] ^ (steps[number % 3] << (number * 3 % 200)))
        hashes = [f"{digest:064x}" for digest in chain]
        start = np.arange(len(hashes))
        assert_same_parts(join_near(start, start, words_of(hashes), limit).tolist(), components(hashes, limit))

    @given(st.lists(st.integers(0, 2**12 - 1), min_size=1, max_size=60), st.integers(0, 12), st.integers(0, 244))
    def test_of_hashes_that_share_most_bits(self, few: list[int], limit: int, place: int) -> None:
        hashes = [f"{(digest << place) | (7 << 250 if place < 238 else 0):064x}" for digest in few]
        start = np.arange(len(hashes))
        assert_same_parts(join_near(start, start, words_of(hashes), limit).tolist(), components(hashes, limit))

    def test_stay_together_if_they_were(self) -> None:
        """Items 0 and 1 are one group already; the hash of item 3 is near that of item 1."""
        labels = np.asarray([0, 0, 2, 3])
        hashes = ["0" * 64, "f" * 64, "5" * 64, "f" * 63 + "e"]
        found = join_near(labels, np.arange(4), words_of(hashes), 3)
        assert_same_parts(found.tolist(), [0, 0, 2, 0])

    def test_of_a_parked_camera_are_one(self) -> None:
        hashes = [f"{0b11 << (n % 250):064x}" for n in range(2000)]
        assert len(set(join_near(np.arange(2000), np.arange(2000), words_of(hashes), 4).tolist())) == 1


@pytest.mark.usefixtures("way")
class TestNearestApart:
    @given(st.integers(0, 2**32), st.integers(0, 12), st.integers(0, 12), st.integers(2, 4))
    def test_is_as_near_as_the_nearest_of_all_pairs(self, seed: int, noise: int, within: int, parts: int) -> None:
        hashes = some_hashes(50, seed=seed, noise=noise)
        labels = np.random.default_rng(seed).integers(0, parts, 50)
        apart = [(n, m) for n, m in combinations(range(50), 2) if labels[n] != labels[m]]
        smallest = min((bits(hashes[n], hashes[m]) for n, m in apart), default=257)
        found = nearest_apart(words_of(hashes), labels, within)
        if smallest > within:
            assert found is None
        else:
            assert found is not None
            assert found[0] == smallest == bits(hashes[found[1]], hashes[found[2]])
            assert found[1:] in apart
        everything = nearest_apart(words_of(hashes), labels, 256)
        assert (everything[0] if everything else 257) == smallest

    def test_of_one_part_is_none(self) -> None:
        words = words_of(["0" * 64] * 3)
        for within in (0, 40, 256):
            assert nearest_apart(words, np.zeros(3, np.intp), within) is None

    def test_of_equal_hashes_differs_in_nothing(self) -> None:
        words = words_of(["5" * 64] * 3000)
        for within in (0, 40):
            found = nearest_apart(words, np.arange(3000) % 2, within)
            assert found is not None
            assert found[0] == 0
            assert found[1] % 2 != found[2] % 2


def test_the_smallest_distance_is_found_and_named() -> None:
    first, second = some_hashes(ROWS + 3, seed=1), some_hashes(40, seed=2)
    second[17] = f"{int(first[ROWS + 1], 16) ^ 0b111:064x}"
    assert nearest(words_of(first), words_of(second)) == (3, ROWS + 1, 17)
    assert nearest(words_of(second), words_of(first)) == (3, 17, ROWS + 1)


def test_hashes_that_differ_in_every_bit_are_as_far_as_can_be() -> None:
    assert nearest(words_of(["0" * 64]), words_of(["f" * 64])) == (256, 0, 0)


def test_nothing_is_nearest_to_nothing() -> None:
    assert nearest(words_of([]), words_of(["0" * 64])) is None
    assert nearest(words_of(["0" * 64]), words_of([])) is None


def test_a_pair_beyond_the_first_tile_of_columns_is_found() -> None:
    rng = np.random.default_rng(3)
    hashes = [rng.bytes(32).hex() for _ in range(COLUMNS + 9)]
    hashes[-1] = hashes[2]
    labels = join_near(np.arange(len(hashes)), np.arange(len(hashes)), words_of(hashes), 40)
    assert labels[-1] == labels[2]
    assert len(set(labels.tolist())) == len(hashes) - 1


def near_one_by_one(hashes: list[str], others: list[str], limit: int) -> list[bool]:
    return [any(bits(one, other) <= limit for other in others) for one in hashes]


@pytest.mark.usefixtures("way")
class TestNearOthers:
    """Which hashes are near any of others is what comparing each with each says."""

    @pytest.mark.parametrize("limit", [0, 20, 36, 40, 110, 256])
    @pytest.mark.parametrize(("count", "many"), [(1, 200), (200, 1), (ROWS + 70, ROWS + 9)])
    def test_are_those_of_comparing_one_by_one(self, count: int, many: int, limit: int) -> None:
        hashes, others = some_hashes(count + many)[:count], some_hashes(count + many)[count:]
        found = near_others(words_of(hashes), words_of(others), limit)
        assert found.tolist() == near_one_by_one(hashes, others, limit)

    @pytest.mark.parametrize("limit", [0, 1, 7, 40])
    def test_are_found_at_the_limit_and_not_beyond(self, limit: int) -> None:
        others = some_hashes(300, seed=1)
        at = [f"{int(one, 16) ^ ((1 << limit) - 1):064x}" for one in others[:9]]
        beyond = [f"{int(one, 16) ^ ((1 << limit + 1) - 1):064x}" for one in some_hashes(9, seed=2)]
        found = near_others(words_of([*at, *beyond]), words_of([*others, *some_hashes(9, seed=2)]), limit)
        assert found.tolist() == [True] * 9 + [False] * 9

    def test_a_hash_that_is_near_only_to_one_that_is_near_is_not(self) -> None:
        chain = [f"{(1 << 20 * step) - 1:064x}" for step in range(1, 4)]
        assert near_others(words_of(chain), words_of(["0" * 64]), 20).tolist() == [True, False, False]

    def test_none_are_near_nothing(self) -> None:
        assert near_others(words_of([]), words_of(["0" * 64]), 40).tolist() == []
        assert near_others(words_of(["0" * 64]), words_of([]), 40).tolist() == [False]


def test_hashes_that_share_most_bits_are_near_others_as_one_by_one_says() -> None:
    """As pictures of the night are: bands are given up for them on the way."""
    rng = np.random.default_rng(3)
    drawn = [f"{int.from_bytes(rng.bytes(6)):064x}" for _ in range(3000)]
    found = near_others(words_of(drawn[:2400]), words_of(drawn[2400:]), 8)
    assert 0 < found.sum() < 2400
    assert found.tolist() == [nearest(words_of([one]), words_of(drawn[2400:]))[0] <= 8 for one in drawn[:2400]]  # type: ignore[index]
