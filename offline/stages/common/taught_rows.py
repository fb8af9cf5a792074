"""The rows that train, with what a teacher says of them and of pictures without labels; needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

from engines.store.file_names import ENGINE, SPLITS
from offline.data.checks.fingerprints import FINGERPRINTS, fingerprint, known_files
from offline.data.dataset import Dataset, Row
from offline.data.known_rows import KnownRows, NotedRow
from offline.data.pictures.pixel_store import with_contents
from offline.data.sources.unlabelled import hashes_of, look_alike, pictures_in
from offline.errors import DatasetError, TrainingError
from offline.learning.adapter_file import AdapterDescription
from offline.learning.distillation.soft_labels import SoftLabels
from offline.learning.distillation.teacher import answers_of, models_of
from offline.learning.distillation.verdicts import verdicts_of
from offline.pipeline.run_files import ADAPTER_DESCRIPTION
from offline.splits.settings import EXAMS
from offline.splits.splits_file import Splits
from offline.stages.common.inputs import JUDGING, rows_of, splits_of
from stage1.artifacts import sha256_file
from stage1.errors import ArtifactError, ImageError

if TYPE_CHECKING:
    from offline.stages.common.context import Context

# A model was fitted on the labels of these sets, or chosen by them.
LEARNED_FROM = ("train", "val_select")
UNLABELLED = "unlabelled"


class TeacherRecord(BaseModel):
    """Who taught a training, and what.

    Attributes:
        teacher: path of the setting.
        sha256: of each graph, or of the table.
        taught: rows that train and that it said something of.
        unlabelled: pictures without labels that trained by its word alone.
        left_out: pictures that are or look like a row that judges, cannot be decoded, or are there twice.
        weight: of the teacher in the loss.
        temperature: of both in the loss.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str
    sha256: tuple[str, ...]
    taught: int
    unlabelled: int
    left_out: int
    weight: float
    temperature: float


@dataclass(frozen=True)
class Taught:
    """What supervised training trains on.

    Attributes:
        rows: the rows that train, then pictures without labels; the label of those is what the teacher finds likelier.
        soft: what the teacher says of them; None without one.
        unlabelled: the pictures without labels, noted by their content.
        learned: the rows that the teacher has learned from, as far as it says so.
        record: who taught; None without a teacher.
    """

    rows: Dataset
    soft: SoftLabels | None = None
    unlabelled: frozenset[NotedRow] = frozenset()
    learned: frozenset[NotedRow] = frozenset()
    record: TeacherRecord | None = None


def taught_rows(context: Context, train: Dataset) -> Taught:
    """Ask the teacher of the config about the rows that train and about pictures without labels, if there is one.

    A picture that is a row of val_select, val_calib or test, or looks like one, is never asked about.

    Args:
        context: of the stage.
        train: the rows that train, as they are.

    Raises:
        TrainingError: there is no such teacher, or it has learned from rows that certify or report here.
        DatasetError: a table of verdicts is wrong, or a directory of pictures is not there.
    """
    settings = context.config.learn
    if settings.teacher is None:
        return Taught(train)
    learned = frozenset[NotedRow]()
    if settings.teacher.is_dir():
        models = models_of(settings.teacher)
        learned = learned.union(*(check_rows(context, model) for model in models))
        paths = [path for directory in settings.teacher_images for path in pictures_in(directory)]
        pictures = _pictures(context, paths)
        rows = _with(train, pictures)
        probability = answers_of(models, rows, context.progress.step)
        hashes = tuple(sha256_file(model / ENGINE) for model in models)
    else:
        said = {verdict.path: verdict.probability for verdict in verdicts_of(settings.teacher)}
        paths, contents = list(said), splits_of(context).contents
        by_content = {sha256_file(path): path for path in paths}
        pictures = _pictures(context, paths)
        rows = _with(train, pictures)
        own = [said[by_content[c]] if (c := contents.get(row)) in by_content else np.nan for row in train.ids]
        probability = np.array([*own, *(said[path] for path in pictures.values())])
        hashes = (sha256_file(settings.teacher),)
    # The label of a picture without one is a place holder: what trains by it is only the teacher.
    likelier = [row.model_copy(update={"label": int(p >= 0.5)}) for row, p in zip(rows.rows, probability, strict=True)]
    rows = replace(rows, rows=(*train.rows, *likelier[len(train) :]))
    taught = int(np.sum(~np.isnan(probability[: len(train)])))
    return Taught(
        rows,
        SoftLabels(
            probability, np.arange(len(rows)) < len(train), settings.teacher_temperature, settings.teacher_weight
        ),
        frozenset(NotedRow(row=row, sha256=row.removeprefix(f"{UNLABELLED}/")) for row in pictures),
        learned,
        TeacherRecord(
            teacher=str(settings.teacher),
            sha256=hashes,
            taught=taught,
            unlabelled=len(pictures),
            left_out=len(paths) - len(pictures) - (0 if settings.teacher.is_dir() else taught),
            weight=settings.teacher_weight,
            temperature=settings.teacher_temperature,
        ),
    )


