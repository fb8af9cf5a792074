"""A hundred labels through the real FiftyOne and the real Label Studio: see `scripts/labelling_tools`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.faults.running import free_port
from benchmarks.labelling_tools.label_studio import label_studio
from benchmarks.labelling_tools.round_trip import (
    PICTURES,
    STUDIO_EXPORTS,
    exported_to,
    filled_store,
    mongod,
    through_fiftyone,
    through_label_studio,
)
from miner.cli.harvest.label_files import read_label_file
from miner.harvest.label_tools import CLASSES

pytestmark = pytest.mark.labelling_tools


def test_fiftyone_loads_an_export_and_each_way_in_which_it_writes_labels_is_read(tmp_path: Path) -> None:
    store, truth = filled_store(tmp_path / "store")
    exported_to("fiftyone", store, tmp_path / "export")
    python, binary = Path(os.environ["FIFTYONE_PYTHON"]), Path(os.environ["MONGOD"])
    with mongod(binary, tmp_path / "mongod", free_port()) as database:
        told = through_fiftyone(python, database, tmp_path / "export", truth, tmp_path / "out")
    assert (told["samples"], told["labelled_before"], told["classes"]) == (PICTURES, 0, list(CLASSES))
    assert told["back"] == {"classes": PICTURES, "confidence": PICTURES, "names": PICTURES}


def test_label_studio_shows_an_export_and_each_of_its_own_is_read(tmp_path: Path) -> None:
    store, truth = filled_store(tmp_path / "store")
    export = tmp_path / "export"
    exported_to("labelstudio", store, export)
    python = Path(os.environ["LABEL_STUDIO_PYTHON"])
    with label_studio(python, tmp_path / "studio", export, free_port()) as server:
        told = through_label_studio(server, export, truth, tmp_path / "out")
        assert (told["tasks"], told["served"]) == (PICTURES, PICTURES)
        assert told["back"] == dict.fromkeys(STUDIO_EXPORTS, PICTURES)
        # Two people who differ, one who skips, and many who have said nothing.
        project = server.project_of(export)
        first, second, third, *rest = (task["id"] for task in server.tasks(project))
        server.choose(first, CLASSES[0])
        server.choose(first, CLASSES[1])
        server.choose(second, CLASSES[1])
        server.json("POST", f"/api/tasks/{third}/annotations?was_cancelled=1", {"result": [], "was_cancelled": True})
        file = tmp_path / "project.json"
        file.write_bytes(server.exported(project, "JSON"))
    found = read_label_file(file)
    assert (len(found.labels), len(found.differing), found.unlabelled) == (1, 1, len(rest) + 1)
