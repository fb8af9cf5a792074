"""What a person is told of the rows of a night, beside what is said of the model."""

from __future__ import annotations

from offline.splits.splits_file import Splits


def row_notes(splits: Splits) -> tuple[str, ...]:
    """Sentences on how the rows were checked and split, for whoever reads what came of the night; none if all is plain.

    Args:
        splits: the sets.
    """
    return tuple(_cuts(splits))


def _cuts(splits: Splits) -> list[str]:
    if not splits.other_cuts:
        return []
    before = " and ".join(f"into {cut.bins} by {cut.scorer!r} on {cut.at[:10]}" for cut in splits.other_cuts)
    told = (
        f"the bins of difficulty of splits.strata_version {splits.strata_version} were cut anew, into "
        f"{len(splits.edges) + 1} by {splits.scorer!r}; other nights cut them {before}. No row moved: bins only "
        "balance where new groups go"
    )
    return [told]
