"""The splits stage in a workspace: night after night, run again, and killed while it writes its ledger."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import ImageEnhance

import offline.stages.splits
from engines.store.bundle import Provenance
from engines.store.file_names import SPLITS
from engines.store.store import Store
from offline.config import PRESETS, RunConfig
from offline.data.checks.fingerprints import FINGERPRINTS
from offline.data.checks.preflight import PreflightReport
from offline.data.dataset import Dataset
from offline.data.inventory import InventoryRecord
from offline.data.sources.scene_plan import plan_scene
from offline.data.sources.source import read_dataset
from offline.data.sources.synthetic_streets import draw_frame
from offline.errors import DatasetError, PipelineBusy
from offline.night import stages
from offline.pipeline.runner import Pipeline
from offline.pipeline.stage import StageContext
from offline.report.row_notes import row_notes
from offline.splits.split_ledger import SPLIT_LEDGER, Event, append_events, read_split_ledger
from offline.splits.splits_file import Splits
from offline.stages.common.inputs import rows_of
from stage1.settings import override
from tests.support.stage_keys import stage_key
from tests.support.whole_view import whole_view

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = PRESETS["tiny"]
SCENES = 44
COPIED = 3


class Told:
    """Remembers which stages ran, and what was done in them."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.steps: list[tuple[int, int, str]] = []

    def stage(self, name: str, state: str) -> None:
        self.ran += [name] * (state == "running")

    def step(self, done: int, total: int, note: str = "") -> None:
        self.steps.append((done, total, note))


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of scenes, and a brighter copy of each of the first few, with the labels of them all."""
    root = tmp_path_factory.mktemp("streets")
    rows = []
    for number in range(SCENES):
        scene = plan_scene(number, seed=2, difficulty=0.25)
        picture = draw_frame(scene, 0).resize((160, 120))
        picture.save(root / f"{number:02d}.jpg")
        rows.append((f"{number:02d}.jpg", scene.label, f"scene {number:02d}"))
        if number < COPIED:
            ImageEnhance.Brightness(picture).enhance(1.1).save(root / f"{number:02d}_copy.jpg")
            rows.append((f"{number:02d}_copy.jpg", scene.label, f"copy {number:02d}"))
    with (root / "all.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    return root


@pytest.fixture
def data(streets: Path, tmp_path: Path) -> Callable[..., Path]:
    """A data directory with the first so many rows."""
    root = tmp_path / "data"
    shutil.copytree(streets, root)
    lines = (streets / "all.csv").read_text().splitlines()

    def write(rows: int = SCENES, *, turned: bool = False) -> Path:
        chosen = lines[:rows]
        (root / "labels.csv").write_text("\n".join(["image,label,group", *(chosen[::-1] if turned else chosen)]))
        return root

    return write


def night(root: Path, home: Path, config: RunConfig = CONFIG, store: Store | None = None) -> tuple[Splits, Told]:
    told = Told()
    pipeline = Pipeline(
        stages=stages()[:1],
        workspace=home,
        store=store or Store(home / "store"),
        data=read_dataset(root),
        config=config,
        now=lambda: NOW,
        progress=told,
    )
    return Splits.read(pipeline.run() / SPLITS), told


def homes(splits: Splits) -> dict[str, str]:
    return {row: name for name, described in splits.sets.items() for row in described.ids}


def test_a_second_night_hashes_only_new_pictures_and_moves_nothing(data: Callable[..., Path], tmp_path: Path) -> None:
    first, told = night(data(40), tmp_path / "w")
    assert told.steps[-1] == (40, 40, "fingerprints")
    second, told = night(data(46), tmp_path / "w")
    assert [step for step in told.steps if step[2] == "fingerprints"] == [(6, 6, "fingerprints")]
    assert homes(first).items() <= homes(second).items()
    assert len((tmp_path / "w" / FINGERPRINTS).read_text().splitlines()) == 46
    assert set(read_split_ledger(tmp_path / "w" / SPLIT_LEDGER).groups) == set(homes(second))


def test_the_same_night_again_is_taken_from_the_cache_also_in_another_order(
    data: Callable[..., Path], tmp_path: Path
) -> None:
    first, _ = night(data(), tmp_path / "w")
    ledger = (tmp_path / "w" / SPLIT_LEDGER).read_bytes()
    again, told = night(data(turned=True), tmp_path / "w")
    assert (again, told.ran) == (first, [])
    assert (tmp_path / "w" / SPLIT_LEDGER).read_bytes() == ledger
    # On another machine, too.
    assert night(data(turned=True), tmp_path / "elsewhere")[0] == first


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.31, 0.5, 0.77, 0.999, 1.0])
def test_a_night_killed_while_it_writes_the_ledger_is_finished_by_the_next_run(
    data: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: float
) -> None:
    root = data()
    expected, _ = night(root, tmp_path / "whole")

    def killed(path: Path, events: list[Event]) -> None:
        append_events(path, events)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        raise Killed

    monkeypatch.setattr(offline.stages.splits, "append_events", killed)
    with pytest.raises(Killed):
        night(root, tmp_path / "w")
    monkeypatch.undo()
    splits, _ = night(root, tmp_path / "w")
    assert splits == expected
    ledger = read_split_ledger(tmp_path / "w" / SPLIT_LEDGER)
    assert ledger == read_split_ledger(tmp_path / "whole" / SPLIT_LEDGER)
    assert list(ledger.homes) == list(read_split_ledger(tmp_path / "whole" / SPLIT_LEDGER).homes)


def test_other_shares_leave_the_old_groups_to_the_ledger(data: Callable[..., Path], tmp_path: Path) -> None:
    first, _ = night(data(), tmp_path / "w")
    shares = {"splits.train": 0.2, "splits.val_select": 0.2, "splits.val_calib": 0.2, "splits.test": 0.4}
    again, told = night(data(), tmp_path / "w", override(CONFIG, shares))
    assert told.ran == ["splits"]
    assert homes(again) == homes(first)


def test_the_columns_that_join_rows_stand_in_the_inventory(data: Callable[..., Path], tmp_path: Path) -> None:
    night(data(), tmp_path / "w")
    [record] = (InventoryRecord.read(path) for path in (tmp_path / "w").glob("runs/*/inventory.json"))
    assert record.inventory.rows == SCENES
    assert [column.column for column in record.inventory.joining] == ["group"]


@pytest.mark.parametrize("column", ["Time of Day", "info.Time of Day"])
def test_subgroups_that_no_certifying_row_has_stop_the_night_before_it_trains(
    data: Callable[..., Path], tmp_path: Path, column: str
) -> None:
    root = data()
    named = {"calibrate_scrc.mode": "balanced", "calibrate_scrc.subgroups": "time_of_day"}
    train = set(night(root, tmp_path / "w")[0].sets["train"].ids)
    head, *lines = (root / "labels.csv").read_text().splitlines()

    def write(filled: Callable[[str], bool]) -> None:
        told = [f"{line},{'day' if filled(line.split(',')[0]) else ''}" for line in lines]
        (root / "labels.csv").write_text("\n".join([f"{head},{column}", *told]))

    write(lambda _: True)
    assert night(root, tmp_path / "w", override(CONFIG, named))[1].ran == ["splits"]
    write(lambda row: row in train)
    with pytest.raises(DatasetError, match=r"no row of val_select has a value in the column 'time_of_day'"):
        night(root, tmp_path / "w", override(CONFIG, named))
    assert night(root, tmp_path / "w")[1].ran == ["splits"]


def test_too_few_groups_say_which_column_joins_most(data: Callable[..., Path], tmp_path: Path) -> None:
    root = data()
    head, *lines = (root / "labels.csv").read_text().splitlines()
    joined = [f"{line},{'7' if number % 10 else number}" for number, line in enumerate(lines)]
    (root / "labels.csv").write_text("\n".join([f"{head},sequence", *joined]))
    with pytest.raises(DatasetError, match=r"too few groups.*; sequence joins most: 39 rows have '7'"):
        night(root, tmp_path / "w")


def test_a_night_with_too_little_data_writes_nothing_into_the_ledger(data: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="too few groups"):
        night(data(6), tmp_path / "w")
    assert not (tmp_path / "w" / SPLIT_LEDGER).exists()


def as_version_1(ledger: Path) -> None:
    """The same ledger as the program of version 1 wrote it: rows by their paths, lines that do not hang together."""
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    for line in lines:
        line.update({"schema_version": 1} | ({"rows": [row["row"] for row in line["rows"]]} if "rows" in line else {}))
        del line["previous"], line["seal"]
        line.pop("chained", None)
    ledger.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_a_workspace_of_version_1_keeps_every_home_and_from_then_on_knows_rows_by_content(
    data: Callable[..., Path], tmp_path: Path
) -> None:
    root, ledger = data(40), tmp_path / "w" / SPLIT_LEDGER
    first, _ = night(root, tmp_path / "w")
    as_version_1(ledger)
    # A night with new rows, and then one in which all files lie in another directory.
    second, _ = night(data(46), tmp_path / "w")
    assert homes(first).items() <= homes(second).items()
    (root / "moved").mkdir()
    for picture in root.glob("*.jpg"):
        picture.rename(root / "moved" / picture.name)
    (root / "labels.csv").write_text((root / "labels.csv").read_text().replace("\n", "\nmoved/"))
    third, _ = night(root, tmp_path / "w")
    assert homes(third) == {f"moved/{row}": home for row, home in homes(second).items()}


def test_a_workspace_that_is_deleted_and_files_that_are_moved_change_no_home(
    data: Callable[..., Path],
    tmp_path: Path,
    store: Store,
    tiny_engine: Path,
    write_bundle_files: Callable[..., Path],
    provenance: Provenance,
) -> None:
    root = data()
    first, _ = night(root, tmp_path / "w", store=store)
    files = write_bundle_files(tmp_path / "files", engine=tiny_engine)
    first.write(files / SPLITS)
    store.publish(files, provenance)
    shutil.rmtree(tmp_path / "w")
    (root / "moved").mkdir()
    for picture in root.glob("*.jpg"):
        picture.rename(root / "moved" / picture.name)
    (root / "labels.csv").write_text((root / "labels.csv").read_text().replace("\n", "\nmoved/"))
    shares = {"splits.train": 0.2, "splits.val_select": 0.2, "splits.val_calib": 0.2, "splits.test": 0.4}
    again, _ = night(root, tmp_path / "w", override(CONFIG, shares), store)
    assert homes(again) == {f"moved/{row}": home for row, home in homes(first).items()}


def test_bins_that_an_earlier_program_cut_stop_no_night(data: Callable[..., Path], tmp_path: Path) -> None:
    """The scorer of that program had another name, and nobody is there to raise `splits.strata_version`."""
    root, ledger = data(40), tmp_path / "w" / SPLIT_LEDGER
    first, _ = night(root, tmp_path / "w")
    as_version_1(ledger)
    ledger.write_text(ledger.read_text().replace(first.scorer, "contrast phash256-v1"))
    second, _ = night(data(46), tmp_path / "w")
    assert homes(first).items() <= homes(second).items()
    assert [cut.scorer for cut in read_split_ledger(ledger).cuts.values()] == ["contrast phash256-v1", first.scorer]
    assert second.scorer == first.scorer
    checked = PreflightReport(rows=46, left_out=(), findings=())
    [note] = row_notes(checked, second)
    assert "splits.strata_version 1 were cut anew" in note
    assert "by 'contrast phash256-v1' on 2026-01-01. No row moved" in note
    assert row_notes(checked, first) == ()


def test_another_bundle_in_the_place_of_the_scorer_splits_again(data: Callable[..., Path], tmp_path: Path) -> None:
    config = override(CONFIG, {"splits.difficulty": {"kind": "bundle", "path": str(tmp_path / "scorer")}})
    [splits], rows = stages()[:1], read_dataset(data())
    before = stage_key(splits, config, rows.sha256)
    (tmp_path / "scorer").mkdir()
    (tmp_path / "scorer" / "model.onnx").write_bytes(b"another")
    assert stage_key(splits, config, rows.sha256) != before


def test_no_second_night_writes_into_the_ledger_at_the_same_time(
    data: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = data()

    def meanwhile(path: Path, events: list[Event]) -> None:
        with pytest.raises(PipelineBusy, match="another run is at work here"):
            night(root, tmp_path / "w")
        append_events(path, events)

    monkeypatch.setattr(offline.stages.splits, "append_events", meanwhile)
    splits, _ = night(root, tmp_path / "w")
    assert set(read_split_ledger(tmp_path / "w" / SPLIT_LEDGER).groups) == set(homes(splits))


def test_an_edited_ledger_stops_the_night(data: Callable[..., Path], tmp_path: Path) -> None:
    ledger = tmp_path / "w" / SPLIT_LEDGER
    night(data(40), tmp_path / "w")
    ledger.write_text(ledger.read_text().replace('"val_calib", "fold": 0', '"train", "fold": null', 1))
    with pytest.raises(DatasetError, match="was changed after it was written; restore it from a backup"):
        night(data(46), tmp_path / "w")


@pytest.fixture
def context(tmp_path: Path) -> Callable[[Path, Splits], StageContext]:
    """What a stage after the splits is given."""

    def make(root: Path, splits: Splits) -> StageContext:
        splits.write(tmp_path / SPLITS)
        return StageContext(
            config=CONFIG,
            data=whole_view(read_dataset(root), tmp_path),
            workspace=tmp_path,
            store=Store(tmp_path / "store"),
            out=tmp_path,
            inputs={"splits": tmp_path},
            key="key",
            run="run",
            now=lambda: NOW,
            progress=Told(),
        )

    return make


def test_the_stages_see_copies_as_one_group(
    data: Callable[..., Path], tmp_path: Path, context: Callable[[Path, Splits], StageContext]
) -> None:
    root = data()
    given = context(root, night(root, tmp_path / "w")[0])
    sets: list[Dataset] = [rows_of(given, name) for name in ("train", "val_select", "val_calib", "test")]
    group = {row.image: row.group for rows in sets for row in rows.rows}
    for number in range(COPIED):
        assert group[f"{number:02d}.jpg"] == group[f"{number:02d}_copy.jpg"]
    assert len(set(group.values())) == SCENES - COPIED
