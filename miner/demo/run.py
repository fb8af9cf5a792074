"""`cascade demo`: the whole product once, on this machine, from images to a scoreboard.

Two nights of the pipeline, a live miner in a process of its own, a validator with the real bittensor dendrite in
another, and a hot swap in the middle of its traffic. Every number is measured in the run that prints it.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from engines.backends.onnxruntime import OnnxEngine
from engines.machine.clock import utc_now
from engines.machine.memory import resident_mib
from engines.store.file_names import CALIBRATOR, ENGINE, PAGE, PREPROCESS, SPLITS
from engines.store.store import Store
from miner.demo.retrain_child import PRESET, RetrainChildren
from miner.demo.scoreboard import Scoreboard, render_scoreboard, score
from miner.errors import StartError
from miner.progress_display import BarDisplay, Bars, bars
from miner.simulation.exchange import Challenge, Exchange, Target
from miner.simulation.keys import throw_away_key, write_chain
from miner.simulation.processes import Manner, MinerProcess, ValidatorProcess
from miner.simulation.settings_file import write_settings
from offline.config import PRESETS
from offline.data.engine_outputs import run_engine
from offline.data.sources.source import read_dataset
from offline.data.sources.synthetic_streets import write_scenes
from offline.publish.gate import published
from offline.splits.splits_file import Splits
from offline.stream.sender import sender_of
from stage1.certificate.stream import Stream
from stage1.preprocess import PreprocessSettings
from stage1.probability.fit import fit_calibrator

REQUESTS_PER_S = 30.0
VALIDATOR_SEED = 1_000_003
SWAP_AT = 0.35
MAX_EPOCHS = 20
# Left behind: with it the bundle can be served and asked again.
SETTINGS = "cascade.toml"
# Cones are still seen at 128 px. Stage-2 sees 1.6 times the tokens, and trains beside the first night.
STAGE1_SIZE_PX = 128
STAGE2_SIZE_PX = 160
# The adapter costs the same for each step however large the batch is; a larger rate makes up for fewer steps.
BATCH_SIZE = 32
# Above that of the preset, so that the second bundle is another one.
SECOND_FALSE_ALARM_RATE = 0.08


@dataclass(frozen=True)
class Extent:
    """How much of everything there is.

    Attributes:
        scenes: synthetic scenes to draw.
        exposures: images that a training sees: as many epochs as the size of the data allows.
        requests: that the validator sends, at most.
        learning_rate: of trainings of so many steps.
    """

    scenes: int
    exposures: int
    requests: int
    learning_rate: float


# What validators have sent since May 2026. A model that withstands what they did before takes longer to train.
STREAM: Stream = "challenges-2026-05"
WHOLE = Extent(scenes=3600, exposures=7_000, requests=420, learning_rate=5e-3)
# Too few scenes to certify anything at 2 %, which the miner says, and enough to see every part at work. So short a
# training would stay at chance at the rate of the other, and begin again.
QUICK = Extent(scenes=800, exposures=2_000, requests=160, learning_rate=2e-3)


@dataclass(frozen=True)
class DemoSettings:
    """What the demo runs on.

    Attributes:
        directory: where it works; emptied first.
        data: directory with `labels.csv`, None to draw synthetic scenes.
        extent: how much of everything there is.
        difficulty: of the synthetic scenes.
        seed: seed of scenes and training.
    """

    directory: Path
    data: Path | None
    extent: Extent
    difficulty: float
    seed: int


def run_demo(settings: DemoSettings) -> int:
    """Run everything and print the scoreboard.

    Returns:
        Exit status: 0 if no request failed and a swap happened under traffic.

    Raises:
        StartError: a child process did not do its work; says where its log is.
    """
    started = time.monotonic()
    console = Console()
    home = settings.directory.resolve()
    _empty(home)
    with bars(console) as progress:
        data = _data(settings, home, progress)
        night = _nights(settings, data, home, progress)
        board = _serve(settings, night, home, progress)
    wall_s = time.monotonic() - started
    console.print(render_scoreboard(board, wall_s=wall_s, report=night.report, synthetic=settings.data is None))
    asking = f"cascade simulate {_shown(data)} --config {_shown(home / SETTINGS)}"
    console.print(
        f"Ask this miner as validators do, as often as you like:\n  {asking}", soft_wrap=True, highlight=False
    )
    return 0 if board.failed == 0 and board.swaps >= 1 else 1


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _empty(home: Path) -> None:
    marker = home / ".cascade-demo"
    if home.exists() and any(home.iterdir()) and not marker.exists():
        raise StartError(f"{home}: not empty, and not made by an earlier demo; choose another --directory")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    marker.touch()


def _data(settings: DemoSettings, home: Path, progress: Bars) -> Path:
    if settings.data is not None:
        root = settings.data.resolve()
        rows = len(read_dataset(root))
        progress.add_task(f"images in {root.name}", total=1, completed=1, note=f"{rows} labelled images")
        return root
    root = home / "scenes"
    task = progress.add_task("draw synthetic streets", total=settings.extent.scenes, note="")
    for done in write_scenes(root, scenes=settings.extent.scenes, seed=settings.seed, difficulty=settings.difficulty):
        progress.update(task, completed=done, note=f"{done} scenes")
    return root


@dataclass(frozen=True)
class Nights:
    """What two nights of the pipeline left.

    Attributes:
        data: the data directory.
        store: holds the first night's bundle as current.
        stage2: directory of the Stage-2 engine.
        test_rows: ids of the test rows.
        publish: publishes the second night's bundle and returns its run directory.
        report: where the first night's report is.
        children: in which nights run.
    """

    data: Path
    store: Path
    stage2: Path
    test_rows: tuple[str, ...]
    publish: Callable[[], Path]
    report: Path
    children: RetrainChildren


def _nights(settings: DemoSettings, data: Path, home: Path, progress: Bars) -> Nights:
    store, workspace = home / "engines", home / "workspace"
    rows = len(read_dataset(data)) * PRESETS[PRESET].splits.train
    seed = {"seed": settings.seed, "splits.seed": settings.seed}
    children = RetrainChildren()
    first = {
        "preprocess.size_px": STAGE1_SIZE_PX,
        "train_supervised.epochs": _epochs(settings.extent.exposures, rows),
        "train_supervised.batch_size": BATCH_SIZE,
        "train_supervised.learning_rate": settings.extent.learning_rate,
        "train_supervised.augmentation": "light",
        "calibrate_scrc.stream": STREAM,
    }
    # It takes what the first night trained, and lets more images exit as roadwork; its report is not shown.
    second = first | {
        "calibrate_scrc.false_alarm_rate": SECOND_FALSE_ALARM_RATE,
        "compare_training.baseline": False,
        "compare_training.cross_entropy": False,
        "eval_selective.cell_rows": 0,
    }
    larger_model = first | {"preprocess.size_px": STAGE2_SIZE_PX, "compare_training.baseline": False}

    def night(
        changes: dict[str, Any], prefix: str, mode: str | None, place: Path = workspace, threads: int | None = 1
    ) -> Path:
        shown = BarDisplay(progress=progress, prefix=prefix, show_cached=False)
        log = home / f"{place.name}.log"
        return children.run(data, place, store, mode, seed | changes, shown, log, threads=threads)

    def larger() -> Path:
        run = night(larger_model, "Stage-2 · ", "export", home / "workspace-stage2")
        return _stage2(run, data, home, progress)

    with ThreadPoolExecutor(1) as beside, children:
        # One thread each: on two cores two small models train faster side by side than one after the other.
        larger_trained = beside.submit(larger)
        run = night(first, "night 1 · ", None)
        night(second, "night 2 · ", "eval_selective", threads=None)
        stage2 = larger_trained.result()
    publication = published(run)
    if not publication.accepted:
        raise StartError(f"the first bundle was not accepted: {'; '.join(publication.reasons)}")
    test = Splits.read(run / SPLITS).sets["test"].ids
    kept = home / PAGE
    shutil.copyfile(run / PAGE, kept)
    return Nights(data, store, stage2, test, lambda: night(second, "night 2 · ", "publish"), kept, children)


def _epochs(exposures: int, rows: float) -> int:
    return min(MAX_EPOCHS, max(2, round(exposures / rows)))


def _stage2(run: Path, data: Path, home: Path, progress: Bars) -> Path:
    directory = home / "stage2"
    directory.mkdir()
    for name in (ENGINE, PREPROCESS):
        shutil.copyfile(run / name, directory / name)
    preprocess = PreprocessSettings.read(directory / PREPROCESS)
    rows = read_dataset(data).pick(Splits.read(run / SPLITS).sets["val_select"].ids)
    rows = rows.sent_by(sender_of(PRESETS[PRESET].calibrate_scrc))
    shown = BarDisplay(progress=progress, prefix="Stage-2 · ")
    shown.stage("fit probabilities", "running")
    engine = OnnxEngine(directory / ENGINE)
    labelled = run_engine(engine, rows, preprocess, shown.step, "val_select")
    engine.close()
    fit_calibrator(labelled.outputs, labelled.labels).write(directory / CALIBRATOR)
    shown.stage("fit probabilities", "done")
    return directory


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _serve(demo: DemoSettings, night: Nights, home: Path, progress: Bars) -> Scoreboard:
    keys, chain, port = home / "wallets", home / "chain.json", _free_port()
    miner_key = throw_away_key(keys, "miner")
    write_chain(chain, miner=miner_key, validator=throw_away_key(keys, "validator"))
    task = progress.add_task("start the validator", total=1, note="")
    settings: dict[str, Any] = {
        "store": night.store,
        "state": home / "state",
        "wallet.name": "miner",
        "wallet.path": keys,
        "chain.kind": "offline",
        "chain.snapshot": chain,
        "chain.publish_endpoint": False,
        "axon.host": "127.0.0.1",
        "axon.port": port,
        "stage2.engine": night.stage2,
    }
    write_settings(home / SETTINGS, settings)
    # The validator first: loading the SDK must not count as the miner's cold start.
    # Other draws than those that the certificate has seen.
    manner = Manner(keys, "validator", STREAM, demo.seed + VALIDATOR_SEED)
    with ValidatorProcess(Target("127.0.0.1", port, miner_key), manner, home / "validator.log") as validator:
        validator.wait_until_ready()
        progress.update(task, completed=1)
        return _with_miner(demo, night, home / "state", validator, home, progress)


def _with_miner(
    demo: DemoSettings,
    night: Nights,
    state: Path,
    validator: ValidatorProcess,
    home: Path,
    progress: Bars,
) -> Scoreboard:
    task = progress.add_task("start the miner", total=1, note="")
    with MinerProcess(home / SETTINGS, home / "miner.log") as miner:
        miner.wait_until_ready()
        progress.update(task, completed=1, note=f"port {miner.port}")
        asked, first_answer_s, note = _traffic(night, miner, validator, demo.extent.requests, progress)
        resident = resident_mib(miner.pid)
    bundles = {row.manifest.bundle_id: row.path for row in Store(night.store).bundles()}
    return score(
        asked,
        state,
        bundles,
        cold_start_s=first_answer_s,
        ready_s=miner.ready_s,
        resident_mib=resident,
        note=note,
    )


def _traffic(
    night: Nights, miner: MinerProcess, validator: ValidatorProcess, most: int, progress: Bars
) -> tuple[list[Exchange], float, str]:
    data = read_dataset(night.data)
    rows = data.pick(night.test_rows).rows[:most]
    task = progress.add_task("validator asks", total=len(rows), note="")
    pacer = _paced(len(rows), REQUESTS_PER_S)
    publishing: Future[Path] | None = None
    note = ""
    with ThreadPoolExecutor(1) as beside, night.children:
        for sent, row in enumerate(rows):
            if publishing is None and sent >= SWAP_AT * len(rows):
                publishing = beside.submit(night.publish)
                progress.update(task, note="publishing the second night's bundle")
            if publishing is not None and sent == len(rows) - len(rows) // 5:
                note = _ensure_swapped(night, publishing.result(), miner)
                progress.update(task, note=note)
            if sent == 1:
                validator.wait_for(1)
            validator.send(Challenge(str(sent), night.data / row.image, row.label, row.group))
            progress.update(task, completed=sent)
            next(pacer)
    asked = validator.finish()
    progress.update(task, completed=len(rows))
    return asked, validator.first_answer_at - miner.spawned_at, note


def _ensure_swapped(night: Nights, run: Path, miner: MinerProcess) -> str:
    """Wait for the swap; if the gate kept the champion, activate the challenger by hand to show a swap."""
    publication = published(run)
    note = "challenger passed the gate"
    if publication.verdict == "REFUSE":
        raise StartError(f"the gate refused the second bundle: {'; '.join(publication.reasons)}")
    if not publication.accepted:
        note = f"gate kept the champion ({'; '.join(publication.reasons)}); challenger activated by hand to show a swap"
        Store(night.store).activate(publication.bundle, now=utc_now(), action="demo")
    miner.wait_for_bundle(publication.bundle)
    return note


def _paced(count: int, per_s: float) -> Iterator[None]:
    started = time.monotonic()
    for index in range(1, count + 1):
        delay = started + index / per_s - time.monotonic()
        if delay > 0:
            time.sleep(delay)
        yield
