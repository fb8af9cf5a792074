"""Placing groups into bins so that every bin gets its share of everything there is to share."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Bin = TypeVar("Bin", bound=Hashable)

# How many rows of what: of a class, of a stratum.
Contents = Mapping[str, int]


def hash_key(seed: int, name: str) -> bytes:
    """An order of names that is the same on every machine."""
    return hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()


def place(
    groups: Mapping[str, Contents],
    shares: Mapping[Bin, float],
    seed: int,
    *,
    placed: Mapping[Bin, Contents] | None = None,
    needed: Sequence[str] = (),
) -> dict[str, Bin]:
    """Place groups, the largest first, ties by hash; each goes where there is least of what it holds.

    "Least" is rows of a kind for each unit of the bin's share, summed over the kinds of all rows of the group, with
    half of the group counted as there already. So bins keep their proportions among groups of any size: were a group to
    go where most rows are lacking, the largest groups would all be in the largest bin. Stopping after some groups and
    going on with the rest, the first ones now `placed`, places them alike.

    Args:
        groups: what each group holds.
        shares: share of each bin.
        seed: seed of the tie-breaking hash.
        placed: what the bins hold already.
        needed: kinds that every bin must have some of, if there are groups enough; the first is the most important.

    Returns:
        The bin of each group, in the order of placing.

    Reference:
        Without kinds and with groups of one row, the method of Webster (1832) and Sainte-Laguë (1910) for seats.
    """
    filled = {name: Counter(dict((placed or {}).get(name, {}))) for name in shares}
    order = sorted(groups, key=lambda name: (-_size(groups[name]), hash_key(seed, name)))
    left = Counter(kind for name in order for kind in groups[name])
    homes: dict[str, Bin] = {}
    for name in order:
        contents = groups[name]
        candidates = list(shares)
        for kind in needed:
            without = [where for where in shares if not filled[where][kind]]
            if kind in contents and left[kind] <= len(without):
                candidates = [where for where in candidates if where in without] or candidates
        homes[name] = min(candidates, key=lambda where: _fullness(contents, filled[where], shares[where]))
        filled[homes[name]].update(contents)
        left.subtract(dict.fromkeys(contents, 1))
    return homes


def _size(contents: Contents) -> int:
    return sum(contents.values())


def _fullness(contents: Contents, filled: Contents, share: float) -> float:
    # In integers up to the one division: a sum of floats in another order is another number.
    return sum(count * (2 * filled[kind] + count) for kind, count in contents.items()) / share
