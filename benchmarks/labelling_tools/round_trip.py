"""A hundred pictures from a store of the harvest to a tool, labelled there, and back."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.labelling_tools.label_studio import LabelStudioServer
from miner.cli.harvest.label_files import read_label_file
from miner.harvest.export import write_for
from miner.harvest.kept_image import KeptImage
from miner.harvest.label_tools import CLASSES, Tool
from miner.harvest.store import HarvestStore, Limits
from offline.data.sources.scene_plan import plan_scene
from offline.data.sources.synthetic_streets import draw_frame
from stage1.monitor.audit import ExitLabel

PICTURES = 100
FIRST = datetime(2026, 3, 2, 12, tzinfo=UTC)
PEER_S, MONGOD_S = 600.0, 60.0
STUDIO_EXPORTS = {"JSON": "json", "JSON_MIN": "json", "CSV": "csv"}

Labels = dict[str, ExitLabel]


def filled_store(directory: Path) -> tuple[HarvestStore, Labels]:
    """A store of pictures, half of them drawn at random, and what they show, by hash."""
    store, truth = HarvestStore(directory, Limits(2**30)), Labels()
    for number in range(PICTURES):
        scene = plan_scene(number, seed=7, difficulty=0.3)
        file = io.BytesIO()
        draw_frame(scene, 0).save(file, "JPEG", quality=85)
        content = file.getvalue()
        sha256 = hashlib.sha256(content).hexdigest()
        truth[sha256] = 1 if scene.label else 0
        drawn = number % 2 == 0
        image = KeptImage(
            sha256=sha256,
            at=FIRST + timedelta(minutes=11 * number),
            reasons=("random",) if drawn else ("deferred",),
            week="2026-W10" if drawn else "",
            request_id=f"r{number}",
            hotkey="validator",
            bundle="b",
            site=number,
            picture=None,
            size=len(content),
            suffix=".jpg",
            exit_label=None,
            score=0.0,
            probability=0.5,
            stage2_probability=None,
        )
        store.keep(image, content)
    return store, truth


def exported_to(tool: Tool, store: HarvestStore, to: Path) -> int:
    """All pictures of a store, for a tool."""
    return write_for(tool, store, list(store.images.values()), to)


def come_back(file: Path, truth: Labels) -> int:
    """How many labels of a file are those that were given; none may be another, or of another picture."""
    found = read_label_file(file).labels
    wrong = [name for name, label in found.items() if truth[name] != label]
    if wrong:
        raise RuntimeError(f"{file}: {len(wrong)} labels are other than those that were given")
    return len(found)


@contextmanager
def mongod(binary: Path, data: Path, port: int) -> Iterator[str]:
    """The database of FiftyOne, and its address.

    Args:
        binary: of mongod 6 or later.
        data: directory of its files.
        port: on loopback.
    """
    data.mkdir(parents=True, exist_ok=True)
    command = [str(binary), "--dbpath", str(data), "--port", str(port), "--bind_ip", "127.0.0.1"]
    command += ["--wiredTigerCacheSizeGB", "0.25"]
    with (data / "mongod.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield f"mongodb://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(MONGOD_S)


def through_fiftyone(python: Path, database: str, export: Path, truth: Labels, out: Path) -> dict[str, Any]:
    """Have FiftyOne load an export, label it and export it.

    Returns:
        What it says of itself, and how many labels came back in each way in which it writes them.

    Raises:
        RuntimeError: it does not load it, or a label came back as another one.
    """
    out.mkdir(parents=True)
    names = out / "truth.json"
    names.write_text(json.dumps({name: CLASSES[label] for name, label in truth.items()}))
    environment = os.environ | {
        "FIFTYONE_DATABASE_URI": database,
        "FIFTYONE_DATABASE_VALIDATION": "false",
        "FIFTYONE_DO_NOT_TRACK": "true",
    }
    peer = Path(__file__).with_name("fiftyone_peer.py")
    done = subprocess.run(
        [str(python), str(peer), str(export), str(names), str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PEER_S,
        check=False,
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not told:
        raise RuntimeError(f"FiftyOne: {done.stderr[-2000:]}")
    ways = sorted(one for one in out.iterdir() if one.is_dir())
    back = {one.name: come_back(one / "labels.json", truth) for one in ways}
    return {**json.loads(told[-1].removeprefix("RESULT ")), "back": back}


def through_label_studio(server: LabelStudioServer, export: Path, truth: Labels, out: Path) -> dict[str, Any]:
    """Have Label Studio import an export, annotate it by its API, and export it.

    Returns:
        Its version, how many tasks it has, how many of their pictures it serves as they are, and how many labels came
        back in each format.

    Raises:
        RuntimeError: it refuses something, or a label came back as another one.
    """
    out.mkdir(parents=True)
    project = server.project_of(export)
    tasks = server.tasks(project)
    served = 0
    for task in tasks:
        content = server.ask("GET", task["data"]["image"])
        name = hashlib.sha256(content).hexdigest()
        served += name in truth and name in task["data"]["image"]
        server.choose(task["id"], CLASSES[truth[name]])
    back = {}
    for kind, suffix in STUDIO_EXPORTS.items():
        file = out / f"{kind.lower()}.{suffix}"
        file.write_bytes(_unzipped(server.exported(project, kind)))
        back[kind] = come_back(file, truth)
    version = server.json("GET", "/api/version")["release"]
    return {"version": version, "project": project, "tasks": len(tasks), "served": served, "back": back}


def _unzipped(content: bytes) -> bytes:
    if not content.startswith(b"PK"):
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(archive.namelist()[0])
