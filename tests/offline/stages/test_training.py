"""The stages that learn, one after another, from a backbone with weights of its own."""

from __future__ import annotations

import csv
import html
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import DINOv3ViTModel

from engines.backends.onnxruntime import OnnxEngine
from engines.errors import BundleRefused
from engines.live.load.load_bundle import load_bundle
from engines.spec import EngineSpec
from engines.store.store import Store
from miner.cli.retrain.outcome import told
from offline.config import RunConfig, load_config
from offline.data.sources.scene_plan import plan_scene
from offline.data.sources.source import read_dataset
from offline.data.sources.synthetic_streets import draw_frame
from offline.errors import DatasetError, TrainingError
from offline.evaluation.evaluate import Report
from offline.evaluation.training_comparison import TrainingComparison
from offline.learning.predict import ImageSet
from offline.learning.self_distillation.judge import Judge
from offline.learning.self_distillation.record import AdaptationRecord
from offline.learning.supervised.record import TrainingRecord
from offline.night import recompile, stages, with_contents
from offline.pipeline.choice import Choice
from offline.pipeline.runner import Pipeline
from offline.publish.gate import Publication
from offline.report.training_section import with_comparison
from offline.splits.splits_file import Splits
from offline.stages.common.compiled_engine import DriftRecord
from stage1.certificate.params import ScrcParams
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.preprocess import PreprocessSettings
from stage1.probability.calibrator import ProbabilityCalibrator
from tests.support.backbones import write_dinov3
from tests.support.calibrators import head_probabilities

SCENES = 80


