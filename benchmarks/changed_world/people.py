"""People who label: they fill the files that the commands wrote, and give them back to the commands."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks.changed_world.scenes import World


def fill_audits(world: World, directory: Path) -> int:
    """Fill `audits.csv` of `cascade risk export --pictures`; how many rows it has."""
    path = directory / "audits.csv"
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns, rows = reader.fieldnames or (), list(reader)
    for row in rows:
        row["label"] = str(world.shows((directory / row["image"]).read_bytes()))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def annotate(world: World, directory: Path, to: Path) -> int:
    """Write what Label Studio exports of the tasks of `cascade harvest export --to labelstudio`; how many they are."""
    tasks = json.loads((directory / "tasks.json").read_bytes())
    to.write_text(json.dumps([_annotated(world, directory, number, one) for number, one in enumerate(tasks, 1)]))
    return len(tasks)


def _annotated(world: World, directory: Path, number: int, task: dict[str, Any]) -> dict[str, Any]:
    # Local storage serves `?d=` below the directory that it was given.
    picture = directory / task["data"]["image"].rpartition("?d=")[2]
    said = "roadwork" if world.truth[hashlib.sha256(picture.read_bytes()).hexdigest()] else "no roadwork"
    result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [said]}}
    annotation = {"id": number, "completed_by": 1, "was_cancelled": False, "result": [result]}
    return {"id": number, "data": task["data"], "annotations": [annotation], "predictions": []}
