"""Computing the certificate of a bundle again, from the bundle and from the rows that somebody holds."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from engines.errors import BundleRefused
from engines.live.load.load_bundle import load_bundle
from engines.store.bundle import verify_bundle
from engines.store.file_names import CALIBRATION, PARAMS, SPLITS
from offline.certify.calibration_record import CalibrationRecord, CalibrationRow
from offline.data.dataset import Dataset
from offline.data.engine_outputs import run_engine
from offline.data.known_rows import NotedRow, found_by_content
from offline.data.values import word
from offline.pipeline.progress import Progress
from offline.splits.settings import CERTIFYING, Split
from offline.splits.splits_file import Splits
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.settings import CalibrationSettings
from stage1.outputs import Stage1Outputs

SHOWN = 20


@dataclass
class Audit:
    """What an audit found.

    Attributes:
        bundle: id of the bundle.
        rows: rows that were computed again.
        renamed: path here of each row that was found by the content of its file, under another name than its own.
        checks: what holds, one line each.
        differences: what does not, one line each.
        undecided: rows that lie nearer to a threshold than two machines may differ.
        left_out: rows of val_calib, by `splits.json`, that are no part of the certificate.
        left_out_roadwork: those of them that are labelled 1 here.
    """

    bundle: str
    rows: int = 0
    renamed: dict[str, str] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    undecided: int = 0
    left_out: int = 0
    left_out_roadwork: int = 0

    @property
    def equal(self) -> bool:
        """The certificate follows from the rows."""
        return not self.differences

    def found(self, what: str, differences: list[str]) -> None:
        """Note a check with what it found."""
        if differences:
            more = [f"and {len(differences) - SHOWN} more"] if len(differences) > SHOWN else []
            self.differences += [f"{what}: {line}" for line in (*differences[:SHOWN], *more)]
        else:
            self.checks.append(what)


def audit(directory: Path, data: Dataset, settings: CalibrationSettings, progress: Progress) -> Audit:
    """Compute the certificate of a bundle again.

    Three things are held against each other: the certificate, what the bundle says it was computed from, and the rows
    at hand with the bundle's engine. From the recorded outputs it must follow exactly; what the engine says of the rows
    here may differ by no more than two machines may.

    A row is known by the content of its file where the bundle has noted it, and else by its path. What the stream does
    to it is drawn from the name that it had.

    Args:
        directory: the bundle.
        data: rows among which those of the certificate are, sent as the certificate's stream is.
        settings: what was to be certified, as the bundle's config says.
        progress: where to tell how far it is.

    Raises:
        BundleRefused: the bundle is damaged, cannot be loaded, or certifies nothing that could be computed again.
        DatasetError: a file of the data cannot be read.
    """
    verify_bundle(directory)
    if not (directory / CALIBRATION).exists():
        raise BundleRefused(f"{directory.name}: the bundle does not say what its certificate was computed from")
    params = ScrcParams.read(directory / PARAMS)
    record = CalibrationRecord.read(directory / CALIBRATION)
    recorded = record.outputs(directory)
    splits = Splits.read(directory / SPLITS)
    noted = [NotedRow(row=r.row, sha256=r.sha256) for name in CERTIFYING for r in splits.sets[name].rows]
    report = Audit(directory.name, renamed=found_by_content(noted, data))
    data = data.called(report.renamed)
    report.found("every row is here, with its label", _missing(record, data))
    report.found("the certificate names these rows", _other_rows(params, recorded))
    report.found("they are those of splits.json", _not_of_the_splits(params, record, splits))
    unused = set(splits.sets["val_calib"].ids) - {row.row for row in record.val_calib}
    report.left_out = len(unused)
    report.left_out_roadwork = sum(data.by_id[row].label for row in unused if row in data.by_id)
    report.found("it follows from the recorded outputs", _other_numbers(params, settings, record, recorded))
    _engine_agrees(directory, data, params, recorded, report, progress)
    return report


def _missing(record: CalibrationRecord, data: Dataset) -> list[str]:
    found = []
    for row in (*record.val_select, *record.val_calib):
        there = data.by_id.get(row.row)
        if there is None:
            found.append(f"{row.row!r} is not here")
        elif there.label != row.label:
            found.append(f"{row.row!r} is labelled {there.label} here, and was {row.label}")
        found += [
            f"{row.row!r} has {name} {there.about(name)!r} here, and had {told!r}"
            for name, told in row.about.items()
            if there is not None and word(there.about(name) or "") != word(told)
        ]
    return found + _torn(record, data)


def _torn(record: CalibrationRecord, data: Dataset) -> list[str]:
    """Groups of the labels file whose rows the certificate counts as several; to count fewer is cautious."""
    home: dict[str, CalibrationRow] = {}
    found = []
    for row in (*record.val_select, *record.val_calib):
        if row.row in data.by_id:
            declared = data.by_id[row.row].group
            first = home.setdefault(declared, row)
            if first.group != row.group:
                found.append(f"{first.row!r} and {row.row!r} are one group here ({declared!r}), and were two")
    return found


def _other_rows(params: ScrcParams, recorded: dict[str, LabelledOutputs]) -> list[str]:
    bound = {"val_select": params.binding.val_select_sha256, "val_calib": params.binding.val_calib_sha256}
    return [f"{name} has other rows than it is bound to" for name in bound if recorded[name].rows_sha256 != bound[name]]


def _not_of_the_splits(params: ScrcParams, record: CalibrationRecord, splits: Splits) -> list[str]:
    """Rows that were in another set, and rows of the fold that were left out."""
    group_of = splits.groups
    found = []
    sets: tuple[tuple[Split, tuple[CalibrationRow, ...]], ...] = (
        ("val_select", record.val_select),
        ("val_calib", record.val_calib),
    )
    for name, rows in sets:
        known = set(splits.sets[name].ids)
        found += [f"{row.row!r} is not in {name}" for row in rows if row.row not in known]
        found += [
            f"{row.row!r} is in group {row.group!r}, and in {group_of[row.row]!r} in {SPLITS}"
            for row in rows
            if row.row in known and group_of[row.row] != row.group
        ]
        used = {row.row for row in rows}
        partial = {group_of[row] for row in used & known}
        # A fold holds whole groups, and all there are unless some were looked at before or val_calib was cut.
        all_of_it = name == "val_select" or (params.prior_uses == 0 and len(splits.folds) == 1)
        found += [
            f"{row!r} of {name} is left out" for row in sorted(known - used) if all_of_it or group_of[row] in partial
        ]
    return found


def _other_numbers(
    params: ScrcParams, settings: CalibrationSettings, record: CalibrationRecord, recorded: dict[str, LabelledOutputs]
) -> list[str]:
    context = CalibrationContext(
        params.binding.engine_sha256,
        params.binding.preprocess_sha256,
        params.prior_uses,
        params.code_version,
        params.tolerance,
        params.spent_before,
        record.calib_share,
        stream=params.stream,
        stream_weights=params.stream_weights,
    )
    again = calibrate(recorded["val_select"], recorded["val_calib"], settings, context)
    # A certificate of the selection score is written without it.
    ours, theirs = (one.model_dump(mode="json") | {"gate_score": one.gate_score} for one in (again, params))
    left_out = {"seal", "statement", "chains"}
    found = [
        f"{name} is {theirs[name]}, and {ours[name]} when it is computed again"
        for name in ours
        if name not in left_out and not _same(ours[name], theirs[name])
    ]
    if not found and not _same(ours["chains"], theirs["chains"]):
        found.append("the tested thresholds differ")
    # What is known of the sample stands at its end.
    if not params.statement.startswith(again.statement):
        found.append(f"the statement is {params.statement!r}, and {again.statement!r} when it is computed again")
    return found


def _same(one: JsonValue, other: JsonValue) -> bool:
    """Whether two values are the same but for the last bits of their numbers, in which versions of scipy differ."""
    match one, other:
        case float(), float():
            return math.isclose(one, other, rel_tol=1e-9)
        case dict(), dict():
            return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
        case list(), list():
            return len(one) == len(other) and all(map(_same, one, other))
    return one == other


def _engine_agrees(
    directory: Path,
    data: Dataset,
    params: ScrcParams,
    recorded: dict[str, LabelledOutputs],
    report: Audit,
    progress: Progress,
) -> None:
    """Run the engine on the rows that are here, and compare row by row."""
    with closing(load_bundle(directory)) as bundle:
        for name, known in recorded.items():
            places = np.flatnonzero([row in data.by_id for row in known.row_ids])
            if not len(places):
                continue
            there = known.pick(places)
            said = run_engine(bundle.engine, data.pick(list(there.row_ids)), bundle.preprocess, progress.step, name)
            away = _apart(said.outputs, there.outputs)
            tolerance = bundle.manifest.parity_tolerance
            far = np.flatnonzero(away > tolerance)
            report.found(
                f"the engine says of {name} what was recorded",
                [f"{there.row_ids[place]!r} differs by {away[place]:.2g} logits" for place in far.tolist()],
            )
            report.rows += len(places)
            if params.rule is not None:
                report.undecided += int(np.sum(~params.rule.settled(there.outputs, tolerance)))


def _apart(ours: Stage1Outputs, theirs: Stage1Outputs) -> np.ndarray:
    """Largest difference of any output of each row, infinite where the heads are others, `(N,)`."""
    if ours.heads.keys() != theirs.heads.keys():
        return np.full(len(ours), np.inf)
    parts = [np.abs(ours.logits - theirs.logits).max(axis=1), np.abs(ours.select_score - theirs.select_score)]
    parts += [np.abs(ours.heads[name] - theirs.heads[name]).max(axis=1) for name in ours.heads]
    apart: np.ndarray = np.max(parts, axis=0)
    return apart
