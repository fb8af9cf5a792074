"""A world that changes under a certificate, and the way back: alarm, labels, another night, calm.

    python -m benchmarks.changed_world
    python -m benchmarks.changed_world --scenes 1800 --keep /tmp/changed

A night is certified on streets by day, and `cascade mine` serves its bundle on an offline chain, with audits and the
harvest on and a Stage-2 that is right about most pictures. Callers send streets by day, and then at night under cold
lamps, in whose light colours fade. People label what the commands write for them: first the audits that Stage-2
contradicts, and when the week is over what was drawn at random. The next night trains and certifies on that as well,
and the miner swaps its bundle in. Everything is done with the commands and files that an operator has; the calendar of
all processes runs fast, so that weeks pass in minutes. Ends with status 1 if any step does not come about.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.changed_world.calendar import Calendar
from benchmarks.changed_world.people import annotate, fill_audits
from benchmarks.changed_world.scenes import DIFFICULTY, World, stage2
from benchmarks.serving.callers import body_of
from benchmarks.serving.client import Reply, open_loop
from benchmarks.serving.miner import UNLIMITED, Home, Miner, text_of, wait_until
from offline.publish.gate import published
from tests.support.stage2_servers import served

# A Monday. Ten minutes pass in a second, so that what a caller sends every two seconds is of another place.
BEGIN, SPEED = datetime(2026, 3, 2, 8, tzinfo=UTC), 600.0
CALLERS, PER_S, ROUND = 12, 6.0, 24
DAY, NIGHTS_MOST, AFTERWARDS = 120, 1600, 72
SENSITIVITY, SPECIFICITY = 0.95, 0.98
OK, EXIT = 200, "EXIT"
SWAP_S, LABELS_S, LEVEL_S = 240.0, 30.0, 0.5
NIGHT = {
    "preprocess.size_px": 112,
    "train_supervised.epochs": 10,
    "train_supervised.batch_size": 32,
    "train_supervised.learning_rate": 5e-3,
    "train_supervised.augmentation": "light",
    # Callers send the scenes as they were drawn.
    "calibrate_scrc.stream": "originals",
    "calibrate_scrc.alpha": 0.05,
    "compare_training.baseline": "false",
    "eval_selective.cell_rows": 0,
    # Scenes of one kind look too much alike for it.
    "splits.hash_distance": "null",
}
# The operator's own pictures, before what `cascade harvest import` declares.
OWN = """[[source]]
kind = "folder"
path = "."
"""


class StepMissing(SystemExit):
    """A step of the story did not come about."""


def demand(holds: bool, what: str) -> None:
    if not holds:
        raise StepMissing(f"did not come about: {what}")


@dataclass
class Story:
    """What happens, in order.

    Attributes:
        root: directory of everything.
        scenes: that the first night has.
        began: monotonic seconds.
    """

    root: Path
    scenes: int
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.world = World()
        self.calendar = Calendar(self.root / "calendar.json")
        self.calendar.set(BEGIN, 1.0)
        self.roads = self.root / "roads"
        self.home = Home.make(self.root / "home", [1e5] * CALLERS)
        self.asked = 0
        self.failed: Counter[int] = Counter()

    def say(self, text: str) -> None:
        at = self.calendar.now()
        print(f"{time.monotonic() - self.began:5.0f} s | {at:%a %d %b %H:%M} | {text}", flush=True)

    def cascade(self, *arguments: object) -> str:
        """Run a command in this calendar; what it printed.

        Raises:
            StepMissing: it failed.
        """
        program = [sys.executable, "-m", "benchmarks.changed_world.calendar", str(self.calendar.path)]
        run = subprocess.run([*program, *map(str, arguments)], capture_output=True, text=True, check=False)
        if run.returncode:
            raise StepMissing(f"cascade {' '.join(map(str, arguments))} ended with {run.returncode}: {run.stderr}")
        return run.stdout.strip()

    def night(self) -> dict[str, Any]:
        """A night on the roads; what its certificate says."""
        changes = [flag for key, value in NIGHT.items() for flag in ("--set", f"{key}={value}")]
        store, workspace = self.home.path / "store", self.root / "workspace"
        began = time.monotonic()
        told = self.cascade(
            "retrain", "--preset", "tiny", "--data", self.roads, "--workspace", workspace, "--store", store,
            "--threads", 1, "--tracking", "off", *changes,
        )  # fmt: skip
        runs = sorted((workspace / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
        publication = published(runs[-1])
        params: dict[str, Any] = json.loads((runs[-1] / "scrc_params.json").read_bytes())
        self.say(f"night of {time.monotonic() - began:.0f} s: {publication.verdict} {publication.bundle}")
        for line in told.splitlines()[-10:]:
            print(f"        | {line}")
        demand(params["status"] == "CERTIFIED", f"a certificate: {params.get('reason')}")
        demand(publication.accepted, f"the bundle is taken: {'; '.join(publication.reasons)}")
        return {"bundle": publication.bundle, **params}

    def ask(self, miner: Miner, pictures: Sequence[bytes]) -> tuple[list[Reply], list[dict[str, Any]]]:
        """Ask about each, and what the journal says of them."""
        before, replies = len(journal(miner)), list[Reply]()
        callers = self.home.callers
        for start in range(0, len(pictures), ROUND):
            # Signed when they are sent: a miner takes no old ones.
            bodies = [body_of(text_of(one)) for one in pictures[start : start + ROUND]]
            requests = [callers[(self.asked + n) % len(callers)].request(body) for n, body in enumerate(bodies)]
            replies += asyncio.run(open_loop(miner.port, requests, PER_S))
            self.asked += len(bodies)
        self.failed.update(reply.status for reply in replies if reply.status != OK)
        with suppress(SystemExit):
            wait_until(lambda: len(journal(miner)) >= before + len(pictures), 10, "the journal is behind")
        return replies, journal(miner)[before:]


def journal(miner: Miner) -> list[dict[str, Any]]:
    path = miner.state / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def counted(world: World, pictures: Sequence[bytes], records: Sequence[dict[str, Any]]) -> str:
    """Exits and misses among answers."""
    shown = {hashlib.sha256(one).hexdigest(): world.shows(one) for one in pictures}
    exits = [one for one in records if one.get("action") == EXIT]
    as0 = [one for one in exits if one["prediction_set"] == [0]]
    misses = sum(shown.get(one["image_sha256"], 0) for one in as0)
    roadwork = sum(shown.get(one["image_sha256"], 0) for one in exits)
    return (
        f"{len(records)} answers, {len(exits)} exits, {len(as0)} of them as no roadwork; of {roadwork} exits of "
        f"roadwork {misses} are missed"
    )


class Watched:
    """What a running miner shows of the watch on its certificate."""

    def __init__(self, story: Story, miner: Miner) -> None:
        self.story, self.miner = story, miner
        self.flag = "--set", f"state={miner.state}"

    @property
    def standing(self) -> dict[str, Any]:
        """How the live certificate stands, of `live_risk.json`."""
        path = self.miner.state / "live_risk" / "live_risk.json"
        summary = json.loads(path.read_bytes())
        found: dict[str, Any] = summary["certificates"][summary["live"]]
        return found

    @property
    def levels(self) -> list[str]:
        """The levels that the log told of, in order."""
        return [event["risk_level"] for event in self.miner.events("live_risk")]

    def told(self) -> str:
        now = self.standing
        numbers = f"{now['losses']} losses of {now['trials']} trials, evidence {now['e_value']:.3g} of 100"
        return (
            f"{now['level']}: {numbers}, change {now['change']:.3g}, drift {now['drift']:.3g}, theta "
            f"{now['theta']:.2f}, t0 {now['t0_used']}, {now['waiting']} audits wait, {now['for_people']} for people"
        )

    def label(self, directory: Path) -> int:
        """People label the audits that wait for them; how many these were."""
        story = self.story
        story.cascade("risk", "export", directory / "hours.csv", "--pictures", directory, *self.flag)
        number = fill_audits(story.world, directory)
        if number:
            story.cascade("risk", "label", directory / "audits.csv", *self.flag)
            inbox = self.miner.state / "live_risk" / "inbox"
            wait_until(lambda: not any(inbox.glob("*.jsonl")), LABELS_S, "the miner did not take the labels")
        return number


def before_the_change(story: Story, watched: Watched) -> None:
    pictures = story.world.draw("day", DAY, seed=501)
    _, records = story.ask(watched.miner, pictures)
    story.say(f"by day: {counted(story.world, pictures, records)}")
    labelled = watched.label(story.root / "audits-day")
    story.say(f"{labelled} audits labelled; {watched.told()}")
    demand("alarm" not in watched.levels, "no alarm by day")


def until_alarm(story: Story, watched: Watched, night: list[bytes]) -> list[bytes]:
    """Send streets by night until it is an alarm; what is left of them."""
    sent = 0
    while watched.standing["level"] != "alarm":
        demand(len(night) - sent >= ROUND, "an alarm while it is night")
        part = night[sent : sent + ROUND]
        _, records = story.ask(watched.miner, part)
        sent += ROUND
        labelled = watched.label(story.root / f"audits-{sent}")
        # A level that has changed is written at once.
        time.sleep(LEVEL_S)
        story.say(f"by night: {counted(story.world, part, records)}; {labelled} audits labelled; {watched.told()}")
    story.say(f"the levels that the log told of: {' -> '.join(['ok', *watched.levels])}")
    demand("watch" in watched.levels[: watched.levels.index("alarm")], "a level of watch before the alarm")
    for line in watched.standing["sentence"].split(". "):
        print(f"        | {line}")
    print(f"        | {watched.standing['statement']}")
    return night[sent:]


def after_the_alarm(story: Story, watched: Watched, night: list[bytes]) -> None:
    _, records = story.ask(watched.miner, night)
    story.say(f"after the alarm: {counted(story.world, night, records)}")
    as0 = [one for one in records if one.get("action") == EXIT and one["prediction_set"] == [0]]
    demand(not as0 and not watched.standing["exits_as_0"], "nothing exits as no roadwork after the alarm")
    handed_on = sum(one.get("stage2") == "answered" for one in records)
    demand(handed_on > 0, "Stage-2 answers what no longer exits")
    story.say(f"Stage-2 answered {handed_on} of them")


def end_of_week(story: Story, watched: Watched) -> None:
    """The week ends, people label what was kept, and it becomes data."""
    now = story.calendar.now()
    story.calendar.set((now + timedelta(days=7 - now.weekday())).replace(hour=9, minute=0), 10.0)
    for line in story.cascade("harvest", "stats", *watched.flag).splitlines():
        story.say(f"kept: {line.strip()}")
    directory, filled = story.root / "to_label", story.root / "project-1.json"
    said = story.cascade("harvest", "export", directory, "--to", "labelstudio", *watched.flag)
    number = annotate(story.world, directory, filled)
    story.say(f"{said.splitlines()[0]}; {number} tasks labelled")
    said = story.cascade("harvest", "import", filled, "--data", story.roads / "harvest", *watched.flag)
    for line in said.splitlines():
        story.say(f"import: {line}")
    declared = (story.roads / "harvest" / "sources.toml").read_text()
    # Their paths, from the directory above.
    (story.roads / "sources.toml").write_text(OWN + declared.replace('path = "', 'path = "harvest/'))


def where_they_went(story: Story, run: Path) -> None:
    """Which sets the pictures of the harvest are in."""
    splits = json.loads((run / "splits.json").read_bytes())["sets"]
    for source in ("harvest-random", "harvest-picked"):
        found = {
            name: sum(row["row"].startswith(f"{source}/") for row in part["rows"]) for name, part in splits.items()
        }
        story.say(f"{source}: {', '.join(f'{count} in {name}' for name, count in found.items())}")
        if source == "harvest-random":
            demand(min(found["val_calib"], found["test"], found["val_select"]) > 0, "random draws certify and report")
        else:
            demand(sum(found.values()) == found["train"], "what was picked only trains")


def run(story: Story) -> None:
    labels = story.roads / "labels.csv"
    if not labels.exists():
        story.cascade("scenes", story.roads, "--count", story.scenes, "--difficulty", DIFFICULTY)
        keep_days(labels)
    story.say(f"the operator has {rows_of(labels)} pictures, all by day")
    first = story.night()
    print(f"        | {first['statement']}")
    night = story.world.draw("night", NIGHTS_MOST, seed=502)
    server = stage2(story.world, SENSITIVITY, SPECIFICITY)
    with served(server):
        settings = {
            **UNLIMITED,
            "engine.threads": 1,
            "stage2.servers": json.dumps(
                [{"kind": "kserve", "name": "experts", "url": server.url, "model": "roadwork"}]
            ),
            "live_risk.audits": "true",
            "live_risk.audits_per_hour": 100_000,
            "harvest.enabled": "true",
            "harvest.random_share": 0.8,
        }
        story.calendar.set(BEGIN, SPEED)
        program = sys.executable, "-m", "benchmarks.changed_world.calendar", str(story.calendar.path)
        with story.home.miner("one", settings, program=program) as miner:
            watched = Watched(story, miner)
            story.say(f"the miner serves {first['bundle']}")
            before_the_change(story, watched)
            left = until_alarm(story, watched, night)
            after_the_alarm(story, watched, left[: len(left) - AFTERWARDS])
            end_of_week(story, watched)
            second = story.night()
            print(f"        | {second['statement']}")
            where_they_went(story, story.root / "workspace" / "runs" / latest(story.root / "workspace" / "runs"))
            wait_until(lambda: watched.standing["bundle"] == second["bundle"], SWAP_S, "the next bundle was not live")
            story.calendar.set(story.calendar.now(), SPEED)
            afterwards(story, watched, second["bundle"], left[len(left) - AFTERWARDS :])
    story.say(f"{story.asked} requests, failed: {dict(story.failed) or 'none'}")
    demand(not story.failed, "every request is answered")


def afterwards(story: Story, watched: Watched, bundle: str, night: list[bytes]) -> None:
    """Under the next certificate, whose rows are by day and by night as what is sent is."""
    story.say(f"the miner serves {bundle}; {watched.told()}")
    calm = watched.standing
    demand((calm["level"], calm["theta"], calm["exits_as_0"]) == ("ok", 0, True), "the new stream begins anew")
    since = len(watched.levels)
    both = [*night, *story.world.draw("day", 2 * len(night), seed=503)]
    both = [both[place] for place in np.random.default_rng(0).permutation(len(both))]
    _, records = story.ask(watched.miner, both)
    labelled = watched.label(story.root / "audits-after")
    # A level that has changed is written at once.
    time.sleep(LEVEL_S)
    story.say(f"by day and by night: {counted(story.world, both, records)}; {labelled} audits labelled")
    story.say(watched.told())
    demand("alarm" not in watched.levels[since:], "no alarm under the new certificate")
    exits = [one for one in records if one.get("action") == EXIT]
    demand(any(one["prediction_set"] == [0] for one in exits), "pictures exit as no roadwork again")
    demand(watched.standing["bundle"] == bundle, "the next bundle stays")
    for line in story.cascade("risk", "show", *watched.flag).splitlines():
        print(f"        | {line}")


def latest(runs: Path) -> str:
    return max(runs.iterdir(), key=lambda path: path.stat().st_mtime).name


def rows_of(path: Path) -> int:
    with path.open(newline="", encoding="utf-8") as file:
        return sum(1 for _ in csv.DictReader(file))


def keep_days(path: Path) -> None:
    """Leave the rows of pictures by day in a labels file."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns, rows = reader.fieldnames or (), [row for row in reader if row["daytime"] == "day"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1800, help="that the first night has")
    parser.add_argument(
        "--keep", type=Path, help="work in this directory, and leave it; scenes that are there are taken"
    )
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="changed-world-") as scratch:
        root = options.keep or Path(scratch)
        root.mkdir(parents=True, exist_ok=True)
        run(Story(root.resolve(), options.scenes))


if __name__ == "__main__":
    main()
