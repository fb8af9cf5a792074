"""Text of `cascade engines audit`."""

from __future__ import annotations

from pathlib import Path

from engines.store.file_names import CONFIG, PARAMS
from engines.store.store import Store
from offline.certify.audit import SHOWN, Audit, audit
from offline.config import RunConfig
from offline.data.sources.source import read_dataset
from offline.pipeline.progress import Progress
from offline.stream.sender import sender_of
from stage1.certificate.params import ScrcParams


def audited(root: Path, bundle: str, data: Path, progress: Progress) -> tuple[bool, str]:
    """Whether the certificate of a bundle follows from these rows, and what was found.

    Args:
        root: the store.
        bundle: id, or its beginning.
        data: directory with labels.csv.
        progress: where to tell how far it is.

    Raises:
        UnknownBundle: it is not in the store.
        BundleRefused: it is damaged, or does not say what its certificate was computed from.
        stage1.errors.CascadeError: the data cannot be read.
    """
    directory = Store(root).path(bundle)
    settings = RunConfig.read(directory / CONFIG).calibrate_scrc
    params = ScrcParams.read(directory / PARAMS)
    found = audit(directory, read_dataset(data).sent_by(sender_of(params)), settings, progress)
    lines = [f"ok       {line}" for line in found.checks] + [f"differs  {line}" for line in found.differences]
    if params.rule is not None:
        proof = params.evidence[0]
        lines.append(f"counted  {proof.events} of {proof.trials}, p = {proof.p_value:.4g} at level {proof.level:.4g}")
    lines += _renamed(found)
    if found.undecided:
        lines.append(f"note     {found.undecided} rows lie nearer to a threshold than two machines may differ")
    verdict = "equal" if found.equal else "NOT equal"
    if found.left_out:
        verdict += " on the rows that it names"
        lines.append(
            f"note     {found.left_out} rows of val_calib, {found.left_out_roadwork} with roadwork, are no part of it: "
            "another fold, or left out"
        )
    return found.equal, "\n".join([*lines, f"{found.bundle}: {verdict}, {found.rows} rows computed again"])


def _renamed(found: Audit) -> list[str]:
    """Rows that lie under another name than the one that they certified under, in the order of these names."""
    both = sorted(found.renamed.items())
    if not both:
        return []
    more = [f"note     and {len(both) - SHOWN} more"] if len(both) > SHOWN else []
    return [
        f"note     {len(both)} rows were found by what is in their files, under other names:",
        *(f"note     {known} is {here} here" for known, here in both[:SHOWN]),
        *more,
    ]
