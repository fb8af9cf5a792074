"""Which picture comes next, drawn as validators draw it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np

from engines.store.file_names import SPLITS
from miner.simulation.exchange import Challenge
from offline.data.dataset import Dataset
from offline.errors import DatasetError
from offline.splits.settings import Split
from offline.splits.splits_file import Splits
from stage1.errors import ArtifactError

# Sets whose rows had a part in what the bundle answers; those of test are only counted.
USED: tuple[Split, ...] = ("train", "val_select", "val_calib")


def challenges(data: Dataset, seed: int, *, unwanted: Callable[[Path], bool]) -> Iterator[Challenge]:
    """Challenges without end: a label, evenly between both, then a picture with this label, evenly among all.

    Args:
        data: labelled pictures.
        seed: of the draws.
        unwanted: whether the picture in a file is left out; asked when it is drawn.

    Raises:
        DatasetError: no picture of a label is wanted.
    """
    rng = np.random.default_rng(seed)
    pools = [[row for row in data.rows if row.label == label] for label in (0, 1)]
    for number in count():
        label = int(rng.integers(2))
        pool = pools[label]
        place = int(rng.integers(len(pool)))
        while unwanted(data.path_of(pool[place].image)):
            del pool[place]
            if not pool:
                raise DatasetError(
                    f"{data.root}: the live bundle was made with every picture of label {label}, so none is left for "
                    "--unseen: give other pictures, or leave it out"
                )
            place = int(rng.integers(len(pool)))
        row = pool[place]
        yield Challenge(str(number), data.path_of(row.image), row.label, row.group)


class UsedPictures:
    """The pictures that a bundle was made with, known by the content of their files.

    Args:
        contents: hashes of their files.
    """

    def __init__(self, contents: frozenset[str]) -> None:
        self._contents = contents
        self._known: dict[Path, bool] = {}

    @classmethod
    def of(cls, bundle: Path) -> UsedPictures | None:
        """Those of a bundle; None if it does not say.

        Args:
            bundle: its directory.
        """
        try:
            splits = Splits.read(bundle / SPLITS)
        except ArtifactError:
            return None
        rows = [row for name in USED if name in splits.sets for row in splits.sets[name].rows]
        return None if any(row.sha256 is None for row in rows) else cls(frozenset(row.sha256 or "" for row in rows))

    def __contains__(self, file: Path) -> bool:
        """Whether this file holds one of them; each file is read once, and one that cannot be read holds none."""
        if file not in self._known:
            try:
                content = file.read_bytes()
            except OSError:
                return False
            self._known[file] = hashlib.sha256(content).hexdigest() in self._contents
        return self._known[file]
