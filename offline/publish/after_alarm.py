"""What a challenger must show where an alarm has revoked the champion's certificate.

An alarm is evidence from the stream itself that the champion breaks its promise there. What it was better at on rows
from before speaks of a world that is gone, so it is no measure, and neither is a bound that was found on such rows. But
a new certificate from the same old rows would only silence the alarm. So a challenger replaces the champion, or
the bundle that a rollback has put back in its place,

- if it is certified, and promises what the champion was asked to promise;
- if the rows of its fold that were taken since the alarm confirm each of its bounds by themselves, at its own delta;
- and unless the test rows that were taken since the alarm show that its Stage-1 is right less often.

The second can only refuse: no threshold depends on it, and nothing is certified by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime

import numpy as np

from engines.errors import StoreError
from engines.store.file_names import PARAMS
from engines.store.records import RevocationEntry, went_back_from
from engines.store.store import Store
from offline.publish.bars import counted_claims
from offline.publish.comparison import Comparison
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.statistics.binomial import upper_bound
from stage1.certificate.statistics.percent import at_most, confidence
from stage1.certificate.terms import Terms
from stage1.errors import Stage1Error

HELPS = "label random draws that came since the alarm, with the time of each in captured_at"


def unanswered_alarm(store: Store) -> RevocationEntry | None:
    """The latest alarm on the current bundle, or on one that was live before it came back; None if there is none.

    A rollback answers no alarm: the certificate of the bundle before is one of rows from before as well. A bundle that
    became current otherwise does, by the verdict of the gate or by the choice of an operator.

    Raises:
        StoreError: a record of the store is damaged.
    """
    pointer, revoked = store.current(), store.revoked().values()
    if pointer is None or not revoked:
        return None
    line = went_back_from(store.root)
    # What was compiled anew may have the certificate of another bundle.
    with suppress(StoreError, Stage1Error):
        name = ScrcParams.read(store.path(pointer.bundle) / PARAMS).name
        line |= {entry.bundle for entry in revoked if entry.certificate == name}
    return max((entry for entry in revoked if entry.bundle in line), key=lambda entry: entry.at, default=None)


def weaker_than_asked(params: ScrcParams, revoked: ScrcParams) -> str:
    """What a certificate promises less than a revoked one was asked for; a bound that was found binds nobody."""
    return "; ".join(Terms.of(params).asked_for.weaker_than(Terms.of(revoked).asked_for))


def taken_since(rows: LabelledOutputs, times: Mapping[str, float], since: datetime) -> LabelledOutputs | None:
    """Those of some rows that were taken since a time, None if none was; one that does not say when was not."""
    places = np.flatnonzero([times.get(row, -np.inf) >= since.timestamp() for row in rows.row_ids])
    return rows.pick(places) if len(places) else None


def unconfirmed(
    fold: LabelledOutputs | None, params: ScrcParams, times: Mapping[str, float], since: datetime
) -> list[str]:
    """Bounds of a certificate that the rows of its fold which were taken since an alarm do not confirm.

    Args:
        fold: rows that it was computed from, with what its engine says of them; None if nobody knows.
        params: the certificate.
        times: when rows were taken, seconds since 1970, by their ids.
        since: when the alarm was raised.
    """
    if fold is None:
        return ["nobody knows what its certificate was computed from"]
    fresh = taken_since(fold, times, since)
    if fresh is None:
        return [f"none of the {len(fold)} rows that certified it was taken since: {HELPS}"]
    found = []
    for claim, lost, trials in counted_claims(params, fresh):
        most = upper_bound(lost, trials, params.delta)
        if most > claim.bound:
            found.append(
                f"{len(fresh)} of the {len(fold)} rows that certified it were taken since; on these {claim.risk} is "
                f"{lost} of {trials}, with {confidence(params.delta)} confidence at most {at_most(most)}, and "
                f"{at_most(claim.bound)} is certified: {HELPS}"
            )
    return found


def worse_since(found: Comparison) -> tuple[str, ...]:
    """Why a comparison on rows since an alarm keeps the champion: it is shown to be right more often."""
    return tuple(
        f"{loss.of} on {found.rows} test rows since the alarm is shown to be lower than that of {found.against}, by "
        f"{loss.estimate:+.3f} and at most {loss.upper:+.3f}"
        for loss in found.losses
        if loss.of == "accuracy" and loss.upper < 0
    )
