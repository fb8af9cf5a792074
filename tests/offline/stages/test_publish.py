"""What a night publishes: the bundle as it was certified, and beside it what the gate said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import offline.stages.publish
from engines.store.file_names import CALIBRATOR, ENGINE, GOLDEN, METRICS, PAGE, PARAMS, PREPROCESS, SPEC, SPLITS
from engines.store.model_card import read_card, write_card
from engines.store.records import RevocationEntry
from engines.store.store import Store
from offline.certify.calibration_record import write_record
from offline.config import load_config
from offline.data.dataset import Dataset
from offline.data.engine_outputs import labelled
from offline.data.place_and_time import taken_at
from offline.errors import PipelineBusy
from offline.evaluation.evaluate import EvaluationSettings, evaluate
from offline.pipeline.progress import Silence
from offline.pipeline.run_files import BEST, PUBLICATION, REFERENCES, REPORT, THRESHOLDS
from offline.pipeline.stage import StageContext
from offline.publish.gate import Bench, Publication, settled
from offline.publish.settlement import RECORD, Holder
from offline.report.page import render
from offline.splits.settings import Split
from offline.splits.splits_file import SplitRow, Splits, SplitSet
from offline.stages.publish import BUNDLE_STAGES, reads, run_publish
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.outputs import Stage1Outputs
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

    def run(
        name: str,
        *,
        shift: float = 0.0,
        feasible: bool = True,
        note: str = "",
        rows: Dataset = data,
        fold: Sequence[str] = (),
        **more: object,
    ) -> Path:
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
        sets: Any = {each: SplitSet(rows=(), groups=0, positives=0) for each in ("train", "val_select")}
        for each, members in (("val_calib", fold), ("test", [row for row in rows.ids if row not in fold])):
            known = tuple(SplitRow(row=row, group=row) for row in members)
            sets[each] = SplitSet(rows=known, groups=len(known), positives=len(known) // 2)
        Splits(seed=0, data_sha256=rows.sha256, sets=sets, folds=()).write(files / SPLITS)
        inputs = {stage: tmp_path / name / stage for stage in BUNDLE_STAGES}
        for stage, names in OF_STAGE.items():
            inputs[stage].mkdir(parents=True)
            for each in names:
                (files / each).rename(inputs[stage] / each)
        if fold:
            sure = surely_right(rows.pick(list(fold)))
            recorded = {"val_select": sure, "val_calib": sure}
            write_record(inputs["calibrate_scrc"], recorded, key="key", about=(), calib_share=0.5)
        out = tmp_path / name / "publish"
        out.mkdir()
        changes = {"calibrate_scrc.stream": "originals", "preprocess.size_px": 32, "gate.repetitions": 200}
        changes |= {key.replace("__", "."): value for key, value in more.items()}
        run_publish(
            StageContext(
                config=load_config("tiny", None, changes),
                data=whole_view(rows, inputs["splits"]),
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


def surely_right(rows: Dataset) -> LabelledOutputs:
    """What an engine says that is sure of every row, and right."""
    score = np.where(rows.labels == 1, 6.0, -6.0).astype(np.float32)
    return labelled(rows, Stage1Outputs(np.stack([-score, score], axis=1), np.abs(score)))


def taken(rows: Dataset, at: datetime) -> Dataset:
    """The rows, taken at some time."""
    when = {"captured_at": at.isoformat()}
    return replace(rows, rows=tuple(row.model_copy(update={"metadata": row.metadata | when}) for row in rows.rows))


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


def test_the_stage_sees_when_rows_that_certify_and_report_were_taken_and_of_others_nothing(tmp_path: Path) -> None:
    data = taken(red_and_blue(tmp_path, 4, clear=True), NOW)
    names: tuple[Split, ...] = ("train", "val_select", "val_calib", "test")
    each = [SplitRow(row=row, group=row) for row in data.ids]
    sets = {name: SplitSet(rows=(row,), groups=1, positives=0) for name, row in zip(names, each, strict=True)}
    Splits(seed=0, data_sha256=data.sha256, sets=sets, folds=()).write(tmp_path / SPLITS)
    seen = reads(load_config("tiny")).rows(data, {"splits": tmp_path})
    assert [taken_at(seen.by_id[row]) for row in data.ids[2:]] == [NOW.timestamp()] * 2
    assert not any(seen.by_id[row].metadata for row in data.ids[:2])


def test_after_an_alarm_a_new_certificate_is_live_when_rows_that_came_since_confirm_it(
    publish_stage: Night, store: Store, tmp_path: Path
) -> None:
    alarm = NOW - timedelta(days=7)
    old = Publication.read(publish_stage("champion") / PUBLICATION).bundle
    revoked = ScrcParams.read(store.path(old) / PARAMS).name
    store.revoke(RevocationEntry(certificate=revoked, bundle=old, reason="misses", at=alarm))
    (tmp_path / "streets").mkdir()
    streets = red_and_blue(tmp_path / "streets", 160, clear=True)
    said = {}
    for days in (-1, 1):
        night = taken(streets, alarm + timedelta(days=days))
        out = publish_stage(f"{days}", shift=0.01, rows=night, fold=streets.ids[60:])
        said[days] = Publication.read(out / PUBLICATION)
        pointer = store.current()
        assert pointer is not None
        assert pointer.bundle == (old if days < 0 else said[days].bundle)
    assert (said[-1].verdict, said[1].verdict) == ("KEEP", "PROMOTE")
    assert "none of the 100 rows that certified it was taken since" in said[-1].reasons[0]
    assert [found.rows for found in said[1].compared] == [60]


def test_the_store_is_settled_by_this_night_alone_while_it_judges(
    publish_stage: Night, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: list[str] = []

    def watched(bench: Bench, challenger: Path, check: Callable[[], None]) -> Publication:
        owners.append(Holder.read(store.root / RECORD).owner)
        return settled(bench, challenger, check)

    monkeypatch.setattr(offline.stages.publish, "settled", watched)
    publish_stage("challenger")
    assert owners == [str(tmp_path)]
    assert not (store.root / RECORD).exists()


def test_a_night_that_was_silent_too_long_moves_no_pointer(
    publish_stage: Night, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def robbed(bench: Bench, challenger: Path, check: Callable[[], None]) -> Publication:
        record = Holder.read(store.root / RECORD)
        record.model_copy(update={"token": "of another night"}).write(store.root / RECORD)
        return settled(bench, challenger, check)

    monkeypatch.setattr(offline.stages.publish, "settled", robbed)
    with pytest.raises(PipelineBusy, match="was silent for too long"):
        publish_stage("challenger")
    assert store.current() is None