class Told:
    """Remembers what the pipeline told."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def stage(self, name: str, state: str) -> None:
        if state == "running":
            self.ran.append(name)

    def step(self, _done: int, _total: int, note: str = "") -> None:
        pass


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a column of its own, a backbone, and a directory of unlabelled images."""
    home = tmp_path_factory.mktemp("learning")
    (home / "data" / "images").mkdir(parents=True)
    (home / "more").mkdir()
    with (home / "data" / "labels.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["image", "label", "group", "travel_alteration"])
        for number in range(SCENES):
            scene = plan_scene(number, seed=1, difficulty=0.1)
            name = f"images/{number}.jpg"
            draw_frame(scene, 0).save(home / "data" / name, quality=85)
            kind = ("active", "planned")[number % 2] if scene.label else "none"
            writer.writerow([name, scene.label, number, "" if number % 7 == 0 else kind])
    for number in range(6):
        draw_frame(plan_scene(1000 + number, seed=2, difficulty=0.1), 0).save(home / "more" / f"{number}.jpg")
    for number in range(SCENES):
        draw_frame(plan_scene(number, seed=1, difficulty=0.1), 0).save(home / "more" / f"same{number}.jpg", quality=60)
    write_dinov3(home / "backbone")
    return home


def config(home: Path, **changes: object) -> RunConfig:
    common: dict[str, object] = {
        "preprocess.size_px": 64,
        "model.backbone": {"kind": "pretrained", "name": str(home / "backbone")},
        "model.adapter": "doran",
        "model.last_layers": 1,
        "model.rank": 4,
        "model.heads": {"alteration": {"column": "travel_alteration", "classes": ["none", "active", "planned"]}},
        "adapt_domain.enabled": True,
        "adapt_domain.images": [str(home / "more")],
        "adapt_domain.epochs": 1,
        "adapt_domain.rank": 4,
        "adapt_domain.head_steps": 0,
        "train_supervised.epochs": 2,
        "train_supervised.cache_views": 2,
        "train_conformal_risk.enabled": True,
        "train_conformal_risk.steps": 5,
        "compare_training.repetitions": 20,
        # So that a few pictures can certify something.
        "calibrate_scrc.alpha": 0.4,
        "calibrate_scrc.delta": 0.4,
        "gate.least_mcc": -1,
    }
    return load_config("tiny", None, common | {name.replace("__", "."): value for name, value in changes.items()})


def night(
    home: Path, chosen: RunConfig, workspace: str, *, last: str | None = None, data: str = "data", store: str = "store"
) -> tuple[Path, Told]:
    told = Told()
    now = lambda: datetime(2026, 1, 1, tzinfo=UTC)  # noqa: E731
    rows = with_contents(read_dataset(home / data), home / workspace)
    pipeline = Pipeline(stages(), home / workspace, Store(home / store), rows, chosen, now, told)
    return pipeline.run(Choice(only=last)), told


@pytest.fixture(scope="module")
def first(home: Path) -> Iterator[tuple[Path, Told]]:
    """A night whose adaptation is always judged to be better, so that there is an adapted backbone."""

    def judge(_kind: str, _fit: ImageSet, held: ImageSet) -> Judge:
        labels, asked = held.data.labels, iter(range(100))

        def scores(_net: Stage1Net) -> np.ndarray:
            # Wrong at first, and right ever more.
            sign = 1.0 if next(asked) else -1.0
            return sign * labels + 1e-6 * np.arange(len(labels))

        return Judge(scores, labels, held.data.groups)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offline.learning.self_distillation.judge.feature_judge", judge)
        yield night(home, config(home), "workspace")


def test_adaptation_sees_more_images_but_none_that_judges(first: tuple[Path, Told]) -> None:
    record = AdaptationRecord.read(first[0] / "adaptation.json")
    trained = len(Splits.read(first[0] / "splits.json").sets["train"].ids)
    # Of the copies only those of training rows are left, beside six new pictures.
    assert record.alike == SCENES - trained
    assert record.images == trained + 6 + trained
    assert record.before is not None
    assert (record.kept_epoch, record.kept_of, record.keep) == (1, "teacher", "proven")
    assert record.gain is not None
    assert record.gain.lower > 0


def test_the_report_says_what_became_of_the_adapted_backbone(first: tuple[Path, Told]) -> None:
    record = AdaptationRecord.read(first[0] / "adaptation.json")
    assert f"domain adaptation on {record.images} unlabelled images, 1 epochs" in record.verdict
    assert "the teacher of epoch 1 is kept" in record.verdict
    assert html.escape(record.verdict) in (first[0] / "report.html").read_text()


def test_the_adapted_backbone_is_another_one_and_goes_on_into_training(first: tuple[Path, Told], home: Path) -> None:
    start = DINOv3ViTModel.from_pretrained(home / "backbone").state_dict()
    adapted = load_file(first[0] / "backbone.safetensors")
    # The blocks below the supervised adapters, as they are in the end.
    trained = load_file(first[0] / "model_supervised.safetensors")
    name = "model.layer.0.attention.q_proj.weight"
    assert not torch.allclose(adapted[name], start[name], atol=1e-6)
    assert torch.equal(trained[f"backbone.{name}"], adapted[name])


def test_queries_train_with_the_adapter_and_conformal_training_leaves_them_alone(
    first: tuple[Path, Told], home: Path
) -> None:
    start = build(config(home).model, shape=(64, 64), seed=0).state_dict()["pool.queries"]
    supervised = load_file(first[0] / "model_supervised.safetensors")["pool.queries"]
    assert not torch.allclose(supervised, start, atol=1e-3)
    assert torch.equal(load_file(first[0] / "model_best.safetensors")["pool.queries"], supervised)


def test_the_report_shows_where_the_network_looked(first: tuple[Path, Told]) -> None:
    report, page = Report.read(first[0] / "report.json"), (first[0] / "report.html").read_text()
    assert report.mistakes
    assert page.count("half of the attention on") == len(report.mistakes)


def test_training_starts_behind_the_frozen_blocks_of_the_adapted_backbone(first: tuple[Path, Told]) -> None:
    record = TrainingRecord.read(first[0] / "training.json")
    assert record.cached
    assert record.inputs == "2 of 3 blocks frozen, 2 views kept of each image"
    assert record.adapter == "doran"
    assert 0 < record.trained_parameters < record.all_parameters


def test_the_report_says_what_each_step_gained(first: tuple[Path, Told]) -> None:
    found = TrainingComparison.read(first[0] / "comparison.json")
    assert [variant.name for variant in found.variants] == [
        "baseline",
        "unadapted",
        "supervised",
        "cross_entropy",
        "final",
    ]
    assert [gain.over for gain in found.gains] == ["baseline", "unadapted", "supervised", "cross_entropy"]
    # A night takes the comparison into the page that it has published.
    page = with_comparison((first[0] / "report.html").read_text(), found)
    assert "without domain adaptation" in page
    assert "the same steps by cross-entropy" in page


def test_a_named_head_is_in_the_engine_and_has_its_own_calibrator(first: tuple[Path, Told], home: Path) -> None:
    engine = OnnxEngine(first[0] / "model.onnx", threads=1)
    data = read_dataset(home / "data")
    rows = data.pick(data.ids[:5]).array(PreprocessSettings.read(first[0] / "preprocess.json"))
    outputs = engine.infer(rows)
    assert outputs.heads["alteration"].shape == (5, 3)
    calibrator = ProbabilityCalibrator.read(first[0] / "calibrator.json")
    shares = head_probabilities(calibrator, "alteration", outputs.heads["alteration"])
    assert shares.shape == (5, 3)
    assert shares.sum(1) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "spec", [EngineSpec(precision="int8"), EngineSpec(backend="openvino")], ids=["onnxruntime int8", "openvino fp32"]
)
def test_for_another_engine_nothing_is_trained_again_and_its_own_numbers_are_certified(
    first: tuple[Path, Told], home: Path, spec: EngineSpec
) -> None:
    if spec.backend == "openvino" and find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    chosen = config(home, engine__backend=spec.backend, engine__precision=spec.precision)
    run, told = night(home, chosen, "workspace")
    assert told.ran == ["export", "screen", "calibrate_scrc", "eval_selective", "publish"]
    before, params = (ScrcParams.read(each / "scrc_params.json") for each in (first[0], run))
    assert params.prior_uses > before.prior_uses
    assert params.binding.engine_sha256 != before.binding.engine_sha256
    drift = DriftRecord.read(run / "drift.json")
    assert (drift.engine, drift.rows > 0) == (str(spec), True)
    assert (drift.largest > 1e-3) == (spec.precision == "int8")
    assert 0.98 < drift.correlation <= 1.0
    store = Store(home / "store")
    served = load_bundle(store.path(Publication.read(run / "publish.json").bundle), threads=1)
    assert served.engine.describe().spec == spec
    served.close()


