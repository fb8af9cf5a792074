"""What a tracker is told of a night: its settings, the numbers of each epoch, the verdict."""

from __future__ import annotations

import csv
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from offline.pipeline.run_files import ADAPTATION, CONFORMAL_TRAINING, PUBLICATION, TRAINING_LOG
from offline.tracking.tracker import DEFAULT, Tracker, opener

log = structlog.get_logger(__name__)

# A night does not wait longer for it.
LONGEST_S = 30.0


@dataclass(frozen=True)
class Night:
    """A night that has ended.

    Attributes:
        run: directory of its files.
        config: as plain values.
    """

    run: Path
    config: Mapping[str, Any]


def track(asked: str, night: Night, workspace: Path, *, longest_s: float = LONGEST_S) -> bool:
    """Tell a tracker of a night; what goes wrong is a line in the log.

    Args:
        asked: see `opener`.
        night: what is told.
        workspace: where TensorBoard's files go.
        longest_s: seconds after which nobody waits for it any more.

    Returns:
        Whether it was told.

    Raises:
        SettingsError: there is no such tracker.
    """
    open_tracker = opener(asked, workspace, night.run.name)
    if open_tracker is None:
        return False
    failed: list[BaseException] = []

    def tell() -> None:
        try:
            _tell(open_tracker, night)
        except Exception as error:  # noqa: BLE001  any program may be behind it, and none of them ends a night
            failed.append(error)

    thread = threading.Thread(target=tell, name="tracker", daemon=True)
    thread.start()
    thread.join(longest_s)
    if thread.is_alive():
        log.warning("tracker_too_slow", tracker=asked, seconds=longest_s)
        return False
    if failed:
        missing = isinstance(failed[0], ImportError)
        # The default is no promise that it is installed.
        tell_of = log.info if missing and asked == DEFAULT else log.warning
        tell_of("tracker_not_told", tracker=asked, reason=str(failed[0]))
    return not failed


def _tell(open_tracker: Callable[[], Tracker], night: Night) -> None:
    tracker = open_tracker()
    try:
        tracker.settings(dict(_flat(night.config)))
        for step, values in epochs(night.run):
            tracker.scalars(step, values)
        for name, text in verdict(night.run).items():
            tracker.text(name, text)
    finally:
        tracker.close()


def epochs(run: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """The numbers of each epoch of the trainings, then what the night came to, by their names.

    Args:
        run: directory of the files of a night; a training that did not run has none.
    """
    for record in _json(run / ADAPTATION).get("epochs", ()):
        yield int(record["epoch"]), _finite("adapt_domain", record)
    if (run / TRAINING_LOG).exists():
        with (run / TRAINING_LOG).open(newline="", encoding="utf-8") as handle:
            for line in csv.DictReader(handle):
                numbers = {name: float(cell) for name, cell in line.items() if cell}
                yield int(numbers["epoch"]), _finite("train_supervised", numbers)
    for stage, name in (("train_conformal_risk", CONFORMAL_TRAINING), ("publish", PUBLICATION)):
        if found := _finite(stage, _json(run / name)):
            yield 0, found


def verdict(run: Path) -> dict[str, str]:
    """The verdict of the gate with its reasons; nothing of a night that ended before it."""
    found = _json(run / PUBLICATION)
    if not found:
        return {}
    return {"verdict": found["verdict"], "bundle": found["bundle"], "reasons": "; ".join(found.get("reasons", ()))}


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return found


def _finite(stage: str, record: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{stage}/{name}": float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if name not in {"epoch", "schema_version"}
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
