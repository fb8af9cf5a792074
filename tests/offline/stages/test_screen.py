"""A look at val_calib is spent only on a challenger that val_select says could win."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engines.backends.onnxruntime import OnnxEngine
from engines.spec import EngineSpec
from engines.store.bundle import Provenance
from engines.store.file_names import ENGINE, PREPROCESS, SPEC, SPLITS
from engines.store.golden import write_golden
from engines.store.records import RevocationEntry
from engines.store.store import Store
from offline.config import RunConfig, load_config
from offline.data.dataset import Dataset
from offline.data.engine_outputs import read_outputs
from offline.pipeline.progress import Silence
from offline.pipeline.run_files import SCREEN, SELECT_OUTPUTS
from offline.pipeline.stage import MANIFEST, StageContext, StageManifest
from offline.splits.splits_file import SplitRow, Splits, SplitSet
from offline.stages.screen import Screen, run_screen
from stage1.artifacts import sha256_file
from stage1.certificate.params import ScrcParams
from stage1.preprocess import PreprocessSettings
from tests.support.red_and_blue import red_and_blue
from tests.support.whole_view import whole_view

NOW = datetime(2026, 4, 1, tzinfo=UTC)
Publish = Callable[..., str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return red_and_blue(tmp_path_factory.mktemp("data"), 200, clear=False)


def distracted(engine: Path, target: Path, by: float) -> Path:
    """An engine that listens to green as well, which says nothing: a worse model."""
    model = onnx.load(engine)
    for one in model.graph.initializer:
        if one.name == "weights":
            weights = numpy_helper.to_array(one).copy()
            weights[1, :2] += np.array([-by, by], np.float32)
            one.CopyFrom(numpy_helper.from_array(weights, one.name))
    onnx.save(model, target)
    return target


def config(**changes: Any) -> RunConfig:
    common = {"calibrate_scrc.alpha": 0.05, "calibrate_scrc.stream": "originals", "preprocess.size_px": 32}
    return load_config("tiny", None, common | {name.replace("__", "."): value for name, value in changes.items()})


def splits_of(data: Dataset, *, other: str | None = None, named: str = "train") -> Splits:
    """All rows in val_select, or the first half of them in another set."""
    half = len(data) // 2 if other else 0
    parts = {named: data.ids[:half], "val_select": data.ids[half:]}
    sets: Any = {
        name: SplitSet(rows=tuple(SplitRow(row=row, group=row) for row in parts.get(name, [])), groups=0, positives=0)
        for name in ("train", "val_select", "val_calib", "test")
    }
    return Splits(seed=0, data_sha256=data.sha256, sets=sets, folds=())


@pytest.fixture
def publish(
    tmp_path: Path,
    store: Store,
    data: Dataset,
    write_bundle_files: Callable[..., Path],
    certificate: Callable[..., ScrcParams],
    provenance: Provenance,
) -> Publish:
    """Publishes a bundle with a certificate for originals, and makes it current."""

    def one(engine: Path, *, splits: Splits | None = None, **asked: Any) -> str:
        preprocess = PreprocessSettings(size_px=32)
        bound = {"engine_sha256": sha256_file(engine), "preprocess_sha256": preprocess.sha256}
        params = certificate(**bound, **({"stream": "originals"} | asked))
        files = write_bundle_files(tmp_path / "champion", engine=engine, params=params)
        (splits or splits_of(data)).write(files / SPLITS)
        # A golden set of its own, since other weights say otherwise.
        (files / "golden.npz").unlink()
        _write_golden(files, engine)
        bundle = store.publish(files, provenance)
        store.activate(bundle, now=NOW)
        return bundle

    return one


def _write_golden(files: Path, engine: Path) -> None:
    images = np.random.default_rng(3).integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
    with closing(OnnxEngine(engine, threads=1)) as loaded:
        write_golden(files / "golden.npz", images, loaded.infer(images))


@pytest.fixture
def screened(tmp_path: Path, store: Store, data: Dataset) -> Callable[..., Screen]:
    """What the stage says of a challenger."""

    def run(engine: Path, chosen: RunConfig | None = None, *, key: str = "key") -> Screen:
        inputs = {name: tmp_path / "inputs" / name for name in ("splits", "export")}
        for path in inputs.values():
            path.mkdir(parents=True, exist_ok=True)
        splits_of(data).write(inputs["splits"] / SPLITS)
        (inputs["export"] / ENGINE).write_bytes(engine.read_bytes())
        EngineSpec().write(inputs["export"] / SPEC)
        PreprocessSettings(size_px=32).write(inputs["export"] / PREPROCESS)
        out = tmp_path / "stages" / f"out {len(list((tmp_path / 'stages').glob('*')))}"
        out.mkdir(parents=True)
        run_screen(
            StageContext(
                config=chosen or config(),
                data=whole_view(data, inputs["splits"]),
                workspace=tmp_path,
                store=store,
                out=out,
                inputs=inputs,
                key=key,
                run="run",
                now=lambda: NOW,
                progress=Silence(),
            )
        )
        files = {name: sha256_file(out / name) for name in (SCREEN, SELECT_OUTPUTS)}
        found = Screen.read(out / SCREEN)
        StageManifest(stage="screen", key=key, inputs={}, files=files, started_at="", finished_at="").write(
            out / MANIFEST
        )
        if not (tmp_path / "stages" / key).exists():
            out.rename(tmp_path / "stages" / key)
        return found

    return run


@pytest.fixture
def worse(tmp_path: Path, tiny_engine: Path) -> Path:
    return distracted(tiny_engine, tmp_path / "worse.onnx", 0.02)


LOOK = Screen(look=True)


def test_without_a_champion_there_is_nothing_to_beat(screened: Callable[..., Screen], tiny_engine: Path) -> None:
    assert screened(tiny_engine) == LOOK


def test_a_better_challenger_is_looked_at(
    screened: Callable[..., Screen], publish: Publish, tiny_engine: Path, worse: Path
) -> None:
    publish(worse)
    assert screened(tiny_engine) == LOOK


def test_a_worse_one_is_not_and_is_told_by_how_much(
    screened: Callable[..., Screen], publish: Publish, tiny_engine: Path, worse: Path
) -> None:
    champion = publish(tiny_engine)
    found = screened(worse)
    assert not found.look
    assert found.reason.startswith("val_calib was not looked at: on 200 rows of val_select the challenger could let 0.")
    assert f"and the champion {champion} 1.000" in found.reason


def test_after_an_alarm_it_need_not_let_more_exit_than_one_that_breaks_its_promise(
    screened: Callable[..., Screen], publish: Publish, tiny_engine: Path, worse: Path, store: Store
) -> None:
    champion = publish(tiny_engine)
    name = ScrcParams.read(store.path(champion) / "scrc_params.json").name
    store.revoke(RevocationEntry(certificate=name, bundle=champion, reason="misses", at=NOW))
    assert screened(worse) == LOOK
    found = screened(worse, config(calibrate_scrc__alpha=0.2), key="another")
    assert "promises less than the champion" in found.reason


def test_the_same_model_need_not_win(screened: Callable[..., Screen], publish: Publish, tiny_engine: Path) -> None:
    """It is compiled for another engine, certified anew, or the night is run again after it became current."""
    publish(tiny_engine)
    assert screened(tiny_engine) == LOOK


def test_a_champion_that_certifies_nothing_is_outdone_by_anything(
    screened: Callable[..., Screen], publish: Publish, tiny_engine: Path, worse: Path
) -> None:
    publish(tiny_engine, feasible=False)
    assert screened(worse) == LOOK


def test_rows_that_the_champion_trained_on_do_not_judge_it(
    screened: Callable[..., Screen], publish: Publish, data: Dataset, tiny_engine: Path, worse: Path
) -> None:
    publish(tiny_engine, splits=splits_of(data, other="train"))
    assert "on 100 rows of val_select" in screened(worse).reason


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"calibrate_scrc__alpha": 0.2}, "the bound is 20.0% instead of 5.0%"),
        ({"calibrate_scrc__unit": "row"}, "images count and not groups"),
        ({"calibrate_scrc__stream": "mixture"}, "stream is mixture of 33%"),
    ],
)
def test_a_weaker_promise_is_not_looked_at_unless_it_may_win(
    screened: Callable[..., Screen],
    publish: Publish,
    tiny_engine: Path,
    worse: Path,
    asked: dict[str, Any],
    why: str,
) -> None:
    publish(worse)
    found = screened(tiny_engine, config(**asked))
    assert why in found.reason
    assert "gate.accept_weaker_claim=true lets it replace that one" in found.reason
    assert screened(tiny_engine, config(**asked, gate__accept_weaker_claim=True), key="another") == LOOK


def test_a_bound_that_is_yet_to_be_found_is_no_weaker_promise(
    screened: Callable[..., Screen], publish: Publish, tiny_engine: Path, worse: Path
) -> None:
    """Only the look says whether it is lower than the champion's; the gate has the last word."""
    cover = {"mode": "coverage", "coverage": 0.6}
    publish(tiny_engine, **cover)
    asked = {f"calibrate_scrc__{name}": value for name, value in cover.items()}
    assert screened(worse, config(**asked)) == LOOK
    less = screened(worse, config(**asked | {"calibrate_scrc__coverage": 0.5}), key="another")
    assert "exit coverage is bounded by 0.5 instead of 0.6" in less.reason


def test_a_stronger_promise_is_looked_at_whatever_the_exits(
    screened: Callable[..., Screen], publish: Publish, tiny_engine: Path, worse: Path
) -> None:
    publish(tiny_engine)
    assert screened(worse, config(calibrate_scrc__alpha=0.02)) == LOOK


def test_what_the_engine_said_is_kept_for_the_next_time(
    screened: Callable[..., Screen], tiny_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may differ in the last bit, and would be another certification with a look of its own."""
    screened(tiny_engine)
    first = read_outputs(tmp_path / "stages" / "key" / SELECT_OUTPUTS)
    monkeypatch.setattr("offline.stages.screen.compiled_engine", lambda _context: pytest.fail("it ran again"))
    assert screened(tiny_engine) == LOOK
    latest = max((tmp_path / "stages").glob("out *"))
    assert np.array_equal(read_outputs(latest / SELECT_OUTPUTS).logits, first.logits)
