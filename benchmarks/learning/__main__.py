"""Ways of training Stage-1 side by side, on photographs of cities and on drawn scenes, and what can be told apart.

    python -m benchmarks.learning --photographs DATA --backbone DINOV2 --hours 12
    python -m benchmarks.learning --photographs DATA --backbone DINOV2 --report
    python -m benchmarks.learning --photographs DATA --backbone DINOV2 --only pooling
    python -m benchmarks.learning --self-test

Every training (a row, a task, a fold, a seed) is a process of its own with one thread, and its result one JSON file
that is named after everything that decided it. A run that is stopped goes on where it was; after any time all rows have
about equally many trainings. Each is trained by the stages of a night. Nothing of the backbone is kept in the product.

What earlier sittings found is in benchmarks/results/learning.tar.xz. Unpacked, it is gone on from:

    mkdir -p .cache/learning/full/results && tar -xJf benchmarks/results/learning.tar.xz -C .cache/learning/full/results
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.learning.table.report import TaskResults, best_row, report
from benchmarks.learning.table.self_test import is_sound, self_test, self_test_text
from benchmarks.learning.units.place import FULL, QUICK, Place
from benchmarks.learning.units.plan import plan_text
from benchmarks.learning.units.results import UnitResult, outdated, read_results
from benchmarks.learning.units.unit import Unit
from benchmarks.learning.units.unit_queue import UnitQueue

RANDOM_BACKBONE = "The backbone is a random DINOv3, as no path was given: these numbers say nothing of pretrained ones."
DRAWS = 20


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, help="data directory with labels.csv; without, scenes alone")
    parser.add_argument("--backbone", type=Path, help="directory of a pretrained ViT; without, a random DINOv3")
    parser.add_argument("--hours", type=float, default=12.0, help="no training is started after so many")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time; two tasks can run beside each other")
    parser.add_argument("--only", choices=("photographs", "scenes", "pooling"), help="one task, or the frozen probe")
    parser.add_argument("--quick", action="store_true", help="sizes at which nothing is learned, to see that it runs")
    parser.add_argument("--plan", action="store_true", help="say how long everything takes, and start nothing")
    parser.add_argument("--report", action="store_true", help="print the table of what there is, and start nothing")
    parser.add_argument("--self-test", action="store_true", help="plant known differences and look for them")
    parser.add_argument("--out", type=Path, default=Path(".cache/learning"), help="where everything is kept")
    told = parser.parse_args()
    if told.only in {"photographs", "pooling"} and told.photographs is None:
        parser.error(f"--only {told.only} needs --photographs")
    if told.only == "pooling" and told.backbone is None:
        parser.error("--only pooling needs --backbone")
    return told


def main() -> None:
    told = _options()
    if told.self_test:
        found = self_test(DRAWS)
        print(self_test_text(found))
        raise SystemExit(0 if is_sound(found) else "what was planted was not seen, or what was not planted was")
    if told.only == "pooling":
        from benchmarks.learning.pooling.table import pooling_table

        print(pooling_table(told.photographs, told.backbone, told.out / "pooling"))
        return
    # Ends the trainings too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; start it again and it goes on"))
    home = (told.out / ("quick" if told.quick else "full")).resolve()
    place = Place(
        home=home,
        photographs=told.photographs and told.photographs.resolve(),
        backbone=told.backbone and told.backbone.resolve(),
        sizes=QUICK if told.quick else FULL,
        only=(told.only,) if told.only else (),
    )
    if told.plan:
        units = place.units()
        print(plan_text(place, units, read_results(home, place.keys(units)), told.hours, told.jobs))
        return
    if not told.report:
        end = time.monotonic() + told.hours * 3600
        UnitQueue(place, told.hours, told.jobs).run(place.units())
        # Which row that is, is known now.
        UnitQueue(place, (end - time.monotonic()) / 3600, told.jobs).run(place.units(_winners(place)))
    units = place.units(_winners(place))
    results = read_results(home, place.keys(units))
    print(_report(place, units, results))


def _winners(place: Place) -> dict[str, str]:
    """Row of each task that gets more seeds, once all rows have theirs."""
    units = place.units()
    results = read_results(place.home, place.keys(units))
    return {name: best for name, known in _by_task(place, units, results).items() if (best := best_row(known))}


def _by_task(place: Place, units: list[Unit], results: Mapping[str, UnitResult]) -> dict[str, TaskResults]:
    refusals = place.refusals()
    return {
        name: TaskResults(task.title, [unit for unit in units if unit.task == name], results, refusals)
        for name, task in place.tasks.items()
    }


def _report(place: Place, units: list[Unit], results: Mapping[str, UnitResult]) -> str:
    parts = [report(known) for known in _by_task(place, units, results).values()]
    if place.backbone is None:
        parts.insert(0, RANDOM_BACKBONE)
    if old := outdated(place.home, place.keys(units)):
        parts.append(f"{len(old)} results of other settings, data or code lie beside these and are not in the table.")
    text = "\n\n".join(parts)
    (place.home / "tables.md").write_text(text + "\n")
    return text


if __name__ == "__main__":
    main()
