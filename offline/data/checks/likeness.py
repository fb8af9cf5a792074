"""Which rows look alike, found once for all rows and then asked for any of them.

Finding near hashes is what costs time in a split, and a split asks for groups again and again: with rows left out, with
rows that only train, and at its end, whether two sets have pictures in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from offline.data.checks.near_hashes import Places
from offline.data.checks.perceptual_hash import join, join_near, words_of


@dataclass(frozen=True)
class Likeness:
    """What is known of how much pictures look alike.

    Attributes:
        hashes: perceptual hash of each row by its id; None for a blank picture, which looks like nothing else.
        limit: pictures look alike whose hashes differ in at most so many bits; None if looks are not compared.
    """

    hashes: Mapping[str, str | None]
    limit: int | None

    @cached_property
    def chains(self) -> Mapping[str, int]:
        """Number of each hash's chain. Hashes of two chains differ in more bits than `limit`."""
        digests = list({digest for digest in self.hashes.values() if digest is not None})
        if self.limit is None or not digests:
            return {digest: number for number, digest in enumerate(digests)}
        start = np.arange(len(digests))
        return dict(zip(digests, join_near(start, start, words_of(digests), self.limit).tolist(), strict=True))

    @cached_property
    def _lengths(self) -> Places:
        """Hashes of each chain, by its number."""
        return np.bincount(np.fromiter(self.chains.values(), np.intp, len(self.chains)))

    def join(self, labels: Places, rows: Sequence[str]) -> Places:
        """Labels of the components after joining every two rows that look alike.

        Args:
            labels: component of each of N rows, `(N,)`, numbers from 0.
            rows: their ids. Rows that look alike only by way of others, which are not among them, are not joined.
        """
        if self.limit is None:
            return labels
        first: dict[str, int] = {}
        seen = [
            (first.setdefault(digest, place), place)
            for place, row in enumerate(rows)
            if (digest := self.hashes[row]) is not None
        ]
        if not seen:
            return labels
        labels = join(labels, *np.asarray(seen, np.intp).T)
        digests, places = list(first), np.fromiter(first.values(), np.intp, len(first))
        chain = np.fromiter((self.chains[digest] for digest in digests), np.intp, len(first))
        present = np.bincount(chain, minlength=len(self._lengths))
        whole = (present == self._lengths)[chain]
        of_chain = np.zeros(len(present), np.intp)
        of_chain[chain] = places
        labels = join(labels, places[whole], of_chain[chain[whole]])
        some = np.flatnonzero(~whole & (present[chain] > 1))
        if not some.size:
            return labels
        return join_near(labels, places[some], words_of([digests[place] for place in some]), self.limit)
