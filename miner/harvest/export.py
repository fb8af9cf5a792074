"""Writes pictures and the file that a labelling tool reads.

Sources:
    FiftyOne: "FiftyOneImageClassificationDataset", `data/` and `labels.json` with `classes` and `labels`.
    Label Studio: "Import JSON-formatted tasks"; "Local storage", whose document root is the directory.
    CVAT: "CVAT for images 1.1", `annotations.xml` with a `tag` of each image.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from PIL import Image

from miner.harvest.kept_image import KeptImage
from miner.harvest.label_tools import CLASSES, FILES, LABELLING_CONFIG, LABELLING_FILE, PICTURES, Tool
from miner.harvest.store import HarvestStore
from stage1.artifacts import write_atomic
from stage1.errors import SettingsError


def write_for(tool: Tool, store: HarvestStore, images: Sequence[KeptImage], to: Path) -> int:
    """Write pictures, and then the file that a tool reads.

    Args:
        tool: the tool.
        store: where the pictures are.
        images: in the order in which they are to be labelled.
        to: directory, created if it is not there.

    Returns:
        How many pictures were written; those that are gone are left out.

    Raises:
        SettingsError: there is a file of that name already, in which somebody may have written labels.
        OSError: it cannot be written; then the file of the tool is not there.
    """
    if (to / FILES[tool]).exists():
        raise SettingsError(
            f"{to / FILES[tool]}: is there already, perhaps with labels in it; give another directory, or remove it"
        )
    folder = to / PICTURES[tool]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for image in images:
        path = store.path(image)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            # The miner made room meanwhile.
            continue
        write_atomic(folder / path.name, content)
        written.append((image, path.name))
    if tool == "labelstudio":
        write_atomic(to / LABELLING_FILE, LABELLING_CONFIG.encode())
    write_atomic(to / FILES[tool], _content(tool, written, folder).encode())
    return len(written)


def _content(tool: Tool, images: Sequence[tuple[KeptImage, str]], home: Path) -> str:
    if tool == "fiftyone":
        labels = {Path(name).stem: None for _, name in images}
        return json.dumps({"classes": list(CLASSES), "labels": labels}, indent=1)
    if tool == "labelstudio":
        return json.dumps([_task(image, name) for image, name in images], indent=1)
    if tool == "cvat":
        return _cvat([(name, size_of(home / name)) for _, name in images])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "label", "reasons", "probability"))
    writer.writerows((f"images/{name}", "", " ".join(one.reasons), f"{one.probability:.4f}") for one, name in images)
    return text.getvalue()


def _cvat(images: Sequence[tuple[str, tuple[int, int]]]) -> str:
    """Names and sizes of pictures, in the layout of a task with the two labels."""
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    task = ET.SubElement(ET.SubElement(root, "meta"), "task")
    ET.SubElement(task, "size").text = str(len(images))
    labels = ET.SubElement(task, "labels")
    for name in CLASSES:
        label = ET.SubElement(labels, "label")
        ET.SubElement(label, "name").text = name
        ET.SubElement(label, "attributes")
    for number, (name, (width, height)) in enumerate(images):
        ET.SubElement(root, "image", id=str(number), name=name, width=str(width), height=str(height))
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in px, from the head of the file; 0 where it is not that of a picture."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, ValueError):
        return 0, 0


def _task(image: KeptImage, name: str) -> dict[str, Any]:
    about = {"reasons": " ".join(image.reasons), "probability": round(image.probability, 4)}
    return {"data": {"image": f"/data/local-files/?d=images/{name}", **about}}