def check_rows(context: Context, model: Path) -> list[NotedRow]:
    """Refuse a teacher that has learned from rows that certify or report here.

    What it says of other rows depends on the labels of those, and so would the model.

    Args:
        context: of the stage.
        model: directory of the teacher.

    Returns:
        What it has learned from: by its splits, and by the description of its adapter where it is a run.

    Raises:
        TrainingError: it has, or does not say what it has learned from.
    """
    before: tuple[NotedRow, ...] = ()
    try:
        splits = Splits.read(model / SPLITS)
        if (model / ADAPTER_DESCRIPTION).exists():
            adapter = AdapterDescription.read(model / ADAPTER_DESCRIPTION)
            before = (*adapter.rows, *adapter.chose)
    except ArtifactError as error:
        raise TrainingError(f"{model}: this teacher does not say what it was trained on: {error}") from error
    own = [row for name, found in splits.sets.items() if name in LEARNED_FROM for row in found.rows]
    noted = [*(NotedRow(row=row.row, sha256=row.sha256) for row in own), *before]
    known = KnownRows(frozenset(context.data.ids), splits_of(context).contents)
    seen = known.among(noted, [row for name in EXAMS for row in rows_of(context, name).ids])
    if seen:
        raise TrainingError(
            f"{model}: this teacher has learned from {len(seen)} rows that certify or report here, for example "
            f"{seen[0]!r}, so no certificate would be true; take a teacher that was split as this workspace is"
        )
    return noted


def _pictures(context: Context, paths: Sequence[Path]) -> dict[str, Path]:
    """Those that are no row and look like none that judges, by an id of their content."""
    rows = set(splits_of(context).contents.values())
    records = known_files(context.workspace / FINGERPRINTS).values()
    known = {record.fingerprint.sha256: record.fingerprint for record in records}
    found: dict[str, Path] = {}
    hashes: list[str | None] = []
    for path in paths:
        content = sha256_file(path)
        name = f"{UNLABELLED}/{content}"
        if content in rows or name in found:
            continue
        try:
            hashes.append(fingerprint(path, known).phash)
        except (OSError, ImageError, DatasetError):
            continue
        found[name] = path.resolve()
    if not found:
        return {}
    judged = context.data.only([row for name in JUDGING for row in rows_of(context, name).rows])
    distance = context.config.splits.copies_distance
    alike = look_alike(hashes, hashes_of(judged, context.workspace / FINGERPRINTS), distance)
    return {name: path for (name, path), near in zip(found.items(), alike.tolist(), strict=True) if not near}


def _with(train: Dataset, pictures: Mapping[str, Path]) -> Dataset:
    more = tuple(Row(image=name, label=0, group=name, train_only=True) for name in pictures)
    paths = {**train.paths, **{name: str(path) for name, path in pictures.items()}}
    both = replace(train, rows=(*train.rows, *more), paths=paths)
    return with_contents(both, {name: name.removeprefix(f"{UNLABELLED}/") for name in pictures})
