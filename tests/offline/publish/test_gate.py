"""The gate: when a challenger may replace the champion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import offline.publish.gate
from engines.errors import ParityError, Unavailable
from engines.live.load.load_bundle import LiveBundle, load_bundle
from engines.spec import EngineSpec
from engines.store.bundle import Provenance
from engines.store.store import Store
from offline.data.dataset import Dataset, Row
from offline.evaluation.evaluate import Estimate, EvaluationSettings, Report, evaluate
from offline.publish.gate import assemble, compare, judge_champion
from offline.publish.settings import GateSettings
from offline.splits.splits_file import SplitRow, Splits, SplitSet
from offline.stream.sender import StreamSender
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.preprocess import PreprocessSettings
from stage1.probability.calibrator import ProbabilityCalibrator

GATE = GateSettings(coverage_margin=0.05, accuracy_margin=0.03)


@pytest.fixture(scope="module")
def judged(
    binormal: Callable[..., LabelledOutputs], certificate: Callable[..., ScrcParams]
) -> Callable[..., tuple[ScrcParams, Report]]:
    """A policy with its report on the same test rows."""

    def judge(*, feasible: bool = True, coverage: float | None = None, accuracy: float | None = None) -> tuple:
        params = certificate(feasible=feasible)
        report = evaluate(
            binormal(600, seed=5, prefix="test/"),
            params,
            ProbabilityCalibrator(),
            settings=EvaluationSettings(repetitions=0),
        )
        if coverage is not None:
            scrc, *others = report.policies
            rate = scrc.exit_coverage.model_copy(update={"events": round(coverage * scrc.exit_coverage.trials)})
            report = report.model_copy(update={"policies": (scrc.model_copy(update={"exit_coverage": rate}), *others)})
        if accuracy is not None:
            report = report.model_copy(update={"alone": report.alone | {"accuracy": Estimate(value=accuracy)}})
        return params, report

    return judge


def test_an_equal_challenger_passes(judged: Callable[..., tuple[ScrcParams, Report]]) -> None:
    assert compare(judged(), judged(), GATE) == []


def test_an_infeasible_challenger_never_replaces_a_certified_champion(
    judged: Callable[..., tuple[ScrcParams, Report]],
) -> None:
    reasons = compare(judged(feasible=False, coverage=1.0, accuracy=1.0), judged(), GATE)
    assert any("INFEASIBLE" in reason for reason in reasons)


def test_a_certified_challenger_replaces_an_infeasible_champion(
    judged: Callable[..., tuple[ScrcParams, Report]],
) -> None:
    assert compare(judged(), judged(feasible=False), GATE) == []


@pytest.mark.parametrize(("coverage", "passes"), [(0.56, True), (0.54, False), (0.9, True)])
def test_exit_coverage_may_fall_by_the_margin_and_no_more(
    judged: Callable[..., tuple[ScrcParams, Report]], coverage: float, passes: bool
) -> None:
    reasons = compare(judged(coverage=coverage), judged(coverage=0.6), GATE)
    assert (not reasons) == passes
    assert passes or "exit coverage falls" in reasons[0]


@pytest.mark.parametrize(("accuracy", "passes"), [(0.88, True), (0.86, False)])
def test_accuracy_may_fall_by_the_margin_and_no_more(
    judged: Callable[..., tuple[ScrcParams, Report]], accuracy: float, passes: bool
) -> None:
    assert (not compare(judged(accuracy=accuracy), judged(accuracy=0.9), GATE)) == passes


NOW = datetime(2026, 1, 1, tzinfo=UTC)
Publish = Callable[..., Path]


class Silent:
    def stage(self, name: str, state: str) -> None:
        pass

    def step(self, done: int, total: int, note: str = "") -> None:
        pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Forty plain pictures, red ones with roadwork: the tiny engine is always right about them."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        label = number % 2
        red, blue = (200, 20) if label else (20, 200)
        colour = (red, int(rng.integers(100, 256)), blue)
        Image.new("RGB", (32, 32), colour).save(root / f"{number}.png")
        rows.append(Row(image=f"{number}.png", label=label, group=str(number)))
    return Dataset(root, tuple(rows))


@pytest.fixture
def publish(
    tmp_path: Path,
    store: Store,
    write_onnx: Callable[..., Path],
    write_bundle_files: Callable[..., Path],
    provenance: Provenance,
) -> Publish:
    """Publishes a bundle whose model was trained on these rows and is `shift` too fond of roadwork."""

    def publish_one(name: str, *, trained_on: Sequence[str] = (), shift: float = 0.0) -> Path:
        engine = write_onnx(tmp_path / f"{name}.onnx", shift=shift)
        files = write_bundle_files(tmp_path / name, engine=engine, golden_shift=shift, note=name)
        nothing = SplitSet(rows=(), groups=0, positives=0)
        train = SplitSet(
            rows=tuple(SplitRow(row=row, group=row) for row in trained_on), groups=len(trained_on), positives=0
        )
        sets: Any = {"train": train, "val_select": nothing, "val_calib": nothing, "test": nothing}
        Splits(seed=0, data_sha256="d", sets=sets, folds=()).write(files / "splits.json")
        return store.path(store.publish(files, provenance))

    return publish_one


def judge(store: Store, challenger: Path, data: Dataset) -> tuple[str | None, list[str], int]:
    return judge_champion(store, challenger, data, GATE, Silent())


def test_without_a_champion_there_is_nothing_to_lose_to(store: Store, publish: Publish, data: Dataset) -> None:
    assert judge(store, publish("new"), data) == (None, [], 0)


def test_a_champion_does_not_compete_with_itself(store: Store, publish: Publish, data: Dataset) -> None:
    same = publish("same")
    store.activate(same.name, now=NOW)
    assert judge(store, same, data) == (None, [], 0)


def test_an_equally_good_challenger_wins_on_all_test_rows(store: Store, publish: Publish, data: Dataset) -> None:
    old, new = publish("old"), publish("new", shift=0.01)
    store.activate(old.name, now=NOW)
    assert judge(store, new, data) == (old.name, [], 40)


def test_a_worse_challenger_is_told_why(store: Store, publish: Publish, data: Dataset) -> None:
    old, new = publish("old"), publish("new", shift=30.0)
    store.activate(old.name, now=NOW)
    champion, reasons, rows = judge(store, new, data)
    assert (champion, rows) == (old.name, 40)
    assert any("accuracy falls from 1.000 to 0.500" in reason for reason in reasons)


def test_rows_that_the_champion_was_trained_on_are_left_out(store: Store, publish: Publish, data: Dataset) -> None:
    old, new = publish("old", trained_on=data.ids[:30]), publish("new", shift=0.01)
    store.activate(old.name, now=NOW)
    assert judge(store, new, data) == (old.name, [], 10)


def test_both_are_judged_on_the_same_pictures_as_they_were_sent(store: Store, publish: Publish, data: Dataset) -> None:
    sent: dict[str, list[bytes]] = {}

    def sending(name: str, content: bytes, settings: PreprocessSettings) -> bytes:
        sent.setdefault(name, []).append(StreamSender("mixture")(name, content, settings))
        return sent[name][-1]

    old, new = publish("old"), publish("new", shift=0.01)
    store.activate(old.name, now=NOW)
    assert judge(store, new, data.sent_by(sending)) == (old.name, [], 40)
    assert set(sent) == set(data.ids)
    assert all(len(pictures) == 2 and len(set(pictures)) == 1 for pictures in sent.values())


@pytest.mark.parametrize("kept", [0, 1])
def test_without_rows_of_both_classes_the_champion_stays(
    store: Store, publish: Publish, data: Dataset, kept: int
) -> None:
    old, new = publish("old", trained_on=data.ids[kept:]), publish("new", shift=0.01)
    store.activate(old.name, now=NOW)
    assert judge(store, new, data) == (
        old.name,
        ["no test rows of both classes that the champion has not seen"],
        kept,
    )


@pytest.mark.parametrize("damage", ["model.onnx", "splits.json", "scrc_params.json", "all"])
def test_a_champion_that_cannot_be_loaded_has_nothing_to_defend(
    store: Store, publish: Publish, data: Dataset, damage: str
) -> None:
    """A miner could not start with it; without a new champion every later night would fail as well."""
    old, new = publish("old"), publish("new", shift=0.01)
    store.activate(old.name, now=NOW)
    if damage == "all":
        old.rename(store.root / "gone")
    else:
        (old / damage).write_bytes(b"{")
    assert judge(store, new, data) == (old.name, [], 0)


def test_a_bundle_is_assembled_from_the_stages_that_have_its_files(tmp_path: Path) -> None:
    for stage, names in (("one", "ab"), ("two", "bc")):
        (tmp_path / stage).mkdir()
        for name in names:
            (tmp_path / stage / name).write_text(f"{name} of {stage}")
    assemble([tmp_path / "one", tmp_path / "two"], ["a", "b", "c"], tmp_path / "out")
    found = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert found == {"a": "a of one", "b": "b of one", "c": "c of two"}


def test_a_champion_that_does_not_fit_at_the_moment_stays(
    store: Store, publish: Publish, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wrong with it, so a challenger that nobody compared must not take its place."""
    old, new = publish("old"), publish("new", shift=30.0)
    store.activate(old.name, now=NOW)

    def load(path: Path, spec: EngineSpec | None = None) -> LiveBundle:
        if path == old:
            raise Unavailable("loading it takes about 9,000 MiB, and 1 MiB are left")
        return load_bundle(path, spec=spec)

    monkeypatch.setattr(offline.publish.gate, "load_bundle", load)
    champion, reasons, rows = judge(store, new, data)
    assert (champion, rows) == (old.name, 0)
    assert reasons == ["the champion cannot be loaded here: loading it takes about 9,000 MiB, and 1 MiB are left"]


@pytest.mark.parametrize("agrees", [True, False])
def test_a_champion_for_another_machine_is_compared_by_its_graph(
    store: Store, publish: Publish, data: Dataset, monkeypatch: pytest.MonkeyPatch, *, agrees: bool
) -> None:
    """Where ONNX Runtime decides as its own engine did; else no challenger could ever replace it."""
    old, new = publish("old"), publish("new", shift=30.0)
    store.activate(old.name, now=NOW)

    def load(path: Path, spec: EngineSpec | None = None) -> LiveBundle:
        if path == old and spec is None:
            raise Unavailable("engine.plan must be built anew for this machine")
        if path == old and not agrees:
            raise ParityError("outputs differ from the golden ones by 0.3")
        return load_bundle(path, spec=spec)

    monkeypatch.setattr(offline.publish.gate, "load_bundle", load)
    champion, reasons, rows = judge(store, new, data)
    assert champion == old.name
    if agrees:
        assert rows > 0
        assert all("cannot be loaded" not in reason for reason in reasons)
    else:
        assert reasons == ["the champion cannot be loaded here: engine.plan must be built anew for this machine"]
