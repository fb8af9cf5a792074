"""`cascade stage2 evaluate` and `report`, with a bundle, pictures and a second engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engines.machine.clock import utc_now
from engines.store.bundle import Provenance
from engines.store.file_names import CALIBRATOR, ENGINE, PREPROCESS, SPLITS
from engines.store.stage2_scores import HOME, RECORD, SCORES, scored_servers
from engines.store.store import Store
from miner.cli.main import app
from miner.cli.stage2.evaluation import price_of
from offline.splits.settings import Split
from offline.splits.splits_file import SplitRow, Splits, SplitSet
from stage1.artifacts import sha256_file
from stage1.certificate.params import ScrcParams
from stage1.preprocess import PreprocessSettings
from stage1.probability.calibrator import HeadCalibrator
from stage2_bridge.calibration.record import Stage2Record
from stage2_bridge.protection.budget.cost import Cost
from stage2_bridge.settings import OpenAiServer
from tests.support.calibrators import calibrator_of_slopes
from tests.support.red_and_blue import red_and_blue

ROWS = 160
SETS: dict[Split, range] = {
    "train": range(20),
    "val_select": range(20, 90),
    "val_calib": range(90, 110),
    "test": range(110, ROWS),
}


@dataclass(frozen=True)
class World:
    """A data directory, a store with a bundle that was made of it, and settings that name a Stage-2."""

    data: Path
    store: Store
    config: Path

    def run(self, *arguments: str) -> tuple[int, str]:
        command = ["stage2", *arguments, "--data", str(self.data), "--config", str(self.config)]
        result = CliRunner().invoke(app, command)
        # What is wrong is on standard error, and so is the progress.
        return result.exit_code, result.stdout if result.exit_code == 0 else result.output

    @property
    def lines(self) -> list[dict[str, Any]]:
        [file] = (self.store.root / HOME).glob(f"*/{SCORES}")
        return [json.loads(line) for line in file.read_text().splitlines()]

    @property
    def record(self) -> Stage2Record:
        [file] = (self.store.root / HOME).glob(f"*/{RECORD}")
        return Stage2Record.read(file)

    def images(self, *names: Split) -> set[str]:
        return {sha256_file(self.data / f"{row}.png") for name in names for row in SETS[name]}


def described(rows: range, data: Path) -> SplitSet:
    found = [
        SplitRow(row=f"{row}.png", group=str(row), sha256=sha256_file(data / f"{row}.png"), label=row % 2)
        for row in rows
    ]
    return SplitSet(rows=tuple(sorted(found, key=lambda one: one.row)), groups=len(found), positives=len(found) // 2)


@pytest.fixture
def world(
    tmp_path: Path,
    provenance: Provenance,
    write_onnx: Callable[..., Path],
    write_bundle_files: Callable[..., Path],
    certificate: Callable[..., ScrcParams],
) -> World:
    data, store = tmp_path / "data", Store(tmp_path / "store")
    data.mkdir()
    rows = red_and_blue(data, ROWS, clear=False)
    table = ["image,label,group,source,city"]
    table += [f"{row.image},{row.label},{row.group},plain,{row.metadata['city']}" for row in rows.rows]
    (data / "labels.csv").write_text("\n".join(table) + "\n")
    engine, preprocess = write_onnx(tmp_path / "one.onnx"), PreprocessSettings(size_px=32)
    params = certificate(engine_sha256=sha256_file(engine), preprocess_sha256=preprocess.sha256, stream="originals")
    files = write_bundle_files(tmp_path / "files", engine=engine, params=params, preprocess=preprocess)
    Splits(
        seed=0,
        data_sha256=rows.sha256,
        sets={name: described(members, data) for name, members in SETS.items()},
        folds=(tuple(f"{row}.png" for row in SETS["val_calib"]),),
    ).write(files / SPLITS)
    store.activate(store.publish(files, provenance), now=utc_now())
    second = tmp_path / "second"
    second.mkdir()
    write_onnx(second / ENGINE, shift=-2.5)
    preprocess.write(second / PREPROCESS)
    calibrator_of_slopes(1.0, 1.0, 0.0, rows=10).write(second / CALIBRATOR)
    config = tmp_path / "cascade.toml"
    config.write_text(f'store = "{store.root}"\n[stage2]\nengine = "{second}"\nthreads = 1\n')
    return World(data, store, config)


def test_a_server_is_calibrated_on_val_select_and_judged_on_test_and_val_calib_is_not_touched(world: World) -> None:
    status, output = world.run("evaluate", "--json", "--price", "0.01")
    assert status == 0, output
    [told] = json.loads(output)
    record = world.record
    assert told["server"]["name"] == "local-engine"
    assert {line["image"] for line in world.lines} == world.images("val_select", "test")
    assert not {line["image"] for line in world.lines} & world.images("val_calib", "train")
    assert {line["cost"] for line in world.lines} == {0.01}
    assert (record.answers.rows, record.answers.groups, record.price) == (50, 50, 0.01)
    assert isinstance(record.calibrator, HeadCalibrator)
    assert record.calibrator.answering.rows == 70
    # It says no roadwork too often, which the calibrator mends.
    assert (record.raw.misses.value or 0) > (record.answers.misses.value or 0)
    assert (record.answers.accuracy.value or 0) >= (record.raw.accuracy.value or 0)
    assert record.raw.auroc == record.answers.auroc
    assert {(one.column, one.value) for one in record.subgroups} == {("city", "a"), ("city", "b")}
    assert any("70 rows of val_select, which are few" in note for note in record.notes)
    assert record.bundle == world.store.bundles()[0].manifest.bundle_id


def test_the_table_says_what_it_is_worth_and_where_it_is_written(world: World) -> None:
    status, output = world.run("evaluate", "--progress", "lines")
    assert status == 0, output
    for part in ("AUROC", "MCC", "calibration error", "latency", "no price is named", "gain of handing on", "city a"):
        assert part in output
    assert str(next((world.store.root / HOME).glob(f"*/{RECORD}"))) in output


def test_what_was_answered_before_is_not_asked_again(world: World) -> None:
    assert world.run("evaluate", "--most", "30")[0] == 0
    before = world.lines
    assert len(before) == 60
    assert world.run("evaluate")[0] == 0
    assert world.lines[:60] == before
    assert len(world.lines) == 120
    assert len({line["image"] for line in world.lines}) == 120
    # Fewer rows are fewer to ask about, and none of what is known is thrown away.
    assert world.run("evaluate", "--most", "10")[0] == 0
    assert len(world.lines) == 120
    assert (world.record.answers.rows, world.record.latency.calls) == (50, 120)


def test_an_image_that_is_asked_about_in_both_orders_costs_two_calls() -> None:
    prices = {"price_a_call": 0.5, "price_per_1000_tokens": 10.0, "most_tokens": 100}
    one = OpenAiServer.model_validate({"name": "a", "url": "http://a", "model": "m", **prices})
    both = one.model_copy(update={"both_orders": True})
    assert price_of(one, None) == Cost(0.5, 0.01, 100)
    assert price_of(both, None) == Cost(1.0, 0.01, 200)
    assert (price_of(one, 0.25), price_of(both, 0.25)) == (Cost(0.25), Cost(0.5))
    assert price_of(both.model_copy(update={"free": True}), None) is None


def test_the_price_of_the_settings_is_what_handing_on_costs(world: World) -> None:
    second = world.config.parent / "second"
    world.config.write_text(
        f'store = "{world.store.root}"\n[[stage2.servers]]\nkind = "engine"\nname = "second"\n'
        f'directory = "{second}"\nthreads = 1\nprice_a_call = 0.5\n'
    )
    status, output = world.run("evaluate")
    assert status == 0, output
    assert "0.5 an image" in output
    assert world.record.price == 0.5
    status, output = world.run("report", "--json")
    assert status == 0, output
    [cascade] = json.loads(output)["cascades"]
    costs = {point["name"]: point["cost"] for point in cascade["points"]}
    assert (costs["all_to_stage2"], costs["none"]) == (500.0, 0.0)


def test_the_report_needs_no_server_and_says_what_each_point_earns(world: World) -> None:
    assert world.run("evaluate")[0] == 0
    world.config.write_text(f'store = "{world.store.root}"\n')
    status, output = world.run("report", "--progress", "lines")
    assert status == 0, output
    page = world.store.root / HOME / f"{world.store.bundles()[0].manifest.bundle_id}.html"
    assert f"page: {page}" in output
    assert "one more per cent of exits" in output
    assert "The whole cascade, with local-engine" in page.read_text()
    status, output = world.run("report", "--json", "--out", str(world.config.parent / "own.html"))
    assert status == 0, output
    [cascade] = json.loads(output)["cascades"]
    assert [point["name"] for point in cascade["points"]] == ["certified", "softmax", "all_to_stage2", "none"]
    assert (cascade["rows"], cascade["unasked"], cascade["select_rows"]) == (50, 0, 70)
    assert (world.config.parent / "own.html").exists()


def test_rows_that_were_renamed_are_known_by_their_content(world: World) -> None:
    (world.data / "moved").mkdir()
    table = (world.data / "labels.csv").read_text()
    for row in range(ROWS):
        (world.data / f"{row}.png").rename(world.data / "moved" / f"{row}.png")
        table = table.replace(f"\n{row}.png,", f"\nmoved/{row}.png,")
    (world.data / "labels.csv").write_text(table)
    assert world.run("evaluate")[0] == 0
    assert world.record.answers.rows == 50


def test_what_is_missing_is_said_before_anything_is_asked(world: World, tmp_path: Path) -> None:
    status, output = world.run("report")
    assert status != 0
    assert "no server has been asked about the test rows" in output
    assert "cascade stage2 evaluate" in output
    status, output = world.run("evaluate", "--server", "nobody")
    assert status != 0
    assert "no server is called 'nobody'; there is local-engine" in output
    world.config.write_text(f'store = "{tmp_path / "empty"}"\n[stage2]\nengine = "{tmp_path / "second"}"\n')
    status, output = world.run("evaluate")
    assert status != 0
    assert "no bundle is current" in output
    world.config.write_text(f'store = "{world.store.root}"\n')
    status, output = world.run("evaluate")
    assert status != 0
    assert "no Stage-2 server is named" in output
    assert not scored_servers(world.store.root)


def test_other_data_than_the_bundle_was_made_of_are_refused(world: World) -> None:
    for row in (*SETS["val_select"], *SETS["test"]):
        (world.data / f"{row}.png").unlink()
    kept = [*SETS["train"], *SETS["val_calib"]]
    table = ["image,label,group", *(f"{row}.png,{row % 2},{row}" for row in kept)]
    (world.data / "labels.csv").write_text("\n".join(table) + "\n")
    status, output = world.run("evaluate")
    assert status != 0
    assert "none of the 70 rows of val_select" in output


def test_a_picture_is_sent_to_the_server_as_it_arrives(world: World) -> None:
    assert world.run("evaluate")[0] == 0
    some = (world.data / "150.png").read_bytes()
    assert hashlib.sha256(some).hexdigest() in {line["image"] for line in world.lines}
