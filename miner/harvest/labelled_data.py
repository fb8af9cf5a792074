"""Labelled images of the harvest as a data directory of a night, with what each may be used for."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from miner.harvest.kept_image import Destination, KeptImage, broken_weeks, destination, whole_weeks
from miner.harvest.store import HarvestStore
from stage1.artifacts import write_atomic
from stage1.monitor.audit import ExitLabel

FOLDERS: Mapping[Destination, str] = {"any set": "random", "train": "picked"}
SOURCES = """# Written by `cascade harvest import`, anew each time.
# What was picked by a score or a disagreement is not exchangeable with the stream: it may only train.
[[source]]
kind = "folder"
name = "harvest-random"
path = "random"

[[source]]
kind = "folder"
name = "harvest-picked"
path = "picked"
train_only = true
"""


def write_data(store: HarvestStore, labels: Mapping[str, ExitLabel], to: Path, today: date) -> Counter[Destination]:
    """Write `random/` and `picked/`, each with `labels.csv`, and `sources.toml`, which declares them.

    Args:
        store: where the pictures are.
        labels: by hash.
        to: directory, created if it is not there.
        today: UTC.

    Returns:
        How many labels go where; those of a random draw that is not labelled whole wait.
    """
    images = list(store.images.values())
    whole, broken = whole_weeks(images, labels, today), broken_weeks(images, labels)
    going: dict[Destination, list[KeptImage]] = {"any set": [], "train": [], "later": []}
    for image in images:
        if image.sha256 in labels and not image.gone:
            going[destination(image, whole, broken)].append(image)
    for where, folder in FOLDERS.items():
        _write(store, going[where], labels, to / folder)
    write_atomic(to / "sources.toml", SOURCES.encode())
    return Counter({where: len(found) for where, found in going.items()})


def _write(store: HarvestStore, images: list[KeptImage], labels: Mapping[str, ExitLabel], home: Path) -> None:
    (home / "images").mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "label", "group", "captured_at"))
    for image in images:
        source = store.path(image)
        target = home / "images" / source.name
        if not target.exists():
            write_atomic(target, source.read_bytes())
        # Pictures of one place depend on each other.
        writer.writerow((f"images/{source.name}", labels[image.sha256], f"site-{image.site}", image.at.isoformat()))
    write_atomic(home / "labels.csv", text.getvalue().encode())
