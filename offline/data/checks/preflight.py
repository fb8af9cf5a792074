"""What is wrong with the images of a data directory, found before hours of training and not after.

The policy:

- A label that is not 0 or 1, a row that is listed twice, a class without rows: stop (`read_dataset`).
- An image that is listed and not there, or that cannot be read: the row is left out, counted and named, up to one row
  in a hundred. More: stop, for the disk with the images is not there.
- An image that cannot be decoded, or has fewer pixels than a picture can have: the row is left out and counted.
- One file under two labels: all its rows are left out and counted, because which label is right cannot be known.
- More rows left out than `most_left_out`, or a class without a row left: stop.
- One file under several names, with one label: kept and counted. The split joins what looks the same into one group,
  so no two sets share it. Which copy came first is not known, and leaving out the one that an earlier night placed
  would let the other one go to another set.
- More copies than `most_copies`: stop, for the export of the data went wrong.
- A set of the split without both classes: stop (`split`).

Rows are compared by the bytes of their files; pictures that only look the same are the business of the split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict

from engines.machine.cores import usable_cores
from offline.data.checks.file_looks import KnownLooks, Look
from offline.data.dataset import Dataset
from offline.data.inventory import Inventory
from offline.data.settings import PreflightSettings
from offline.data.sources.labels_csv import LABELS_FILE
from offline.data.sources.missing_images import missing_words, too_many_missing
from offline.errors import DatasetError
from stage1.artifacts import Artifact
from stage1.preprocess import PreprocessSettings

PREFLIGHT = "preflight.json"
EXAMPLES = 5
LOOKED_AT_TOGETHER = 1000

Kind = Literal["missing", "unreadable", "too small", "two labels", "copies"]


class PreflightFinding(BaseModel):
    """One thing that is wrong with some rows.

    Attributes:
        kind: what is wrong.
        policy: what was done with the rows.
        rows: how many they are.
        share: of all rows.
        examples: the first few, each with what is wrong with it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    policy: Literal["left out", "kept"]
    rows: int
    share: float
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}: {self.rows} rows ({self.share:.1%}), {self.policy}, for example {self.examples[0]}"


class PreflightReport(Artifact):
    """`preflight.json`.

    Attributes:
        rows: rows that were looked at.
        left_out: ids of those that are used for nothing.
        findings: what is wrong; empty if nothing is.
        inventory: which columns there are, and what each is used for; None where it was not asked for.
    """

    SCHEMA_VERSION: ClassVar[int] = 2
    schema_version: int = 2

    rows: int
    left_out: tuple[str, ...]
    findings: tuple[PreflightFinding, ...]
    inventory: Inventory | None = None


def run_preflight(
    data: Dataset,
    preprocessing: PreprocessSettings,
    settings: PreflightSettings,
    progress: Callable[[int, int, str], None] = lambda *_: None,
    *,
    cache: Path | None = None,
) -> tuple[Dataset, PreflightReport]:
    """Decode every image once, as training will, and leave out what cannot be used.

    A file that was decoded on another night, by its content, is not decoded again.

    Args:
        data: the rows.
        preprocessing: how training and serving decode.
        settings: what is too small, and how much is too much.
        progress: called with files looked at, files in all, and a note.
        cache: file that remembers what was decoded; None for none.

    Returns:
        The rows that can be used, and the report.

    Raises:
        DatasetError: too much is wrong; the message says what, how much of it, and names examples.
    """
    looks: dict[str, Look] = {}
    known = KnownLooks(cache, preprocessing)
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(data), LOOKED_AT_TOGETHER):
            ids = data.ids[start : start + LOOKED_AT_TOGETHER]
            found = pool.map(lambda row: known.look(data, row), ids)
            looks |= zip(ids, found, strict=True)
            progress(len(looks), len(data), "check images")
    known.keep(looks.values())
    report = judge(data, looks, settings)
    check(data, report, settings)
    bad = set(report.left_out)
    return data.only([row for row in data.rows if row.image not in bad]), report


def judge(data: Dataset, looks: Mapping[str, Look], settings: PreflightSettings) -> PreflightReport:
    """Say what is wrong with which rows.

    Args:
        data: the rows.
        looks: what each row's file is, by row id.
        settings: what is too small.
    """
    found: dict[Kind, dict[str, str]] = {kind: {} for kind in get_args(Kind)}
    found["missing"] |= dict.fromkeys(data.missing, "it is not there")
    by_file: dict[str, list[tuple[str, int]]] = {}
    for row in data.rows:
        look = looks[row.image]
        if look.missing is not None:
            found["missing"][row.image] = look.missing
        elif look.problem is not None:
            found["unreadable"][row.image] = look.problem
        elif look.side_px < settings.smallest_side_px:
            found["too small"][row.image] = f"its shorter side has {look.side_px} pixels"
        else:
            by_file.setdefault(look.sha256, []).append((row.image, row.label))
    for same in by_file.values():
        (first, label), *others = same
        if any(other != label for _, other in others):
            found["two labels"] |= {row: f"labelled {own}, and the same file otherwise" for row, own in same}
        else:
            found["copies"] |= {row: f"the same file as {first!r}" for row, _ in others}
    listed = len(data) + len(data.missing)
    findings = [_finding(kind, rows, listed) for kind, rows in found.items() if rows]
    left_out = sorted(row for kind, rows in found.items() if kind != "copies" for row in rows)
    return PreflightReport(rows=listed, left_out=tuple(left_out), findings=tuple(findings))


def _finding(kind: Kind, rows: Mapping[str, str], total: int) -> PreflightFinding:
    examples = tuple(f"{row!r}: {why}" for row, why in list(rows.items())[:EXAMPLES])
    policy: Literal["left out", "kept"] = "kept" if kind == "copies" else "left out"
    return PreflightFinding(kind=kind, policy=policy, rows=len(rows), share=len(rows) / total, examples=examples)


def check(data: Dataset, report: PreflightReport, settings: PreflightSettings) -> None:
    """Stop if too much is wrong.

    Raises:
        DatasetError: too many rows are left out or copies, or a class has no row left.
    """
    where = data.root / LABELS_FILE
    told = "; ".join(str(finding) for finding in report.findings)
    missing = sum(finding.rows for finding in report.findings if finding.kind == "missing")
    if too_many_missing(missing, report.rows):
        raise DatasetError(f"{where}: {missing_words(missing, report.rows)} {told}")
    share = len(report.left_out) / max(1, report.rows)
    if share > settings.most_left_out:
        raise DatasetError(
            f"{where}: {share:.1%} of the rows cannot be used, more than preflight.most_left_out allows "
            f"({settings.most_left_out:.1%}); mend the data or allow more: {told}"
        )
    copies = sum(finding.share for finding in report.findings if finding.kind == "copies")
    if copies > settings.most_copies:
        raise DatasetError(
            f"{where}: {copies:.1%} of the rows are copies of others, more than preflight.most_copies allows "
            f"({settings.most_copies:.1%}); list each picture once or allow more: {told}"
        )
    _check_classes(where.as_posix(), data, report.left_out, told)


def _check_classes(where: str, data: Dataset, left_out: Sequence[str], told: str) -> None:
    bad = set(left_out)
    left = Counter(row.label for row in data.rows if row.image not in bad)
    for label in (0, 1):
        if not left[label]:
            raise DatasetError(f"{where}: no row with label {label} can be used; both classes are needed: {told}")
