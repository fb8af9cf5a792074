"""The gate: when a challenger takes the place of the champion, is kept beside it, or is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import offline.publish.champion
import offline.publish.gate
from engines.errors import BundleRefused, ParityError, Unavailable
from engines.live.load.load_bundle import LiveBundle, load_bundle
from engines.spec import EngineSpec
from engines.store.bundle import Provenance
from engines.store.records import REVOKED, RevocationEntry
from engines.store.store import Store
from offline.data.dataset import Dataset, Row
from offline.data.engine_outputs import run_engine
from offline.evaluation.evaluate import EvaluationSettings, Report, evaluate
from offline.pipeline.progress import Silence
from offline.publish.bars import median_latency_ms
from offline.publish.gate import Bench, Publication, judge, put_in_place, settled
from offline.publish.settings import GateSettings
from offline.splits.splits_file import SplitRow, Splits, SplitSet
from offline.stages.publish import files_of
from offline.stream.sender import StreamSender
from stage1.artifacts import sha256_file
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.preprocess import PreprocessSettings
from stage1.probability.calibrator import ProbabilityCalibrator
from tests.support.red_and_blue import red_and_blue

GATE = GateSettings(repetitions=200)
NOW = datetime(2026, 4, 1, tzinfo=UTC)
C: dict[str, Any] = {"algorithm": "C", "gates": 1}
COVER: dict[str, Any] = {"mode": "coverage"}
Publish = Callable[..., Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """An engine without a shift is right about all of them."""
    return red_and_blue(tmp_path_factory.mktemp("data"), 160, clear=True)


@pytest.fixture(scope="module")
def report(binormal: Callable[..., LabelledOutputs], certificate: Callable[..., ScrcParams]) -> Report:
    settings = EvaluationSettings(repetitions=0)
    return evaluate(binormal(600, seed=5, prefix="t"), certificate(), ProbabilityCalibrator(), settings=settings)


@pytest.fixture
def publish(
    tmp_path: Path,
    store: Store,
    write_onnx: Callable[..., Path],
    write_bundle_files: Callable[..., Path],
    certificate: Callable[..., ScrcParams],
    provenance: Provenance,
    report: Report,
) -> Publish:
    """Publishes a bundle of these train rows; the model is `shift` too fond of roadwork, the report says `exits`."""

    def publish_one(
        name: str,
        *,
        trained_on: Sequence[str] = (),
        shift: float = 0.0,
        exits: float | None = None,
        live: datetime | None = None,
        **asked: Any,
    ) -> Path:
        engine = write_onnx(tmp_path / f"{name}.onnx", shift=shift)
        preprocess = PreprocessSettings(size_px=32)
        params = certificate(engine_sha256=sha256_file(engine), preprocess_sha256=preprocess.sha256, **asked)
        files = write_bundle_files(tmp_path / name, engine=engine, params=params, golden_shift=shift, note=name)
        nothing = SplitSet(rows=(), groups=0, positives=0)
        train = SplitSet(
            rows=tuple(SplitRow(row=row, group=row) for row in trained_on), groups=len(trained_on), positives=0
        )
        sets: Any = {"train": train, "val_select": nothing, "val_calib": nothing, "test": nothing}
        Splits(seed=0, data_sha256="d", sets=sets, folds=()).write(files / "splits.json")
        if exits is not None:
            policy, *others = report.policies
            rate = policy.exit_coverage.model_copy(update={"events": round(exits * policy.exit_coverage.trials)})
            policies = (policy.model_copy(update={"exit_coverage": rate}), *others)
            report.model_copy(update={"policies": policies}).write(files / "report.json")
        path = store.path(store.publish(files, provenance))
        if live is not None:
            store.activate(path.name, now=live)
        return path

    return publish_one


def judged(store: Store, challenger: Path, data: Dataset, **settings: Any) -> Publication:
    chosen = GateSettings.model_validate(GATE.model_dump() | settings)
    return judge(Bench(store, data, {}, chosen, Silence(), NOW), challenger)


class TestPromotion:
    def test_the_first_bundle_that_reaches_the_bars_has_nobody_to_beat(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        verdict = judged(store, publish("new"), data)
        assert (verdict.verdict, verdict.champion, verdict.test_rows) == ("PROMOTE", None, 160)
        assert verdict.mcc == 1.0
        assert verdict.reward == pytest.approx(1.0, abs=0.05)
        assert verdict.latency_ms is not None
        assert verdict.compared == ()

    def test_an_equal_challenger_takes_over_and_what_was_compared_is_kept(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        old, new = publish("old", live=NOW), publish("new", shift=0.01)
        verdict = judged(store, new, data)
        assert (verdict.verdict, verdict.champion, verdict.reasons) == ("PROMOTE", old.name, ())
        (found,) = verdict.compared
        assert (found.against, found.rows, found.groups, found.like) == (old.name, 160, 160, True)
        assert {loss.of for loss in found.losses} >= {"accuracy", "exit coverage", "accuracy where city is a"}

    def test_both_are_judged_on_the_same_pictures_as_they_were_sent(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        sent: dict[str, list[bytes]] = {}

        def sending(name: str, content: bytes, settings: PreprocessSettings) -> bytes:
            sent.setdefault(name, []).append(StreamSender("mixture")(name, content, settings))
            return sent[name][-1]

        publish("old", live=NOW)
        (found,) = judged(store, publish("new", shift=0.01), data.sent_by(sending)).compared
        assert found.rows == 160
        assert set(sent) == set(data.ids)
        assert all(len(pictures) == 2 and len(set(pictures)) == 1 for pictures in sent.values())

    def test_a_champion_does_not_compete_with_itself(self, store: Store, publish: Publish, data: Dataset) -> None:
        same = publish("same", live=NOW)
        assert judged(store, same, data) == Publication(
            bundle=same.name, champion=same.name, verdict="PROMOTE", test_rows=160
        )

    def test_rows_that_the_champion_was_trained_on_are_left_out(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        publish("old", trained_on=data.ids[:100], live=NOW)
        (found,) = judged(store, publish("new", shift=0.01), data).compared
        assert found.rows == 60

    def test_a_champion_of_the_program_before_says_what_it_was_trained_on(
        self, store: Store, publish: Publish, data: Dataset, tmp_path: Path, provenance: Provenance
    ) -> None:
        old, new = publish("old", trained_on=data.ids[:100]), publish("new", shift=0.01)
        shutil.copytree(old, tmp_path / "files", ignore=shutil.ignore_patterns("manifest.json"))
        tree = json.loads((old / "splits.json").read_text())
        # As version 2 was written: without anything that a row has had since.
        for described in tree["sets"].values():
            described["rows"] = [{key: row[key] for key in ("row", "group", "phash")} for row in described["rows"]]
        before = {key: tree[key] for key in ("seed", "data_sha256", "sets", "folds")} | {"schema_version": 2}
        (tmp_path / "files" / "splits.json").write_text(json.dumps(before))
        store.activate(store.publish(tmp_path / "files", provenance), now=NOW)
        (found,) = judged(store, new, data).compared
        assert found.rows == 60

    def test_a_certified_challenger_replaces_one_that_certifies_nothing(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        publish("old", feasible=False, live=NOW)
        assert judged(store, publish("new", shift=0.01), data).verdict == "PROMOTE"

    def test_one_that_certifies_nothing_becomes_live_where_nothing_certified_is_and_says_so(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        for live in (None, NOW):
            verdict = judged(store, publish(f"new {live}", feasible=False, live=live), data)
            if live is None:
                assert verdict.verdict == "PROMOTE"
                assert "nothing is certified, so it defers every image" in verdict.notes[0]


class TestKept:
    def test_a_worse_challenger_is_told_why(self, store: Store, publish: Publish, data: Dataset) -> None:
        publish("old", live=NOW)
        verdict = judged(store, publish("new", shift=2.0), data)
        assert verdict.verdict == "KEEP"
        assert any("accuracy on 160 test rows differs by -0." in reason for reason in verdict.reasons)

    def test_one_that_certifies_nothing_never_replaces_a_certified_champion(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        publish("old", shift=2.0, live=NOW)
        verdict = judged(store, publish("new", feasible=False), data)
        assert verdict.verdict == "KEEP"
        assert verdict.reasons[0].startswith("the champion is certified, the challenger is not: val_calib has")

    @pytest.mark.parametrize("kept", [0, 1])
    def test_without_rows_of_both_classes_the_champion_stays(
        self, store: Store, publish: Publish, data: Dataset, kept: int
    ) -> None:
        publish("old", trained_on=data.ids[kept:], live=NOW)
        verdict = judged(store, publish("new", shift=0.01), data)
        assert verdict.verdict == "KEEP"
        assert "has seen all test rows of a class" in verdict.reasons[0]

    def test_few_test_rows_do_not_prove_that_it_is_as_good(self, store: Store, publish: Publish, data: Dataset) -> None:
        """One error more on twenty rows may be luck, and may be one in ten."""
        publish("old", live=NOW)

        def blue(row: Row) -> int:
            with Image.open(data.root / row.image) as image:
                red, _, blue = np.asarray(image)[0, 0].tolist()
            return int(blue - red)

        wrong = min((row for row in data.rows if row.label == 0), key=blue)
        few = data.pick(list(dict.fromkeys([wrong.image, *data.ids[:20]]))[:20])
        verdict = judged(store, publish("new", shift=0.04 * blue(wrong) + 0.1), few)
        assert verdict.verdict == "KEEP"
        assert "is not ruled out" in verdict.reasons[0]

    def test_a_rolled_back_bundle_stays_rolled_back(self, store: Store, publish: Publish, data: Dataset) -> None:
        old, new = publish("old", live=NOW), publish("new", shift=0.01)
        store.activate(new.name, now=NOW)
        store.rollback(now=NOW)
        verdict = judged(store, new, data)
        assert verdict.verdict == "KEEP"
        assert "it was rolled back at 2026-04-01" in verdict.reasons[0]
        assert (store.current() or verdict).bundle == old.name


class TestBroken:
    """A champion whose promise the test rows speak against."""

    def test_keeps_nobody_out_by_its_exits(self, store: Store, publish: Publish, data: Dataset) -> None:
        old = publish("old", shift=-2.5, live=NOW)
        verdict = judged(store, publish("new", shift=0.01), data, coverage_margin=0.0)
        assert verdict.verdict == "PROMOTE", verdict.reasons
        assert not verdict.compared[0].like
        assert verdict.notes[0].startswith(f"exits are not compared with those of {old.name}: D")
        assert "on the test rows it is" in verdict.notes[0]


class TestClaims:
    """Only like claims are compared: more exits at a weaker promise are no improvement."""

    @pytest.mark.parametrize(
        ("old", "new", "weaker"),
        [
            ({}, {"alpha": 0.1}, "the bound is 10.0% instead of 5.0%"),
            ({}, {"delta": 0.2}, "the confidence is 80% instead of 90%"),
            ({}, {"unit": "row"}, "images count and not groups"),
            ({}, {"risk": "D3"}, "risk is D3 instead of D2"),
            ({}, {"spending": "single_use"}, "each certificate holds only by itself"),
            (C | {"also": {"D3": 0.1}}, C | {"also": {"D3": 0.3}}, "D3 is bounded by 0.3 instead of 0.1"),
            (C | {"also": {"D3": 0.1}}, C, "D3 is not bounded"),
            (COVER | {"coverage": 0.6}, COVER | {"coverage": 0.3}, "exit coverage is bounded by 0.3 instead of 0.6"),
            ({}, {"stream": "originals"}, "stream is originals instead of mixture of 33% challenges-2026-01"),
            ({"stream": "originals"}, {}, "stream is mixture of 33%"),
            ({"alpha": 0.1}, {}, None),
            ({"unit": "row"}, {}, None),
            ({"delta": 0.2}, {}, None),
        ],
    )
    def test_a_weaker_one_replaces_nothing_unless_that_is_allowed_and_a_stronger_one_may_exit_less(
        self,
        store: Store,
        publish: Publish,
        data: Dataset,
        old: dict[str, Any],
        new: dict[str, Any],
        weaker: str | None,
    ) -> None:
        publish("old", live=NOW, **old)
        challenger = publish("new", shift=0.01, **new)
        verdict = judged(store, challenger, data)
        assert verdict.verdict == ("KEEP" if weaker else "PROMOTE")
        assert weaker is None or weaker in verdict.reasons[0]
        allowed = judged(store, challenger, data, accept_weaker_claim=True)
        assert allowed.verdict == "PROMOTE"
        assert not allowed.compared[0].like


class TestAClaimOfCoverage:
    """What is promised is the bound that was found: `looks` decides at which level, and so how low it is."""

    def test_with_a_higher_bound_is_weaker(self, store: Store, publish: Publish, data: Dataset) -> None:
        publish("old", **COVER, looks=2, live=NOW)
        challenger = publish("new", shift=0.01, **COVER, looks=60)
        verdict = judged(store, challenger, data)
        assert verdict.verdict == "KEEP"
        assert "promises less than the champion's" in verdict.reasons[0]
        assert "the bound is 4.73% instead of 3.01%" in verdict.reasons[0]
        assert judged(store, challenger, data, accept_weaker_claim=True).verdict == "PROMOTE"

    def test_with_a_lower_bound_is_stronger_and_may_exit_less(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        publish("old", **COVER, looks=60, live=NOW)
        verdict = judged(store, publish("new", shift=0.01, **COVER, looks=2), data)
        assert verdict.verdict == "PROMOTE"
        assert not verdict.compared[0].like

    def test_with_the_same_bound_is_a_like_claim(self, store: Store, publish: Publish, data: Dataset) -> None:
        publish("old", **COVER, live=NOW)
        verdict = judged(store, publish("new", shift=0.01, **COVER), data)
        assert verdict.verdict == "PROMOTE"
        assert verdict.compared[0].like

    def test_the_best_of_late_is_the_one_with_the_lowest_bound(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        best = publish("best", **COVER, looks=2, exits=0.8, live=NOW - timedelta(days=40))
        publish("second", **COVER, looks=6, exits=0.9, live=NOW - timedelta(days=30))
        worse = publish("worse", shift=2.0, **COVER, looks=60, exits=0.95, live=NOW - timedelta(days=5))
        verdict = judged(store, publish("like it", shift=2.01, **COVER, looks=60), data)
        assert verdict.verdict == "KEEP"
        assert [found.against for found in verdict.compared] == [worse.name, best.name]


class TestRefused:
    def test_a_certificate_that_the_test_rows_disprove_is(self, store: Store, publish: Publish, data: Dataset) -> None:
        verdict = judged(store, publish("new", shift=-5.0), data)
        assert verdict.verdict == "REFUSE"
        assert "D2 is certified to be at most 5.0%, but on the test rows it is" in verdict.reasons[0]

    def test_a_model_that_is_worse_than_chance_is(self, store: Store, publish: Publish, data: Dataset) -> None:
        """As one is that was trained on flipped labels."""
        flipped = Dataset(data.root, tuple(row.model_copy(update={"label": 1 - row.label}) for row in data.rows))
        verdict = judged(store, publish("new", feasible=False), flipped)
        assert verdict.verdict == "REFUSE"
        assert "Matthews correlation of -1.000 on the test rows, the bar is 0" in verdict.reasons[0]

    def test_a_higher_bar_refuses_more(self, store: Store, publish: Publish, data: Dataset) -> None:
        says_nothing = publish("new", shift=30.0)
        assert judged(store, says_nothing, data).verdict == "PROMOTE"
        assert judged(store, says_nothing, data, least_mcc=0.1).verdict == "REFUSE"

    def test_one_that_cannot_be_loaded_is(self, store: Store, publish: Publish, data: Dataset) -> None:
        new = publish("new")
        (new / "model.onnx").write_bytes(b"{")
        verdict = judged(store, new, data)
        assert verdict.verdict == "REFUSE"
        assert "it cannot be loaded: " in verdict.reasons[0]

    def test_one_that_does_not_fit_at_the_moment_is_kept(
        self, store: Store, publish: Publish, data: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def load(_: Path) -> LiveBundle:
            raise Unavailable("loading it takes about 9,000 MiB, and 1 MiB are left")

        monkeypatch.setattr(offline.publish.gate, "load_bundle", load)
        verdict = judged(store, publish("new"), data)
        assert verdict.verdict == "KEEP"
        assert "it cannot be loaded here: loading it takes about 9,000 MiB" in verdict.reasons[0]

    @pytest.mark.parametrize(
        ("bar", "why"), [("latency_ms", "one image takes"), ("memory_mib", "its engine has 0 MiB")]
    )
    def test_one_that_costs_more_than_it_may_is(
        self, store: Store, publish: Publish, data: Dataset, bar: str, why: str
    ) -> None:
        verdict = judged(store, publish("new"), data, **{bar: 1e-4})
        assert verdict.verdict == "REFUSE"
        assert why in verdict.reasons[0]

    def test_the_median_time_of_one_image_is_in_milliseconds(self, publish: Publish) -> None:
        ticks = iter(np.repeat(np.arange(20), 2) + np.tile([0.0, 0.004], 20))
        bundle = load_bundle(publish("new"), threads=1)
        images = np.zeros((3, 3, 32, 32), np.uint8)
        assert median_latency_ms(bundle, images, lambda: float(next(ticks))) == pytest.approx(4.0)
        bundle.close()


class TestAChampionThatCannotBeJudged:
    def test_makes_way_if_this_program_cannot_read_it(
        self, store: Store, publish: Publish, data: Dataset, tmp_path: Path, provenance: Provenance
    ) -> None:
        """Its files are as they were published, by a program of long ago; no miner of today could start with it."""
        old = publish("old")
        shutil.copytree(old, tmp_path / "files", ignore=shutil.ignore_patterns("manifest.json"))
        tree = json.loads((old / "scrc_params.json").read_text()) | {"schema_version": 1}
        (tmp_path / "files" / "scrc_params.json").write_text(json.dumps(tree))
        store.activate(store.publish(tmp_path / "files", provenance), now=NOW)
        verdict = judged(store, publish("new", shift=0.01), data)
        assert verdict.verdict == "PROMOTE"
        assert "no miner could start with it" in verdict.notes[0]

    @pytest.mark.parametrize("damage", ["model.onnx", "splits.json", "scrc_params.json", "all"])
    def test_makes_way_for_a_certified_challenger_if_its_files_are_damaged(
        self, store: Store, publish: Publish, data: Dataset, damage: str
    ) -> None:
        """A miner could not start with it, and every later night would fail on it again."""
        old, new = publish("old", live=NOW), publish("new", shift=0.01)
        poor = publish("poor", feasible=False)
        if damage == "all":
            old.rename(store.root / "gone")
        else:
            (old / damage).write_bytes(b"{")
        verdict = judged(store, new, data)
        assert verdict.verdict == "PROMOTE"
        assert "no miner could start with it" in verdict.notes[0]
        assert judged(store, poor, data).verdict == "KEEP"

    def test_stays_if_its_files_are_as_they_were_published(
        self, store: Store, publish: Publish, data: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An engine that differs from its golden images here has not lost to anybody."""
        old, new = publish("old", live=NOW), publish("new", shift=0.01)

        def load(path: Path, spec: EngineSpec | None = None) -> LiveBundle:
            if path == old:
                raise ParityError("outputs differ from the golden ones by 0.3")
            return load_bundle(path, spec=spec)

        monkeypatch.setattr(offline.publish.champion, "load_bundle", load)
        verdict = judged(store, new, data)
        assert verdict.verdict == "KEEP"
        assert "cannot be judged: outputs differ from the golden ones by 0.3" in verdict.reasons[0]

    def test_stays_if_it_does_not_fit_at_the_moment(
        self, store: Store, publish: Publish, data: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old, new = publish("old", live=NOW), publish("new", shift=0.01)

        def load(path: Path, spec: EngineSpec | None = None) -> LiveBundle:
            if path == old:
                raise Unavailable("loading it takes about 9,000 MiB, and 1 MiB are left")
            return load_bundle(path, spec=spec)

        monkeypatch.setattr(offline.publish.champion, "load_bundle", load)
        verdict = judged(store, new, data)
        assert verdict.verdict == "KEEP"
        assert "it cannot be loaded here: loading it takes about 9,000 MiB" in verdict.reasons[0]

    @pytest.mark.parametrize("agrees", [True, False])
    def test_for_another_machine_is_compared_by_its_graph(
        self, store: Store, publish: Publish, data: Dataset, monkeypatch: pytest.MonkeyPatch, *, agrees: bool
    ) -> None:
        """Where ONNX Runtime decides as its own engine did; else no challenger could ever replace it."""
        old, new = publish("old", live=NOW), publish("new", shift=0.01)

        def load(path: Path, spec: EngineSpec | None = None) -> LiveBundle:
            if path == old and spec is None:
                raise Unavailable("engine.plan must be built anew for this machine")
            if path == old and not agrees:
                raise ParityError("outputs differ from the golden ones by 0.3")
            return load_bundle(path, spec=spec)

        monkeypatch.setattr(offline.publish.champion, "load_bundle", load)
        verdict = judged(store, new, data)
        assert verdict.verdict == ("PROMOTE" if agrees else "KEEP")
        assert bool(verdict.compared) == agrees


class TestTheBestOfLate:
    """Sixteen nights, each a little worse than the one before, would end far below where they began."""

    def test_is_compared_with_too(self, store: Store, publish: Publish, data: Dataset) -> None:
        best = publish("best", exits=0.9, live=NOW - timedelta(days=40))
        publish("worse", shift=2.0, exits=0.5, live=NOW - timedelta(days=5))
        verdict = judged(store, publish("like it", shift=2.01), data)
        assert verdict.verdict == "KEEP"
        assert [found.against == best.name for found in verdict.compared] == [False, True]
        assert all(best.name in reason for reason in verdict.reasons)

    def test_is_forgotten_after_the_days_that_are_remembered(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        publish("best", exits=0.9, live=NOW - timedelta(days=140))
        publish("worse", shift=2.0, exits=0.5, live=NOW - timedelta(days=100))
        assert judged(store, publish("like it", shift=2.01), data).verdict == "PROMOTE"

    def test_that_cannot_be_judged_keeps_the_champion_and_a_damaged_one_is_told_of(
        self, store: Store, publish: Publish, data: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        best = publish("best", exits=0.9, live=NOW - timedelta(days=40))
        publish("worse", shift=2.0, exits=0.5, live=NOW - timedelta(days=5))
        challenger = publish("like it", shift=2.01)

        def load(path: Path, spec: EngineSpec | None = None) -> LiveBundle:
            if path == best:
                raise Unavailable("loading it takes about 9,000 MiB, and 1 MiB are left")
            return load_bundle(path, spec=spec)

        with monkeypatch.context() as patch:
            patch.setattr(offline.publish.champion, "load_bundle", load)
            verdict = judged(store, challenger, data)
        assert verdict.verdict == "KEEP"
        assert f"{best.name}, which was live and let more exit, cannot be judged" in verdict.reasons[0]
        with (best / "model.onnx").open("ab") as graph:
            graph.write(b" ")
        verdict = judged(store, challenger, data)
        assert verdict.verdict == "PROMOTE"
        assert best.name in verdict.notes[0]

    def test_is_compared_with_too_where_the_champion_promises_something_else(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        """More exits at a weaker promise do not make the champion the best."""
        best = publish("best", exits=0.8, live=NOW - timedelta(days=40))
        weaker = publish("weaker", shift=2.0, alpha=0.1, exits=0.9, live=NOW - timedelta(days=5))
        verdict = judged(store, publish("new", shift=2.01), data)
        assert verdict.verdict == "KEEP"
        assert [found.against for found in verdict.compared] == [weaker.name, best.name]

    def test_is_none_that_was_rolled_back(self, store: Store, publish: Publish, data: Dataset) -> None:
        publish("worse", shift=2.0, exits=0.5, live=NOW - timedelta(days=5))
        publish("best", exits=0.9, live=NOW - timedelta(days=4))
        store.rollback(now=NOW - timedelta(days=3))
        assert judged(store, publish("like it", shift=2.01), data).verdict == "PROMOTE"


def test_a_bundle_is_assembled_from_the_stages_that_have_its_files(tmp_path: Path) -> None:
    for stage, names in (("one", "ab"), ("two", "bc")):
        (tmp_path / stage).mkdir()
        for name in names:
            (tmp_path / stage / name).write_text(f"{name} of {stage}")
    files = files_of([tmp_path / "one", tmp_path / "two"], ["a", "b", "c"])
    found = {name: path.read_text() for name, path in files.items()}
    assert found == {"a": "a of one", "b": "b of one", "c": "c of two"}


ALARM = NOW - timedelta(days=5)
BEFORE, SINCE = (ALARM - timedelta(days=1)).timestamp(), (ALARM + timedelta(days=1)).timestamp()


def alarmed(store: Store, bundle: Path) -> None:
    """An alarm is raised while this bundle serves."""
    name = ScrcParams.read(bundle / "scrc_params.json").name
    store.revoke(RevocationEntry(certificate=name, bundle=bundle.name, reason="misses", at=ALARM))


def judged_after(
    store: Store, challenger: Path, data: Dataset, *, fresh: int = 160, test_since: bool = False, **settings: Any
) -> Publication:
    """The fold has the pictures of the test rows under other names, so many of them taken since the alarm."""
    with closing(load_bundle(challenger)) as live:
        said = run_engine(live.engine, data, live.preprocess, Silence().step, "")
    fold = LabelledOutputs(said.outputs, said.labels, [f"calib {row}" for row in said.row_ids], said.groups)
    times = {row: SINCE if number < fresh else BEFORE for number, row in enumerate(fold.row_ids)}
    times |= dict.fromkeys(data.ids, SINCE if test_since else BEFORE)
    chosen = GateSettings.model_validate(GATE.model_dump() | settings)
    return judge(Bench(store, data, {}, chosen, Silence(), NOW, fold=fold, times=times), challenger)


class TestAfterAnAlarm:
    """The champion has no claim, and a new certificate from old rows does not silence the alarm."""

    def test_what_it_was_better_at_before_does_not_keep_it(self, store: Store, publish: Publish, data: Dataset) -> None:
        old, new = publish("old", live=NOW), publish("new", shift=2.0)
        assert judged_after(store, new, data).verdict == "KEEP"
        alarmed(store, old)
        verdict = judged_after(store, new, data)
        assert (verdict.verdict, verdict.compared) == ("PROMOTE", ())
        assert verdict.notes[0].endswith("at 2026-03-27 00:00: rows from before say nothing for it")

    @pytest.mark.parametrize("shift", [0.01, 2.0])
    def test_in_a_store_without_alarms_it_does_not_matter_when_rows_were_taken(
        self, store: Store, publish: Publish, data: Dataset, shift: float
    ) -> None:
        """As in a store of the program before, which has no file of alarms, and gets none by being asked."""
        publish("old", live=NOW)
        new = publish("new", shift=shift)
        plain = judged(store, new, data)
        assert len(plain.compared) == 1
        for fresh in (0, 160):
            found = judged_after(store, new, data, fresh=fresh, test_since=True)
            assert found.model_copy(update={"latency_ms": plain.latency_ms}) == plain
        assert not (store.root / REVOKED).exists()

    def test_an_alarm_of_another_certificate_leaves_the_champion_its_claim(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        alarmed(store, publish("long gone", alpha=0.1))
        old = publish("old", live=NOW)
        verdict = judged_after(store, publish("new", shift=2.0), data)
        assert verdict.verdict == "KEEP"
        assert [found.against for found in verdict.compared] == [old.name]

    @pytest.mark.parametrize(("fresh", "verdict"), [(0, "KEEP"), (80, "KEEP"), (160, "PROMOTE")])
    def test_a_certificate_must_be_confirmed_by_rows_that_came_since(
        self, store: Store, publish: Publish, data: Dataset, fresh: int, verdict: str
    ) -> None:
        """40 units of roadwork without a miss bound nothing by 5 % at 90 % confidence, and 80 do."""
        alarmed(store, publish("old", live=NOW))
        found = judged_after(store, publish("new", shift=0.01), data, fresh=fresh)
        assert found.verdict == verdict
        of_so_many = "of the 160 rows that certified it"
        told = {
            0: f"none {of_so_many} was taken since",
            80: f"80 {of_so_many} were taken since; on these D2 is 0 of ",
        }
        assert all(told[fresh] in reason for reason in found.reasons)
        assert bool(found.reasons) == (verdict == "KEEP")

    def test_nobody_knows_what_an_unrecorded_certificate_was_computed_from(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        alarmed(store, publish("old", live=NOW))
        verdict = judged(store, publish("new", shift=0.01), data)
        assert verdict.verdict == "KEEP"
        assert "nobody knows what its certificate was computed from" in verdict.reasons[0]

    def test_one_that_certifies_nothing_does_not_silence_it(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        alarmed(store, publish("old", live=NOW))
        verdict = judged_after(store, publish("new", feasible=False), data)
        assert verdict.verdict == "KEEP"
        assert "only a new certificate takes its place: val_calib has" in verdict.reasons[0]

    def test_it_may_be_asked_for_no_less(self, store: Store, publish: Publish, data: Dataset) -> None:
        alarmed(store, publish("old", live=NOW))
        challenger = publish("new", shift=0.01, alpha=0.1)
        verdict = judged_after(store, challenger, data)
        assert verdict.verdict == "KEEP"
        assert "the bound is 10.0% instead of 5.0%" in verdict.reasons[0]
        assert judged_after(store, challenger, data, accept_weaker_claim=True).verdict == "PROMOTE"

    def test_a_bound_that_was_found_before_binds_nobody(self, store: Store, publish: Publish, data: Dataset) -> None:
        alarmed(store, publish("old", **COVER, looks=2, live=NOW))
        assert judged_after(store, publish("new", shift=0.01, **COVER, looks=60), data).verdict == "PROMOTE"

    def test_rows_since_that_show_it_right_more_often_keep_it(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        alarmed(store, publish("old", live=NOW))
        verdict = judged_after(store, publish("new", shift=2.0), data, test_since=True)
        assert verdict.verdict == "KEEP"
        assert "accuracy on 160 test rows since the alarm is shown to be lower" in verdict.reasons[0]
        assert judged_after(store, publish("as good", shift=0.01), data, test_since=True).verdict == "PROMOTE"

    def test_a_revoked_certificate_never_comes_back(self, store: Store, publish: Publish, data: Dataset) -> None:
        new = publish("new")
        alarmed(store, new)
        verdict = judged_after(store, new, data)
        assert verdict.verdict == "KEEP"
        assert verdict.reasons[0].startswith("an alarm has revoked its certificate")

    def test_what_was_live_before_it_is_no_best_of_late(self, store: Store, publish: Publish, data: Dataset) -> None:
        publish("best", exits=0.9, live=NOW - timedelta(days=40))
        alarmed(store, publish("old", exits=0.8, live=NOW - timedelta(days=30)))
        now_live = publish("since", shift=2.0, exits=0.1, live=NOW - timedelta(days=1))
        verdict = judged_after(store, publish("like it", shift=2.01), data)
        assert [found.against for found in verdict.compared] == [now_live.name]
        assert verdict.verdict == "PROMOTE"

    @pytest.mark.parametrize("compiled", [False, True])
    def test_a_rollback_does_not_silence_the_alarm(
        self, store: Store, publish: Publish, data: Dataset, compiled: bool
    ) -> None:
        """The certificate of the bundle before is one of rows from before the alarm as well."""
        before = publish("before", live=NOW - timedelta(days=10))
        old = publish("old", shift=0.003, live=NOW - timedelta(days=8))
        alarmed(store, old)
        store.rollback(now=ALARM)
        if compiled:
            again = publish("before, compiled anew", shift=0.001)
            put_in_place(store, again.name, ScrcParams.read(again / "scrc_params.json"), before.name, now=NOW)
        verdict = judged_after(store, publish("new", shift=0.01), data, fresh=0)
        assert verdict.verdict == "KEEP"
        assert f"the certificate of {old.name} at 2026-03-27 00:00, in the place of which" in verdict.reasons[0]
        assert judged_after(store, publish("with new rows", shift=0.02), data).verdict == "PROMOTE"

    def test_nor_does_damage_to_the_bundle_before(self, store: Store, publish: Publish, data: Dataset) -> None:
        before = publish("before", live=NOW - timedelta(days=10))
        old = publish("old", shift=0.003, live=NOW - timedelta(days=8))
        alarmed(store, old)
        store.rollback(now=ALARM)
        (before / "engine.onnx").write_bytes(b"damaged")
        verdict = judged_after(store, publish("new", shift=0.01), data, fresh=0)
        assert verdict.verdict == "KEEP"
        assert f"the champion {before.name} cannot be judged" in verdict.reasons[0]

    def test_what_an_operator_made_current_since_is_an_answer(
        self, store: Store, publish: Publish, data: Dataset
    ) -> None:
        chosen = publish("chosen", live=NOW - timedelta(days=10))
        alarmed(store, publish("old", shift=0.003, live=NOW - timedelta(days=8)))
        store.activate(chosen.name, now=NOW)
        verdict = judged_after(store, publish("new", shift=0.01), data, fresh=0)
        assert [found.against for found in verdict.compared] == [chosen.name]

    def test_compiled_anew_it_does_not_silence_the_alarm(self, store: Store, publish: Publish) -> None:
        old, new = publish("old", live=NOW), publish("new", shift=0.01)
        alarmed(store, old)
        with pytest.raises(BundleRefused, match="an alarm has revoked the certificate of"):
            put_in_place(store, new.name, ScrcParams.read(new / "scrc_params.json"), old.name, now=NOW)
        pointer = store.current()
        assert pointer is not None
        assert pointer.bundle == old.name

    def test_what_was_compiled_and_revoked_does_not_come_back_in_the_place_of_its_model(
        self, store: Store, publish: Publish
    ) -> None:
        old, compiled = publish("old", live=NOW), publish("compiled", shift=0.01)
        alarmed(store, compiled)
        with pytest.raises(BundleRefused, match=r"an alarm has revoked its certificate at 2026-03-27 .*: misses"):
            put_in_place(store, compiled.name, ScrcParams.read(compiled / "scrc_params.json"), old.name, now=NOW)
        pointer = store.current()
        assert pointer is not None
        assert pointer.bundle == old.name


def becomes_current_meanwhile(monkeypatch: pytest.MonkeyPatch, store: Store, bundle: Path) -> None:
    """While a challenger is judged, another bundle becomes current."""
    judge_alone = offline.publish.gate.judge

    def judge_slowly(bench: Bench, challenger: Path) -> Publication:
        verdict = judge_alone(bench, challenger)
        store.activate(bundle.name, now=NOW)
        return verdict

    monkeypatch.setattr(offline.publish.gate, "judge", judge_slowly)


class TestSettled:
    """Two nights, or a night and an operator, at one store."""

    def test_another_champion_meanwhile_is_compared_with_before_it_is_replaced(
        self, store: Store, publish: Publish, data: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, other, new = publish("old", live=NOW), publish("other", shift=0.02), publish("new", shift=0.01)
        becomes_current_meanwhile(monkeypatch, store, other)
        verdict = settled(Bench(store, data, {}, GATE, Silence(), NOW), new)
        assert verdict.verdict == "PROMOTE"
        assert verdict.champion == other.name != first.name
        pointer = store.current()
        assert pointer is not None
        assert (pointer.bundle, pointer.previous) == (new.name, other.name)

    def test_one_that_is_not_as_good_as_that_one_stays_a_challenger(
        self, store: Store, publish: Publish, data: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish("old", shift=2.0, live=NOW)
        better, new = publish("better"), publish("new", shift=2.01)
        becomes_current_meanwhile(monkeypatch, store, better)
        assert settled(Bench(store, data, {}, GATE, Silence(), NOW), new).verdict == "KEEP"
        pointer = store.current()
        assert pointer is not None
        assert pointer.bundle == better.name
