"""What a person is told of the rows of a night, beside what is said of the model."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from offline.data.checks.preflight import PREFLIGHT, PreflightReport
from offline.splits.splits_file import Quarantined, QuarantineKind, Splits

WHY: dict[QuarantineKind, str] = {
    "ties two sets": "they depend on rows of two sets, which never move",
    "spent": "they were to certify, and a bundle of the store trained on their group or chose by it",
    "only trains": "they may only train, and depend on rows of an exam",
}
SHOWN = 3
# Fields of `splits.json` that the notes are about.
NOTED = ("quarantined", "chains", "unread_bundles", "other_cuts", "edges", "scorer", "strata_version")


def row_notes(preflight: PreflightReport, splits: Splits) -> tuple[str, ...]:
    """Sentences on how the rows were checked and split, for whoever reads what came of a night; none if all is plain.

    What the statement of a certificate says of rows, `sample_words` says.

    Args:
        preflight: what is wrong with the images.
        splits: the sets.
    """
    return (*_findings(preflight), *_quarantined(splits), *_chains(splits), *_unread(splits), *_cuts(splits))


def _findings(preflight: PreflightReport) -> list[str]:
    named = f"; {PREFLIGHT} names all that are left out" if preflight.left_out else ""
    return [f"{finding}{named if finding.policy == 'left out' else ''}" for finding in preflight.findings]


def _quarantined(splits: Splits) -> list[str]:
    told = []
    for kind in get_args(QuarantineKind):
        rows = [one for one in splits.quarantined if one.kind == kind]
        if rows:
            told.append(
                f"{len(rows)} rows are in no set, because {WHY[kind]}, for example {_examples(rows)}; `quarantined` in "
                "splits.json names them all, each with its reason"
            )
    return told


def _examples(rows: list[Quarantined]) -> str:
    """The first row of each of the reasons that most rows have."""
    first: dict[str, str] = {}
    for one in rows:
        first.setdefault(one.reason, one.row)
    most = Counter(one.reason for one in rows).most_common(SHOWN)
    return "; ".join(f"{first[why]!r}{f' and {count - 1} more' if count > 1 else ''}: {why}" for why, count in most)


def _chains(splits: Splits) -> list[str]:
    if not splits.chains.rows:
        return []
    told = (
        f"{splits.chains.rows} rows of {splits.chains.groups} groups only train, because they tie more than "
        "splits.roadwork_chain visits to roadwork together"
    )
    return [told]


def _unread(splits: Splits) -> list[str]:
    if not splits.unread_bundles:
        return []
    told = (
        f"{len(splits.unread_bundles)} bundles of the store do not say what they were made of, for example "
        f"{splits.unread_bundles[0]}: their splits.json is damaged or of another version, and rows that they trained "
        "on are not known by them; `unread_bundles` in splits.json names them all"
    )
    return [told]


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
