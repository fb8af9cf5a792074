"""The champion: the current bundle, opened so that a challenger can be compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.errors import BundleRefused, EngineError, Unavailable
from engines.live.load.load_bundle import LiveBundle, check_bundle, load_bundle
from engines.spec import REFERENCE
from engines.store.file_names import SPLITS
from engines.store.store import Store
from offline.splits.bundle_past import PastRow, read_past, unseen
from offline.splits.settings import Split
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.errors import Stage1Error


@dataclass(frozen=True)
class Champion:
    """A bundle that was opened.

    Attributes:
        bundle: its id.
        live: the loaded bundle.
        past: the rows that it was made of.
    """

    bundle: str
    live: LiveBundle
    past: tuple[PastRow, ...]

    def unseen(self, rows: LabelledOutputs, contents: Mapping[str, str], judging: Split) -> LabelledOutputs | None:
        """Those of some rows that can judge it: it has used them for nothing else; None without both classes.

        Args:
            rows: rows of one set, with what another bundle says of them.
            contents: hashes of their files, where they are known.
            judging: the set.
        """
        kept = set(unseen(rows.row_ids, contents, self.past, judging))
        places = np.flatnonzero([row in kept for row in rows.row_ids])
        return rows.pick(places) if len(set(rows.labels[places].tolist())) == 2 else None


@dataclass(frozen=True)
class Unjudged:
    """A bundle that cannot be opened.

    Attributes:
        bundle: its id.
        reason: why.
        damaged: its files are not those that were published, or this program does not read them: no miner can start
            with it.
    """

    bundle: str
    reason: str
    damaged: bool


def open_bundle(store: Store, bundle: str) -> Champion | Unjudged:
    """A bundle of the store, by ONNX Runtime where its own engine is for another machine and that decides the same.

    Args:
        store: holds it.
        bundle: its id.
    """
    try:
        home = store.path(bundle)
        past = read_past(home / SPLITS)
        live = _loaded(home)
    except Unavailable as error:
        return Unjudged(bundle, f"it cannot be loaded here: {error}", damaged=False)
    except (EngineError, Stage1Error) as error:
        return Unjudged(bundle, str(error), damaged=_damaged(store, bundle))
    return Champion(bundle, live, past)


def _damaged(store: Store, bundle: str) -> bool:
    try:
        check_bundle(store.path(bundle))
    except EngineError:
        return True
    return False


def _loaded(home: Path) -> LiveBundle:
    try:
        return load_bundle(home)
    except Unavailable:
        with suppress(BundleRefused):
            return load_bundle(home, spec=REFERENCE)
        raise