def test_a_bundle_may_be_served_by_an_engine_that_decides_the_same_and_by_no_other(
    first: tuple[Path, Told], home: Path
) -> None:
    bundle = Store(home / "store").path(Publication.read(first[0] / "publish.json").bundle)
    with pytest.raises(BundleRefused, match=r"model\.int8\.onnx"):
        load_bundle(bundle, spec=EngineSpec(precision="int8"), threads=1)
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    served = load_bundle(bundle, spec=EngineSpec(backend="openvino"), threads=1)
    assert served.engine.describe().runtime.startswith("openvino")
    served.close()


def test_a_bundle_can_be_compiled_anew_and_made_current_whatever_the_gate_says(
    first: tuple[Path, Told], home: Path, tmp_path: Path
) -> None:
    store, bundle = Store(home / "store"), Publication.read(first[0] / "publish.json").bundle
    before = store.current()
    assert before is not None
    store.activate(bundle, now=datetime.now(UTC))
    # Other tests count on what has not been compiled yet.
    shutil.copytree(home / "workspace", tmp_path / "workspace", symlinks=True)
    try:
        outcome = recompile(
            bundle,
            EngineSpec(precision="int8"),
            data=home / "data",
            workspace=tmp_path / "workspace",
            store=home / "store",
            activate=True,
        )
        assert outcome.current
        assert outcome.publication is not None
        said = told(outcome)
        assert "is current now" in said
        after = store.current()
        assert after is not None
        assert after.bundle == outcome.publication.bundle
        assert after.bundle in said
        assert EngineSpec.read(store.path(after.bundle) / "spec.json") == EngineSpec(precision="int8")
    finally:
        store.activate(before.bundle, now=datetime.now(UTC))


def first_loss(run: Path) -> float:
    with (run / "training.csv").open() as handle:
        return float(next(csv.DictReader(handle))["train_loss"])


def test_a_second_night_can_start_from_the_adapter_of_the_first(first: tuple[Path, Told], home: Path) -> None:
    chosen = config(home, train_supervised__warm_start=str(first[0]), train_supervised__epochs=1)
    cold = config(home, train_supervised__epochs=1)
    warm, told = night(home, chosen, "workspace", last="train_supervised")
    assert not {"splits", "adapt_domain"} & set(told.ran)
    assert first_loss(warm) < first_loss(night(home, cold, "workspace", last="train_supervised")[0])


def test_no_night_starts_from_an_adapter_that_saw_its_exam_under_other_names(home: Path) -> None:
    plain = {"adapt_domain__enabled": False, "train_supervised__epochs": 1}
    trained, _ = night(home, config(home, **plain), "workspace", last="train_supervised")
    shutil.copytree(home / "data" / "images", home / "renamed" / "pictures")
    labels = (home / "data" / "labels.csv").read_text()
    (home / "renamed" / "labels.csv").write_text(labels.replace("images/", "pictures/"))
    # Neither ledger nor store know these rows.
    chosen = config(home, **plain, splits__seed=1, train_supervised__warm_start=str(trained))
    with pytest.raises(TrainingError, match=r"trained on \d+ rows that judge here, for example 'pictures/"):
        night(home, chosen, "elsewhere", last="train_supervised", data="renamed", store="empty")


@pytest.mark.usefixtures("first")
def test_another_head_does_not_adapt_the_domain_again(home: Path) -> None:
    _, told = night(home, config(home, model__head_hidden=16), "workspace", last="train_supervised")
    assert "adapt_domain" not in told.ran
    assert "train_supervised" in told.ran


def test_a_value_that_no_head_knows_stops_before_anything_is_trained(home: Path) -> None:
    heads = {"alteration": {"column": "travel_alteration", "classes": ["none", "active"]}}
    with pytest.raises(DatasetError, match="has travel_alteration 'planned'"):
        night(home, config(home, model__heads=heads), "other")
    assert not list((home / "other" / "stages").glob("adapt_domain/*"))
