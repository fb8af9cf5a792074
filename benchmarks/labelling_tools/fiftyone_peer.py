"""Run by the interpreter that has FiftyOne: loads an export of ours, labels it, and exports it as FiftyOne does.

    python fiftyone_peer.py DATASET TRUTH OUT

TRUTH is JSON, the name of a class by hash. OUT gets a directory for each way in which FiftyOne writes labels.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import fiftyone as fo  # type: ignore[import-not-found]

NAME = "cascade-labelling-tools"
WAYS: dict[str, dict[str, Any]] = {
    "classes": {"classes": ["roadwork", "no roadwork"]},
    "names": {},
    "confidence": {"classes": ["no roadwork", "roadwork"], "include_confidence": True},
}


def main(source: Path, truth: dict[str, str], out: Path) -> None:
    """Load, label, export."""
    if fo.dataset_exists(NAME):
        fo.delete_dataset(NAME)
    kind = fo.types.FiftyOneImageClassificationDataset
    dataset = fo.Dataset.from_dir(dataset_dir=str(source), dataset_type=kind, name=NAME)
    labelled = len(dataset.exists("ground_truth"))
    for sample in dataset:
        sample["ground_truth"] = fo.Classification(label=truth[Path(sample.filepath).stem], confidence=1.0)
        sample.save()
    for way, settings in WAYS.items():
        dataset.export(export_dir=str(out / way), dataset_type=kind, label_field="ground_truth", **settings)
    told = {"version": fo.__version__, "samples": len(dataset), "labelled_before": labelled}
    print("RESULT", json.dumps(told | {"classes": dataset.default_classes}))
    fo.delete_dataset(NAME)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]))
