"""What a night publishes: the bundle as it was certified, and beside it what the gate said."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import pytest

from engines.store.file_names import CALIBRATOR, ENGINE, GOLDEN, METRICS, PAGE, PARAMS, PREPROCESS, SPEC, SPLITS
from engines.store.model_card import read_card, write_card
from engines.store.store import Store
from offline.config import load_config
from offline.data.dataset import Dataset
from offline.evaluation.evaluate import EvaluationSettings, evaluate
from offline.pipeline.progress import Silence
from offline.pipeline.run_files import BEST, PUBLICATION, REFERENCES, REPORT, THRESHOLDS
from offline.pipeline.stage import StageContext
from offline.publish.gate import Publication
from offline.report.page import render
from offline.splits.splits_file import SplitRow, Splits, SplitSet
from offline.stages.publish import BUNDLE_STAGES, run_publish
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.probability.calibrator import ProbabilityCalibrator
from tests.support.red_and_blue import red_and_blue
from tests.support.whole_view import whole_view

NOW = datetime(2026, 4, 1, tzinfo=UTC)
OF_STAGE = {
    "splits": (SPLITS,),
    "train_conformal_risk": (BEST,),
    "export": (ENGINE, SPEC, PREPROCESS),
    "calibrate_scrc": (PARAMS, CALIBRATOR, GOLDEN, REFERENCES, THRESHOLDS),
    "eval_selective": (METRICS, REPORT, PAGE),
}
Night = Callable[..., Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return red_and_blue(tmp_path_factory.mktemp("data"), 60, clear=True)


@pytest.fixture
def publish_stage(
    tmp_path: Path,
    store: Store,
    data: Dataset,
    write_onnx: Callable[..., Path],
    write_bundle_files: Callable[..., Path],
    certificate: Callable[..., ScrcParams],
    binormal: Callable[..., LabelledOutputs],
) -> Night:
    """Runs the stage on what earlier stages would have written; returns its directory."""

    def run(name: str, *, shift: float = 0.0, feasible: bool = True, note: str = "", **more: object) -> Path:
        engine = write_onnx(tmp_path / f"{name}.onnx", shift=shift)
        files = write_bundle_files(tmp_path / f"{name} files", engine=engine, golden_shift=shift, note=note or name)
        bound = ScrcParams.read(files / PARAMS).binding.model_dump(include={"engine_sha256", "preprocess_sha256"})
        params = certificate(**bound, feasible=feasible)
        params.write(files / PARAMS)
        settings = EvaluationSettings(repetitions=0)
        report = evaluate(binormal(600, seed=5, prefix="t"), params, ProbabilityCalibrator(), settings=settings)
        report.write(files / REPORT)
        (files / PAGE).write_text(render(report, params, title=note or name, data="Data."))
        for other in (BEST, SPEC, REFERENCES, THRESHOLDS):
            (files / other).write_text("{}\n")
        rows = tuple(SplitRow(row=row, group=row) for row in data.ids)
        sets: Any = {each: SplitSet(rows=(), groups=0, positives=0) for each in ("train", "val_select", "val_calib")}
        sets["test"] = SplitSet(rows=rows, groups=len(rows), positives=len(rows) // 2)
        Splits(seed=0, data_sha256=data.sha256, sets=sets, folds=()).write(files / SPLITS)
        inputs = {stage: tmp_path / name / stage for stage in BUNDLE_STAGES}
        for stage, names in OF_STAGE.items():
            inputs[stage].mkdir(parents=True)
            for each in names:
                (files / each).rename(inputs[stage] / each)
        out = tmp_path / name / "publish"
        out.mkdir()
        changes = {"calibrate_scrc.stream": "originals", "preprocess.size_px": 32, "gate.repetitions": 200}
        changes |= {key.replace("__", "."): value for key, value in more.items()}
        run_publish(
            StageContext(
                config=load_config("tiny", None, changes),
                data=whole_view(data, inputs["splits"]),
                workspace=tmp_path,
                store=store,
                out=out,
                inputs=inputs,
                key="key",
                run="run",
                now=lambda: NOW,
                progress=Silence(),
            )
        )
        return out

    return run


@pytest.mark.parametrize("outcome", ["PROMOTE", "KEEP", "REFUSE"])
def test_the_report_of_the_run_the_store_and_publish_json_say_the_same_of_a_verdict(
    publish_stage: Night, store: Store, outcome: str
) -> None:
    if outcome == "KEEP":
        publish_stage("champion")
    out = publish_stage("challenger", shift={"KEEP": 2.0, "REFUSE": -5.0}.get(outcome, 0.0))
    said = Publication.read(out / PUBLICATION)
    assert said.verdict == outcome
    assert bool(said.reasons) == (outcome != "PROMOTE")
    page = (out / PAGE).read_text()
    assert f'Gate: <span class="status {outcome}">{outcome}</span>' in page
    assert said.bundle in page
    assert "This night" in page
    assert "<td>Run</td><td>run</td>" in page
    assert "<td>Looks left</td>" in page
    assert all(escape(reason) in page for reason in said.reasons)
    last = store.last_verdict()
    assert last is not None
    assert (last.bundle, last.verdict, last.reasons) == (said.bundle, said.verdict, said.reasons)


def test_what_a_verdict_notes_is_in_the_report_and_in_the_store(publish_stage: Night, store: Store) -> None:
    out = publish_stage("challenger", feasible=False)
    (note,) = Publication.read(out / PUBLICATION).notes
    assert note.startswith("nothing is certified, so it defers every image: ")
    assert escape(note) in (out / PAGE).read_text()
    last = store.last_verdict()
    assert last is not None
    assert last.notes == (note,)


def test_the_page_in_the_bundle_is_the_one_that_was_written_before_it_was_judged(
    publish_stage: Night, store: Store, tmp_path: Path
) -> None:
    out = publish_stage("challenger")
    bundle = Publication.read(out / PUBLICATION).bundle
    store.verify(bundle)
    before = (tmp_path / "challenger" / "eval_selective" / PAGE).read_bytes()
    assert (store.path(bundle) / PAGE).read_bytes() == before
    assert (out / PAGE).read_bytes() != before


def test_what_judges_a_bundle_makes_no_new_one(publish_stage: Night, store: Store) -> None:
    first = Publication.read(publish_stage("one", note="same") / PUBLICATION).bundle
    other = publish_stage("two", note="same", gate__keep=3, model_card__name="another")
    assert Publication.read(other / PUBLICATION).bundle == first
    assert [row.manifest.bundle_id for row in store.bundles()] == [first]
    trained = publish_stage("three", note="same", train_supervised__epochs=9)
    assert Publication.read(trained / PUBLICATION).bundle != first


def test_a_model_card_lies_beside_the_bundle_and_keeps_its_time(publish_stage: Night, store: Store) -> None:
    bundle = Publication.read(publish_stage("champion") / PUBLICATION).bundle
    card = read_card(store.root, bundle)
    assert card is not None
    assert (card.version, card.submitted_by, card.submission_time) == ("1.0.1", None, int(NOW.timestamp()))
    assert store.verify(bundle).bundle_id == bundle
    write_card(store.root, bundle, card.model_copy(update={"submission_time": 7}))
    publish_stage("champion again", note="champion")
    assert read_card(store.root, bundle) == card.model_copy(update={"submission_time": 7})


def test_what_is_refused_has_no_card(publish_stage: Night, store: Store) -> None:
    said = Publication.read(publish_stage("challenger", shift=-5.0) / PUBLICATION)
    assert said.verdict == "REFUSE"
    assert read_card(store.root, said.bundle) is None
