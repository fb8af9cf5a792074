"""Files in which labelling tools write what people said: FiftyOne, Label Studio, CVAT, and a plain list.

Sources:
    FiftyOne: `FiftyOneImageClassificationDatasetExporter`; classes may be null, and a label a number of a class, its
        name, a dict with `label`, or a list of such.
    Label Studio: "Label Studio JSON format of annotated tasks", and its exports JSON-MIN and CSV.
    CVAT: "CVAT for images 1.1".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from miner.harvest.label_tools import CLASSES
from offline.data.sources.csv_table import read_table
from offline.data.values import label_of, said
from offline.errors import DatasetError
from stage1.errors import SettingsError
from stage1.monitor.audit import ExitLabel

HASH = re.compile(r"([0-9a-f]{64})(\.\w+)?$")
LONGEST = 256 * 2**20
WORDS: dict[str, ExitLabel] = {CLASSES[0]: 0, CLASSES[1]: 1, "no_roadwork": 0}
EXPECTED = "not a file of FiftyOne, Label Studio or CVAT, nor a list"


@dataclass(frozen=True)
class LabelFile:
    """What a file says.

    Attributes:
        labels: by hash.
        differing: hashes of pictures of which it says both; who differ have said nothing yet.
        unlabelled: number of pictures that it names and says nothing of.
    """

    labels: dict[str, ExitLabel]
    differing: tuple[str, ...] = ()
    unlabelled: int = 0


def read_label_file(path: Path) -> LabelFile:
    """What a file of one of the tools says.

    Raises:
        SettingsError: it cannot be read, or is of none of them; says what was found.
    """
    try:
        if not path.is_file() and path.exists():
            raise SettingsError(f"{path}: is not a file")
        if (size := path.stat().st_size) > LONGEST:
            raise SettingsError(f"{path}: has {size} bytes, the limit is {LONGEST}; export it in parts")
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        if path.suffix.lower() == ".xml":
            return _gathered(_of_cvat(content, path), path)
        if path.suffix.lower() == ".json":
            return _gathered(_of_json(json.loads(content.decode("utf-8-sig")), path), path)
        return _gathered(_of_table(path), path)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ET.ParseError) as error:
        raise SettingsError(f"{path}: {EXPECTED}: {error!r}") from error
    except DatasetError as error:
        raise SettingsError(str(error)) from error


def _of_table(path: Path) -> Iterator[tuple[str, Sequence[str]]]:
    """A list, or an export of Label Studio as CSV."""
    table = read_table(path, ("image", "label"))
    lacking = [name for name in ("image", "label") if name not in table.columns]
    if lacking:
        there = ", ".join(table.columns.values()) or "none"
        raise SettingsError(f"{path}: {EXPECTED}: it has no column {lacking[0]!r}; its columns are {there}")
    for record in table.records:
        yield record.cells["image"], [record.cells["label"]]


def _of_cvat(content: bytes, path: Path) -> Iterator[tuple[str, Sequence[str]]]:
    if b"\0" in content:
        # Declarations would not be found in it.
        raise SettingsError(f"{path}: is not UTF-8, which an export of CVAT is")
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise SettingsError(f"{path}: declares entities, which an export of CVAT does not")
    # No entity can be declared in it, which is what makes XML dangerous.
    for image in ET.fromstring(content).iter("image"):  # noqa: S314
        yield image.get("name", ""), [tag.get("label", "") for tag in image.iter("tag")]


def _of_json(content: object, path: Path) -> Iterator[tuple[str, Sequence[str]]]:
    if isinstance(content, dict):
        classes = content.get("classes")
        for name, value in content["labels"].items():
            values = value if isinstance(value, list) else [value]
            yield name, [_class(classes, one, path) for one in values]
    elif isinstance(content, list):
        for task in content:
            if "data" in task:
                yield task["data"]["image"], _choices(task)
            else:
                # Of JSON-MIN, which has an entry for each annotation.
                yield task["image"], [task.get("label") or ""]
    else:
        raise TypeError(type(content).__name__)


def _choices(task: dict[str, Any]) -> list[str]:
    return [
        choice
        for annotation in task.get("annotations", [])
        if not annotation.get("was_cancelled")
        for result in annotation.get("result", [])
        for choice in result.get("value", {}).get("choices", [])
    ]


def _class(classes: Sequence[object] | None, value: object, path: Path) -> str:
    """The name of the class that a label of FiftyOne means; empty for none."""
    if isinstance(value, dict):
        value = value.get("label")
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0 or not classes:
        raise SettingsError(f"{path}: {value!r} is no number of a class")
    return str(classes[value])


def _gathered(given: Iterable[tuple[str, Sequence[str]]], path: Path) -> LabelFile:
    found: dict[str, set[ExitLabel]] = {}
    for name, words in given:
        match = HASH.search(name)
        if match is None:
            raise SettingsError(f"{path}: {name!r} is not the name of a picture of the harvest")
        found.setdefault(match[1], set()).update(_label(word, name, path) for word in words if said(word) is not None)
    return LabelFile(
        {name: next(iter(labels)) for name, labels in found.items() if len(labels) == 1},
        tuple(sorted(name for name, labels in found.items() if len(labels) > 1)),
        sum(not labels for labels in found.values()),
    )


def _label(word: str, name: str, path: Path) -> ExitLabel:
    label = WORDS.get(word.strip().lower(), label_of(word))
    if label not in (0, 1):
        raise SettingsError(f"{path}: {name} is called {word!r}; write {CLASSES[1]!r} or {CLASSES[0]!r}")
    return 1 if label else 0
