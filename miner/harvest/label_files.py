"""Files that labelling tools read and write: FiftyOne, Label Studio, CVAT, and a plain list.

Sources:
    FiftyOne: "FiftyOneImageClassificationDataset", `data/` and `labels.json` with `classes` and `labels`.
    Label Studio: "Import JSON-formatted tasks", "Label Studio JSON format of annotated tasks".
    CVAT: "CVAT for images 1.1", `annotations.xml` with a `tag` of each image.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree as ET

from PIL import Image

from miner.harvest.kept_image import KeptImage
from miner.harvest.store import HarvestStore
from stage1.artifacts import write_atomic
from stage1.errors import SettingsError
from stage1.monitor.audit import ExitLabel

Tool = Literal["fiftyone", "labelstudio", "cvat", "folder"]
CLASSES = ("no roadwork", "roadwork")
FILES: Mapping[Tool, str] = {
    "fiftyone": "labels.json",
    "labelstudio": "tasks.json",
    "cvat": "annotations.xml",
    "folder": "labels.csv",
}
PICTURES: Mapping[Tool, str] = {"fiftyone": "data", "labelstudio": "images", "cvat": "images", "folder": "images"}
HASH = re.compile(r"([0-9a-f]{64})(\.\w+)?$")
LONGEST = 256 * 2**20


def write_for(tool: Tool, store: HarvestStore, images: Sequence[KeptImage], to: Path) -> int:
    """Write pictures and the file that a tool reads.

    Args:
        tool: the tool.
        store: where the pictures are.
        images: in the order in which they are to be labelled.
        to: directory, created if it is not there.

    Returns:
        How many pictures were written; those that are gone are left out.
    """
    folder = to / PICTURES[tool]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for image in images:
        path = store.path(image)
        if path.exists():
            write_atomic(folder / path.name, path.read_bytes())
            written.append((image, path.name))
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


def read_labels_of(path: Path) -> dict[str, ExitLabel]:
    """Labels by hash, of a file that one of the tools wrote.

    Raises:
        SettingsError: it cannot be read, or is of none of them; says what was found.
    """
    try:
        if not path.is_file() and path.exists():
            raise SettingsError(f"{path}: is not a file")
        if (size := path.stat().st_size) > LONGEST:
            raise SettingsError(f"{path}: has {size} bytes, the limit is {LONGEST}")
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        if path.suffix == ".xml":
            return _of_cvat(content, path)
        if path.suffix == ".json":
            return _of_json(json.loads(content), path)
        rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
        return _named({row.get("image") or "": row.get("label") or "" for row in rows}, path)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error, ET.ParseError) as error:
        raise SettingsError(f"{path}: not a file of FiftyOne, Label Studio or CVAT, nor a list: {error!r}") from error


def _of_cvat(content: bytes, path: Path) -> dict[str, ExitLabel]:
    if b"\0" in content:
        # Declarations would not be found in it.
        raise SettingsError(f"{path}: is not UTF-8, which an export of CVAT is")
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise SettingsError(f"{path}: declares entities, which an export of CVAT does not")
    found = {}
    # No entity can be declared in it, which is what makes XML dangerous.
    for image in ET.fromstring(content).iter("image"):  # noqa: S314
        tags = [tag.get("label", "") for tag in image.iter("tag")]
        found[image.get("name", "")] = tags[0] if len(set(tags)) == 1 else ""
    return _named(found, path)


def _of_json(content: object, path: Path) -> dict[str, ExitLabel]:
    if not isinstance(content, dict | list):
        raise TypeError(type(content).__name__)
    if isinstance(content, dict):
        classes = content["classes"]
        named = {name: _class(classes, value, path) for name, value in content["labels"].items()}
        return _named(named, path)
    found = {}
    for task in content:
        choices = {
            choice
            for annotation in task.get("annotations", [])
            if not annotation.get("was_cancelled")
            for result in annotation.get("result", [])
            for choice in result.get("value", {}).get("choices", [])
        }
        # Two people who differ have said nothing yet.
        found[task["data"]["image"]] = choices.pop() if len(choices) == 1 else ""
    return _named(found, path)


def _class(classes: Sequence[object], number: object, path: Path) -> str:
    if number is None:
        return ""
    if not isinstance(number, int) or number < 0:
        raise SettingsError(f"{path}: {number!r} is no number of a class")
    return str(classes[number])


def _named(given: Mapping[str, str], path: Path) -> dict[str, ExitLabel]:
    found: dict[str, ExitLabel] = {}
    words: dict[str, ExitLabel] = {CLASSES[0]: 0, CLASSES[1]: 1, "0": 0, "1": 1, "no_roadwork": 0}
    for name, said in given.items():
        if not said:
            continue
        match, label = HASH.search(name), words.get(said.strip().lower())
        if match is None:
            raise SettingsError(f"{path}: {name!r} is not the name of a picture of the harvest")
        if label is None:
            raise SettingsError(f"{path}: {name} is called {said!r}; write {CLASSES[1]!r} or {CLASSES[0]!r}")
        found[match[1]] = label
    return found
