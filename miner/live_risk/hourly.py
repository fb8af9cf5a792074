"""`metrics_live.csv`: one row an hour of what was answered and what audits tell. Readable by pandas.

    pandas.read_csv("metrics_live.csv", parse_dates=["hour"])

A row is written when its hour is over, and when the miner stops. An hour in which it was restarted, or another bundle
went live, has several rows, whose counts add up. The file is begun anew at 4 MiB, about three years, and the one before
is kept.
"""

from __future__ import annotations

import csv
import io
import threading
from array import array
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from miner.answering.record import RequestRecord
from stage1.artifacts import append_bytes, write_atomic
from stage1.decisions import Action
from stage2_bridge.client import Outcome

FILE, MOST_BYTES = "metrics_live.csv", 4 * 2**20
MOST_SCORES = 5_000
QUANTILES = (0.1, 0.5, 0.9)
COUNTS = (
    "requests", "answered", "not_an_image", "stage1_failed", "stage1_late", "abandoned", "exited_0", "exited_1",
    "deferred", "ambiguous", "stage2_answered", "stage2_disagreed", "audits_drawn", "audits_counted",
)  # fmt: skip
READINGS = (
    "losses", "trials", "estimate", "lower", "upper", "e_value", "change", "drift", "theta", "level", "waiting",
)  # fmt: skip
COLUMNS = ("hour", "bundle", *COUNTS, "score_p10", "score_p50", "score_p90", *READINGS)
HOUR, LATE = timedelta(hours=1), timedelta(minutes=1)
Value = str | int | float | None


class HourCounts:
    """Counts of one hour and one bundle. Scores of at most 5,000 images make the quantiles, each image as likely.

    Reference:
        Vitter (1985), Random sampling with a reservoir, ACM Transactions on Mathematical Software 11(1), algorithm R.
    """

    def __init__(self, hour: datetime, bundle: str) -> None:
        self.hour = hour
        self.bundle = bundle
        self.counts: Counter[str] = Counter()
        self._scores = array("f")
        self._scored = 0
        self._rng = np.random.default_rng(0)

    def add(self, record: RequestRecord) -> None:
        """Count an answer."""
        counts = self.counts
        counts["requests"] += 1
        counts[record.result] += 1
        if record.action is Action.DEFER:
            counts["deferred"] += 1
            counts["ambiguous"] += bool(record.review)
        elif record.prediction_set is not None:
            counts[f"exited_{record.prediction_set[0]}"] += 1
        if record.stage2 is Outcome.ANSWERED and record.stage2_probability is not None:
            counts["stage2_answered"] += 1
            counts["stage2_disagreed"] += int(record.stage2_probability > 0.5) != record.likelier_label
        if record.roadwork_score is not None:
            self._keep(record.roadwork_score)

    def _keep(self, score: float) -> None:
        self._scored += 1
        if len(self._scores) < MOST_SCORES:
            self._scores.append(score)
        elif (place := int(self._rng.integers(self._scored))) < MOST_SCORES:
            self._scores[place] = score

    def row(self, readings: Mapping[str, Value]) -> dict[str, Value]:
        """The row of the file."""
        quantiles = np.quantile(np.asarray(self._scores), QUANTILES).tolist() if self._scores else [None] * 3
        names = ("score_p10", "score_p50", "score_p90")
        scores = {
            name: None if value is None else round(value, 4) for name, value in zip(names, quantiles, strict=True)
        }
        counts: dict[str, Value] = {name: self.counts[name] for name in COUNTS}
        hour = self.hour.isoformat(timespec="seconds")
        return {"hour": hour, "bundle": self.bundle, **counts, **scores, **readings}


class OpenHours:
    """Counts of the hours that are not written yet, of each bundle; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[datetime, str], HourCounts] = {}

    def add(self, record: RequestRecord) -> None:
        """Count an answer, in the hour in which its request came."""
        hour = record.at.replace(minute=0, second=0, microsecond=0)
        with self._lock:
            self._of(hour, record.bundle).add(record)

    def count(self, name: str, number: int, now: datetime, bundle: str) -> None:
        """Count something else."""
        hour = now.replace(minute=0, second=0, microsecond=0)
        with self._lock:
            self._of(hour, bundle).counts[name] += number

    def over(self, now: datetime | None) -> list[HourCounts]:
        """Take out the hours that are over by now, with a minute for answers that are late; all of them without it."""
        with self._lock:
            done = [key for key in self._open if now is None or now - key[0] >= HOUR + LATE]
            return [self._open.pop(key) for key in sorted(done)]

    def _of(self, hour: datetime, bundle: str) -> HourCounts:
        # Not `setdefault`: to seed a generator costs what all else does here.
        if (known := self._open.get((hour, bundle))) is None:
            known = self._open[hour, bundle] = HourCounts(hour, bundle)
        return known


class HourlyFile:
    """Appends rows.

    Args:
        path: the file.
        most_bytes: after which it is begun anew.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self.path = path
        self._most_bytes = most_bytes

    def append(self, row: Mapping[str, Value]) -> None:
        """Write one row and flush it."""
        header = ",".join(COLUMNS) + "\n"
        if self.path.exists():
            with self.path.open(encoding="utf-8") as file:
                fits = file.readline() == header and self.path.stat().st_size < self._most_bytes
            if not fits:
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        if not self.path.exists():
            write_atomic(self.path, header.encode())
        text = io.StringIO()
        csv.DictWriter(text, COLUMNS, lineterminator="\n").writerow(row)
        append_bytes(self.path, text.getvalue().encode())


def read_rows(path: Path) -> list[dict[str, str]]:
    """All rows of the file and the one before it, the oldest first."""
    found: list[dict[str, str]] = []
    for one in (path.with_name(f"{path.name}.1"), path):
        if one.exists():
            with one.open(encoding="utf-8", newline="") as file:
                # A row that a crash cut short has fewer columns.
                found += [row for row in csv.DictReader(file) if None not in row.values()]
    return found
