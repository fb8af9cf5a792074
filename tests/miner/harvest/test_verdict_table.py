"""What Stage-2 said as weak labels: of what may only train, and of nothing that may certify one day."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from engines.store.store import Store
from miner.harvest.store import HarvestStore
from miner.harvest.verdict_table import VERDICTS, teaching, write_verdicts
from offline.data.sources.scene_plan import plan_scene
from offline.data.sources.source import read_dataset
from offline.data.sources.synthetic_streets import draw_frame
from offline.learning.distillation.verdicts import verdicts_of
from offline.night import stages
from offline.pipeline.choice import Choice
from offline.pipeline.progress import Silence
from offline.pipeline.runner import Pipeline
from offline.splits.splits_file import Splits
from stage1.errors import SettingsError
from stage1.monitor.audit import ExitLabel
from tests.miner.harvest.test_harvest import content_of, kept, random_one, store_in
from tests.support.scenes import write_labelled_scenes
from tests.support.small_nights import small_night

LATER = date(2026, 4, 1)


def said(number: int, **changes: object) -> dict[str, Any]:
    return {"stage2_probability": 0.9 if number % 2 else 0.2, **changes}


def test_only_what_may_never_certify_teaches(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    images = {
        "picked": kept(1, **said(1)),
        "labelled": kept(2, **said(2)),
        "not asked": kept(3),
        "drawn": random_one(4, **said(4)),
        "of the place of a draw": kept(5, **said(5, site=4)),
        "of a week that lost one": random_one(6, "2026-W08", **said(6)),
        "lost": random_one(7, "2026-W08", **said(7, gone=True)),
    }
    store.images.update({one.sha256: one for one in images.values()})
    labels: dict[str, ExitLabel] = {images["labelled"].sha256: 1}
    found = teaching(store.images.values(), labels, LATER)
    assert found == [images["picked"], images["of a week that lost one"]]
    the_next_day = date(2026, 3, 3)
    assert not teaching(store.images.values(), labels, the_next_day), "a picture of the same place may be drawn yet"


def test_a_table_is_read_by_a_night(tmp_path: Path) -> None:
    store = store_in(tmp_path / "store")
    for number in range(4):
        store.keep(kept(number, **said(number)), content_of(number))
    assert write_verdicts(store, {}, tmp_path / "weak", LATER) == 4
    # Again, and with one that was labelled since.
    assert write_verdicts(store, {kept(0).sha256: 1}, tmp_path / "weak", LATER) == 3
    verdicts = verdicts_of(tmp_path / "weak" / VERDICTS)
    assert [(one.path.stem, one.probability) for one in verdicts] == [
        (kept(number).sha256, 0.9 if number % 2 else 0.2) for number in (1, 2, 3)
    ]


def test_where_nothing_teaches_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing to teach by"):
        write_verdicts(store_in(tmp_path / "store"), {}, tmp_path / "weak", LATER)
    assert not (tmp_path / "weak").exists()


@pytest.mark.slow
def test_weak_labels_train_by_their_weight_and_are_in_no_set(tmp_path: Path) -> None:
    """The whole way: a store, the table, a night whose teacher it is, its splits and its record of the training."""
    pytest.importorskip("torch")
    from offline.learning.supervised.record import TrainingRecord  # noqa: PLC0415

    write_labelled_scenes(tmp_path / "data", 40)
    store, number = store_in(tmp_path / "store", most_bytes=10**8), 6
    for index in range(number):
        keep_scene(store, index)
    write_verdicts(store, {}, tmp_path / "weak", LATER)
    config = small_night(**{"learn.teacher": str(tmp_path / "weak" / VERDICTS), "learn.teacher_weight": 0.25})
    rows = read_dataset(tmp_path / "data")
    workspace = tmp_path / "workspace"
    night = Pipeline(stages(), workspace, Store(tmp_path / "bundles"), rows, config, now, Silence())
    run = night.run(Choice(only="train_supervised"))
    found = TrainingRecord.read(run / "training.json").teacher
    assert found is not None
    assert (found["unlabelled"], found["left_out"], found["weight"]) == (number, 0, 0.25)
    splits = Splits.read(run / "splits.json")
    names = {one.sha256 for one in store.images.values()}
    assert not names & {row.sha256 for found in splits.sets.values() for row in found.rows}


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def keep_scene(store: HarvestStore, index: int) -> None:
    file = io.BytesIO()
    draw_frame(plan_scene(5000 + index, seed=3, difficulty=0.1), 0).save(file, "JPEG")
    sha256 = hashlib.sha256(file.getvalue()).hexdigest()
    image = kept(index, **said(index, sha256=sha256, size=len(file.getvalue())))
    store.keep(image, file.getvalue())
