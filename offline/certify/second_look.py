"""Which labels of val_calib a person should look at again.

Roadwork that model and annotator both overlook is invisible to the certificate: two in a thousand of it labelled 0 take
the chance that a certificate is wrong well above delta. So the images that count most are shown, among as many others.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from offline.splits.balanced_placement import hash_key
from stage1.artifacts import Artifact
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams

MOST_MISSED, MOST_NEAR = 24, 24


class SecondLook(Artifact):
    """`second_look.json`.

    Attributes:
        rows: ids of the rows, in an order that says nothing.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    rows: tuple[str, ...] = ()


def second_look(params: ScrcParams, val_calib: LabelledOutputs, seed: int) -> SecondLook:
    """The roadwork that is missed, the images that exit as 0 just below t0, and as many others.

    Args:
        params: what was certified.
        val_calib: the rows it was certified on.
        seed: of the draw of the others, and of the order.
    """
    if params.rule is None:
        return SecondLook()
    as_zero = params.rule.exit_labels(val_calib.outputs) == 0
    score = val_calib.outputs.roadwork_score
    missed = np.flatnonzero(as_zero & val_calib.positive)[:MOST_MISSED]
    candidates = np.flatnonzero(as_zero & ~val_calib.positive)
    near = candidates[np.argsort(-score[candidates], kind="stable")][:MOST_NEAR]
    chosen = {val_calib.row_ids[place] for place in (*missed.tolist(), *near.tolist())}
    others = sorted(set(val_calib.row_ids) - chosen, key=lambda row: hash_key(seed, row))[: len(chosen)]
    return SecondLook(rows=tuple(sorted((*chosen, *others), key=lambda row: hash_key(seed + 1, row))))
