"""CPU time of a split's search for pictures that look alike, beside comparing all with all.

    python -m benchmarks.likeness
    python -m benchmarks.likeness --rows 300000 --limit 24

Three kinds of hashes: every picture another place; drives, five frames of a place on average; and nights, drives of
which many bits are the same in all pictures. Both sides find the same components, which is asserted. Comparing all with
all is measured on fewer rows, because its time grows with their square.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from unittest import mock

import numpy as np

from offline.data.checks import near_hashes
from offline.data.checks.near_hashes import HASH_BITS, Places, Words
from offline.data.checks.perceptual_hash import join_near, nearest_apart

T = TypeVar("T")
KINDS = ("places", "drives", "nights")


def drawn(kind: str, rows: int, generator: np.random.Generator) -> Words:
    """Hashes `(4, N)`; frames of a place differ from it in 6 % of their bits."""
    if kind == "places":
        return generator.integers(0, 2**64, (HASH_BITS // 64, rows), dtype=np.uint64)
    places = generator.integers(0, 2, (rows // 5, HASH_BITS), dtype=np.uint8)
    if kind == "nights":
        places[:, : HASH_BITS // 4] = 0
    bits = places[np.sort(generator.integers(0, len(places), rows))]
    bits ^= generator.random(bits.shape) < 0.06
    return np.ascontiguousarray(np.packbits(bits, axis=1).view(np.uint64).T)


def components(words: Words, limit: int) -> Places:
    start = np.arange(words.shape[1])
    return join_near(start, start, words, limit)


def measured(work: Callable[[], T]) -> tuple[float, T]:
    before = time.process_time()
    result = work()
    return time.process_time() - before, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--compared", type=int, default=20_000, help="rows of which all are compared with all")
    parser.add_argument("--limit", type=int, default=40, help="bits in which hashes may differ")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    print(f"{'':<8}{'rows':>10}{'components':>12}{'CPU s':>9}{'again, as a check':>20}{'ratio to all with all':>36}")
    for kind in KINDS:
        words = drawn(kind, options.rows, generator)
        seconds, parts = measured(partial(components, words, options.limit))
        checked, found = measured(partial(nearest_apart, words, parts % 4, options.limit))
        assert found is None
        few = words[:, : options.compared]
        by_bands, one = measured(partial(components, few, options.limit))
        with mock.patch.object(near_hashes, "plan", return_value=()):
            by_all, other = measured(partial(components, few, options.limit))
        assert len(set(zip(one.tolist(), other.tolist(), strict=True))) == len(set(one.tolist()))
        assert len(set(one.tolist())) == len(set(other.tolist()))
        told = f"{by_bands:.2f} / {by_all:.2f} = {by_bands / by_all:.2f} of {few.shape[1]}"
        print(f"{kind:<8}{options.rows:>10}{len(set(parts.tolist())):>12}{seconds:>9.2f}{checked:>20.2f}{told:>36}")


if __name__ == "__main__":
    main()
