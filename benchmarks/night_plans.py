"""Whether `cascade retrain --dry-run` names what then runs, on whole nights: each touch on a copy of a finished one.

    python -m benchmarks.night_plans HOME
    python -m benchmarks.night_plans HOME --only calibrate

Every stage is the product's own, on synthetic scenes and a small random backbone. For each touch it prints what was
planned and what ran, and ends with status 1 if a stage ran that was not named, or was named for a change of its own and
did not run. A stage that only follows from another one is spared if that one writes the very same again.
`tests/offline/pipeline/test_plan.py` asks the same of many more touches, with stand-ins for what trains.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline.config import RunConfig, load_config
from offline.data.sources.synthetic_streets import write_scenes
from offline.night import plan_night, run_night
from offline.pipeline.plan import Planned
from offline.pipeline.progress import Silence
from offline.splits.settings import Split
from offline.splits.splits_file import Splits

SCENES = 120
QUICK: Mapping[str, Any] = {
    "preprocess.size_px": 64,
    "model.backbone.layers": 2,
    "train_supervised.epochs": 1,
    "train_conformal_risk.enabled": True,
    "train_conformal_risk.steps": 5,
    "compare_training.baseline": False,
    "compare_training.repetitions": 5,
    "splits.hash_distance": None,
    # After one epoch it says nothing.
    "gate.least_mcc": -1,
}


class Ran(Silence):
    """Remembers which stages ran."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def stage(self, name: str, state: str) -> None:
        """See `offline.pipeline.progress.Progress.stage`."""
        if state == "running":
            self.names.append(name)


@dataclass(frozen=True)
class Touch:
    """Something that is changed.

    Attributes:
        name: what it is called.
        settings: values of the config.
        data: changes the data directory.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Callable[[Path, Splits], None] = lambda _data, _splits: None


def cell(where: Split, column: str, change: Callable[[str], str]) -> Callable[[Path, Splits], None]:
    """Changes one cell of the first row of a set."""

    def edit(data: Path, splits: Splits) -> None:
        path, row = data / "labels.csv", splits.sets[where].ids[0]
        with path.open() as handle:
            rows = list(csv.DictReader(handle))
        for one in rows:
            if one["image"] == row:
                one[column] = change(one[column])
        with path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    return edit


def other_label(label: str) -> str:
    """The other class."""
    return str(1 - int(label))


TOUCHES = (
    Touch("nothing"),
    Touch("gate.keep", {"gate.keep": 3}),
    Touch("model_card.name", {"model_card.name": "mine"}),
    Touch("preflight.most_left_out", {"preflight.most_left_out": 0.2}),
    Touch("splits.seed", {"splits.seed": 4}),
    Touch("eval_selective.cell_rows", {"eval_selective.cell_rows": 3}),
    Touch("compare_training.repetitions", {"compare_training.repetitions": 7}),
    Touch("calibrate_scrc.delta", {"calibrate_scrc.delta": 0.2}),
    Touch("compile.refittable", {"compile.refittable": True}),
    Touch("learn.folds", {"learn.folds": 3}),
    Touch("adapt_domain.epochs, switched off", {"adapt_domain.epochs": 3}),
    Touch("a label of test", data=cell("test", "label", other_label)),
    Touch("a label of val_calib", data=cell("val_calib", "label", other_label)),
    Touch("the weather of a row of train", data=cell("train", "weather", lambda _: "hail")),
    Touch("the weather of a row of test", data=cell("test", "weather", lambda _: "hail")),
    Touch("train_conformal_risk.steps", {"train_conformal_risk.steps": 6}),
    Touch("train_supervised.learning_rate", {"train_supervised.learning_rate": 0.002}),
    Touch("a label of train", data=cell("train", "label", other_label)),
)


def night(home: Path, touch: Touch) -> tuple[list[Planned], list[str], float]:
    """Plan a night and run it; the stages that were planned, those that ran, and how long the plan took, s."""
    config: RunConfig = load_config("tiny", None, {**QUICK, **touch.settings})
    started = time.perf_counter()
    planned = plan_night(home / "data", workspace=home / "w", store=home / "s", config=config)
    took, ran = time.perf_counter() - started, Ran()
    run_night(home / "data", workspace=home / "w", store=home / "s", config=config, progress=ran)
    return [one for one in planned if one.runs], ran.names, took


def main() -> int:
    """Run the touches; 1 if a plan was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--only", default="", help="only touches whose name has this in it")
    asked = parser.parse_args()
    first = asked.home / "first"
    if not (first / "data").exists():
        list(write_scenes(first / "data", scenes=SCENES))
    config = load_config("tiny", None, QUICK)
    run = run_night(first / "data", workspace=first / "w", store=first / "s", config=config).run
    splits, wrong = Splits.read(run / "splits.json"), 0
    for touch in TOUCHES:
        if asked.only not in touch.name:
            continue
        home = asked.home / "touched"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(first, home, copy_function=shutil.copy2)
        touch.data(home / "data", splits)
        planned, ran, took = night(home, touch)
        named, certain = {one.stage for one in planned}, {one.stage for one in planned if not one.follows}
        right = certain <= set(ran) <= named
        wrong += not right
        spared = ", ".join(one.stage for one in planned if one.stage not in ran)
        verdict = "same" if not spared else f"same but for {spared}, which followed and were spared"
        print(f"{verdict if right else 'WRONG'} | {touch.name} | {', '.join(ran)} | plan {took:.1f} s", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
