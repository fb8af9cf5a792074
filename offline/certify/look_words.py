"""How many looks at the rows of val_calib are left, in words."""

from __future__ import annotations

from stage1.certificate.params import ScrcParams


def look_words(params: ScrcParams) -> str:
    """What is left of delta on the rows that a certificate is of.

    Args:
        params: what came of the calibration, certified or not.
    """
    if params.spending == "single_use":
        return "each certificate has all of delta, and holds only by itself"
    looked = bool(params.evidence)
    used = params.prior_uses + looked
    share = params.spent_before + (params.spent if looked else 0.0)
    spent = f"{min(1.0, share / params.delta):.0%} of delta is spent on these rows"
    if params.spending == "nights":
        return f"without end, each of less; {spent}"
    return f"{max(0, params.looks - used)} of {params.looks} on these rows; {spent}"
