"""How the public names of each package are used, and what comes of them: for mypy to check, never executed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import engines
import miner
import offline
import stage1
import stage1.metrics
import stage2_bridge
from engines.store.store import Pointer
from miner.answering.deadline import TimeBudget
from miner.answering.settings import EngineSettings
from offline.publish.gate import Publication
from stage1.metrics.bootstrap import Difference, Interval


def certify(rows: stage1.LabelledOutputs, more: stage1.LabelledOutputs) -> stage1.ScrcPolicy:
    settings = stage1.CalibrationSettings(alpha=0.01, risk=stage1.Risk.MISS_EXIT, also={stage1.Risk.MISS_ALL: 0.05})
    context = stage1.CalibrationContext("e" * 64, "p" * 64, prior_uses=1)
    params = stage1.calibrate(rows, more, settings, context)
    assert_type(params, stage1.ScrcParams)
    assert_type(params.rule, stage1.ExitRule | None)
    assert_type(params.exit_coverage, stage1.Rate | None)
    assert_type(params.risks[stage1.Risk.MISS_EXIT].estimate, float | None)
    return stage1.ScrcPolicy(params)


def decide(policy: stage1.Policy, calibrator: stage1.ProbabilityCalibrator, logits: NDArray[np.float32]) -> None:
    outputs = stage1.Stage1Outputs(logits, np.zeros(len(logits), np.float32))
    decisions = policy.decide(outputs)
    assert_type(decisions, stage1.Decisions)
    assert_type(decisions.action(0), stage1.Action)
    assert_type(decisions.prediction_set(0), tuple[int, ...])
    assert_type(stage1.Level(int(decisions.level[0])), stage1.Level)
    assert_type(calibrator.probability(outputs), NDArray[np.float64])
    assert_type(stage1.PreprocessSettings(size_px=224).sha256, str)


def fail(error: stage1.Stage1Error | stage1.SettingsError) -> int:
    assert_type(stage1.CascadeError.exit_status, int)
    root: stage1.CascadeError = error
    return root.exit_status


def measure(labels: NDArray[np.int8], probability: NDArray[np.float64], groups: Sequence[str]) -> None:
    losses = labels != (probability > 0.5)
    ranking = stage1.metrics.Ranking.of(np.abs(probability - 0.5), losses)
    assert_type(ranking, stage1.metrics.Ranking)
    assert_type(ranking.curve(), stage1.metrics.RiskCoverage)
    assert_type(stage1.metrics.augrc(probability, losses) + stage1.metrics.aurc(probability, losses), float)
    assert_type(stage1.metrics.accuracy(labels, (probability > 0.5).astype(np.int8)), float)
    assert_type(stage1.metrics.matthews_correlation(labels, labels), float)
    assert_type(stage1.metrics.brier(probability, labels), float)
    assert_type(stage1.metrics.expected_calibration_error(probability, labels, equal_mass=True), float)
    assert_type(stage1.metrics.subnet_reward(labels, probability), float)
    assert_type(stage1.metrics.interval(np.zeros(100), level=0.9), Interval)
    rng = np.random.default_rng(0)
    compared = stage1.metrics.paired_difference(ranking.augrc, ranking.aurc, groups, 100, rng)
    assert_type(compared, Difference)


def serve(root: Path, image: NDArray[np.uint8], batcher: engines.Batcher, now: datetime) -> None:
    store = engines.Store(root)
    pointer = store.current()
    assert_type(pointer, Pointer | None)
    assert pointer is not None
    assert_type(store.verify(pointer.bundle), engines.Manifest)
    live = engines.load_bundle(store.path(pointer.bundle), spec=engines.REFERENCE, threads=1)
    assert_type(live, engines.LiveBundle)
    assert_type(live.engine, engines.Engine)
    assert_type(live.engine.infer(image[None]), stage1.Stage1Outputs)
    policy: stage1.Policy = live.policy
    assert_type(policy.decide(live.engine.infer(image[None])), stage1.Decisions)
    slot = engines.BundleSlot(standby=True)
    assert_type(slot.swap(live), int)
    assert_type(batcher.submit(slot.lease(), image, deadline=time.monotonic() + 1), Future[stage1.Stage1Outputs])
    assert_type(store.rollback(now=now), Pointer)


async def follow(store: engines.Store) -> None:
    follower = engines.StoreFollower(store)
    await follower.start()
    assert_type(follower.slot, engines.BundleSlot)
    assert_type(await follower.refresh(), bool)


def compile_for(spec: engines.EngineSpec, model: Path) -> engines.EngineDescription:
    assert_type(engines.check_available(spec), str)
    try:
        engines.compile_engine(spec, model)
        engine = engines.open_engine(spec, model)
    except engines.BundleRefused as error:
        refused: engines.EngineError = error
        raise refused from None
    assert_type(engine, engines.Engine)
    assert_type(engine.describe().spec, engines.EngineSpec)
    return engine.describe()


class Extra:
    name = "extra.csv"
    train_only = True

    def rows(self) -> Iterable[offline.Row]:
        return ()


class Silent:
    def stage(self, name: str, state: str) -> None: ...

    def step(self, done: int, total: int, note: str = "") -> None: ...


def spend_a_night(data: Path, workspace: Path, store: Path) -> offline.NightOutcome:
    config = offline.load_config("tiny", changes={"train_supervised.epochs": 1})
    assert_type(config, offline.RunConfig)
    assert_type(offline.PRESETS["standard"], offline.RunConfig)
    source: offline.DataSource = Extra()
    assert_type(source.train_only, bool)
    read = offline.read_dataset(data)
    assert_type(read, offline.Dataset)
    assert_type(read.pick(read.ids[:2]), offline.Dataset)
    last = offline.STAGE_NAMES[-1]
    shown: offline.Progress = Silent()
    outcome = offline.run_night(data, workspace=workspace, store=store, config=config, last=last, progress=shown)
    assert_type(outcome, offline.NightOutcome)
    assert_type(outcome.params, stage1.ScrcParams | None)
    assert_type(outcome.publication, Publication | None)
    try:
        return offline.recompile("0123", engines.REFERENCE, data=data, workspace=workspace, store=store)
    except offline.OfflineError as error:
        root: stage1.CascadeError = error
        raise root from None


class Fixed:
    name = "fixed"

    async def ask(self, content: bytes, timeout_s: float) -> float:
        if not content:
            raise stage2_bridge.Stage2Error("no image")
        return min(0.5, timeout_s)

    async def close(self) -> None: ...


async def hand_off(content: bytes, settings: stage2_bridge.Stage2Settings) -> float | None:
    opened = stage2_bridge.open_server(settings)
    assert_type(opened, stage2_bridge.Stage2Client | None)
    client: stage2_bridge.Stage2Client = opened or Fixed()
    bridge = stage2_bridge.Bridge(client, max_in_flight=settings.hand_offs, clock=time.monotonic)
    verdict = await bridge.ask(content, time.monotonic() + 1)
    assert_type(verdict, stage2_bridge.Verdict)
    assert_type(verdict.outcome, stage2_bridge.Outcome)
    answered = verdict.outcome is stage2_bridge.Outcome.ANSWERED
    await bridge.close()
    return verdict.probability if answered else None


class Counter:
    def __init__(self) -> None:
        self.answers = 0

    def on_answer(self, record: miner.RequestRecord) -> None:
        self.answers += record.result == "answered"


async def answer(
    follower: engines.StoreFollower, batcher: engines.Batcher, bridge: stage2_bridge.Bridge, now: Callable[[], datetime]
) -> float:
    observer: miner.Observer = Counter()
    cascade = miner.Cascade(
        follower.slot,
        batcher,
        bridge,
        observers=(observer,),
        engine=EngineSettings(),
        clock=time.monotonic,
        now=now,
    )
    deadline = TimeBudget(deadline_s=5, margin_s=1, reserve_s=0.25).deadline(time.monotonic(), waits_s=10)
    request = miner.Request("1", "5Abc", None, "aW1hZ2U=", deadline)
    prediction: Awaitable[miner.Prediction] = cascade.answer(request)
    return (await prediction).probability


def misspelt() -> None:
    """The checker knows the names by themselves."""
    _ = engines.Stoer  # type: ignore[attr-defined]


def mine() -> None:
    settings = miner.load_settings(Path("cascade.toml"), {"axon.port": 8092})
    assert_type(settings, miner.MinerSettings)
    assert_type(settings.stage2, stage2_bridge.Stage2Settings)
    try:
        asyncio.run(miner.run_miner(settings, retrain_now=True))
    except miner.MinerError as error:
        raise SystemExit(error.exit_status) from error
