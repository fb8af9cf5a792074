"""The best bundles that were live of late: what a challenger is compared with, and what must stay for that."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from engines.store.file_names import PARAMS
from engines.store.records import HISTORY, HistoryEntry, live_since, read_entries
from engines.store.store import Store
from offline.evaluation.evaluate import Report
from offline.pipeline.run_files import REPORT
from stage1.certificate.params import ScrcParams
from stage1.certificate.terms import Terms
from stage1.errors import Stage1Error


class Merit(NamedTuple):
    """How good a bundle is among those that were asked for the same.

    Attributes:
        asked_for: what bundles must have in common to be compared.
        value: share of the test rows that exit; in mode `coverage`, where that is asked for, minus the certified bound.
    """

    asked_for: tuple[str, object]
    value: float


def merit_of(directory: Path) -> Merit | None:
    """The merit of a bundle, None if it is of another version or does not say.

    Args:
        directory: of the bundle.
    """
    try:
        params, report = ScrcParams.read(directory / PARAMS), Report.read(directory / REPORT)
    except Stage1Error:
        return None
    terms = Terms.of(params)
    exits = report.policies[0].exit_coverage.estimate or 0.0
    return Merit((params.status, terms.asked_for), exits if terms.mode != "coverage" else -(terms.alpha or 0.0))


def lasting(store: Store, since: datetime) -> set[str]:
    """Bundles that are, or on a later day can become, the best of those that were live of late.

    A bundle that another one outlived and equalled never is. The current one and the one before it outdo nobody yet,
    for an operator may still roll them back. On average there are about as many as the logarithm of the swaps.

    Args:
        store: the store.
        since: what was live before is forgotten.
    """
    there = {row.manifest.bundle_id: row for row in store.bundles()}
    # Where each stands last, in the order of the pointer's moves and not by a clock that may have been set.
    order = {entry.bundle: place for place, entry in enumerate(read_entries(store.root / HISTORY, HistoryEntry))}
    late = (live_since(store.root, since) & there.keys()) - store.rejected().keys()
    outdone: dict[tuple[str, object], float] = {}
    found = set()
    for bundle in sorted(late, key=order.__getitem__, reverse=True):
        merit = merit_of(there[bundle].path)
        if merit is None or merit.value <= outdone.get(merit.asked_for, float("-inf")):
            continue
        found.add(bundle)
        if not (there[bundle].current or there[bundle].previous):
            outdone[merit.asked_for] = merit.value
    return found
