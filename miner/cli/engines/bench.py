"""`cascade engines bench`: a bundle's graph on every engine of this machine."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engines.backends.registry import check_available, compile_engine, known, open_engine, slow_to_compile
from engines.batches import buckets, in_batches
from engines.engine import Engine
from engines.errors import EngineError
from engines.live.load.engine_choice import RECORD, EngineChoice, Tried, chosen, machine_key
from engines.live.load.golden_check import check_parity
from engines.machine.gpu import find_gpu
from engines.spec import REFERENCE, EngineSpec
from engines.store.bundle import certified_spec
from engines.store.file_names import ENGINE, ENGINE_PREFIXES, GOLDEN, PARAMS
from engines.store.golden import read_golden
from engines.store.store import Store
from stage1.certificate.params import ScrcParams
from stage1.errors import Stage1Error
from stage1.outputs import Stage1Outputs
from stage1.policy import ScrcPolicy
from stage1.preprocess import Pixels

BATCH = 8


@dataclass
class Measured:
    """An engine, and what was measured of it.

    Attributes:
        engine: open.
        load_s: seconds to open it and to answer once.
        seconds: of a call by its number of images, one of each round.
    """

    engine: Engine
    load_s: float
    seconds: dict[int, list[float]] = field(default_factory=lambda: {1: [], BATCH: []})


def bench(root: Path, bundle: str, *, rounds: int, threads: int | None, slow: bool = False, record: str = "") -> str:
    """A table: milliseconds of one image, images a second in batches of eight, ratios to ONNX Runtime in fp32, drift.

    The engines take turns, and ratios are medians of the ratios within a round. Drift is the largest difference of a
    roadwork score from the reference on the golden images, and beside it how many the certified rule decides otherwise.
    Engines that take minutes to compile are left out, unless `slow`. What `auto` stands for is named, and kept in the
    store if `record` tells the time.

    Raises:
        UnknownBundle: it is not in the store.
        BundleRefused: it is damaged.
    """
    store = Store(root)
    home = store.path(bundle)
    images, _ = read_golden(home / GOLDEN)
    manifest = store.verify(bundle)
    policy, lines, opened = ScrcPolicy(ScrcParams.read(home / PARAMS)), [], dict[EngineSpec, Measured]()
    # Beside the bundle, so that links do instead of copies.
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=root) as scratch:
        for spec in known():
            if slow_to_compile(spec) and not slow:
                lines.append(f"{spec!s:<24} not tried: compiling it takes minutes, see --slow")
                continue
            try:
                opened[spec] = _open(spec, home, Path(scratch) / str(spec).replace(" ", "-"), images, threads)
            except EngineError as error:
                lines.append(f"{spec!s:<24} no: {str(error).removeprefix(f'{spec}: ')}")
        _take_turns(list(opened.values()), images, rounds)
        truth = in_batches(opened[REFERENCE].engine, images, 1)
        head = f"{'engine':<24} {'1 image':>9} {'ratio':>6} {f'by {BATCH}':>12} {'ratio':>6} {'load':>7} {'drift':>8}"
        rows = [_row(spec, found, opened[REFERENCE], truth, images, policy) for spec, found in opened.items()]
        tried = [_tried(spec, found, home, manifest.parity_tolerance) for spec, found in opened.items()]
        for found in opened.values():
            found.engine.close()
    lines.append(f"auto: {chosen(tried)}{'' if record else ' (kept by --record)'}")
    if record:
        choice = EngineChoice(
            machine=machine_key(find_gpu()),
            bundle=manifest.bundle_id,
            measured_at=record,
            chosen=chosen(tried),
            tried=tuple(tried),
        )
        choice.write(root / RECORD)
    return "\n".join([f"{head} flips", *rows, *lines])


def _tried(spec: EngineSpec, found: Measured, home: Path, tolerance: float) -> Tried:
    """What was measured, and whether the golden images of the bundle let it serve."""
    certified = certified_spec(home)
    try:
        check_parity(found.engine, home / GOLDEN, tolerance, precision=certified.precision, sizes=buckets(BATCH))
        reason = ""
    except (EngineError, Stage1Error) as error:
        reason = str(error)
    return Tried(engine=spec, seconds=statistics.median(found.seconds[1]), reason=reason)


def _open(spec: EngineSpec, home: Path, scratch: Path, images: Pixels, threads: int | None) -> Measured:
    check_available(spec)
    scratch.mkdir()
    for path in home.iterdir():
        if path.name.startswith(ENGINE_PREFIXES):
            os.link(path, scratch / path.name)
    compile_engine(spec, scratch / ENGINE)
    begun = time.perf_counter()
    engine = open_engine(spec, scratch / ENGINE, threads=threads)
    engine.infer(images[:1])
    measured = Measured(engine, time.perf_counter() - begun)
    engine.warm_up(BATCH)
    return measured


def _take_turns(engines: list[Measured], images: Pixels, rounds: int) -> None:
    many = np.resize(images, (BATCH, *images.shape[1:]))
    for _ in range(rounds):
        for measured in engines:
            for size, taken in measured.seconds.items():
                begun = time.perf_counter()
                measured.engine.infer(many[:size])
                taken.append(time.perf_counter() - begun)


def _row(
    spec: EngineSpec, found: Measured, reference: Measured, truth: Stage1Outputs, images: Pixels, policy: ScrcPolicy
) -> str:
    outputs = in_batches(found.engine, images, 1)
    drift = float(np.abs(outputs.roadwork_score - truth.roadwork_score).max())
    flips = int((policy.decide(outputs).exit_label != policy.decide(truth).exit_label).sum())
    one, many = (statistics.median(found.seconds[size]) for size in (1, BATCH))
    ratio = [
        statistics.median(
            theirs / ours for theirs, ours in zip(reference.seconds[size], found.seconds[size], strict=True)
        )
        for size in (1, BATCH)
    ]
    return (
        f"{spec!s:<24} {one * 1e3:>6.1f} ms {ratio[0]:>6.2f} {BATCH / many:>7.1f} im/s {ratio[1]:>6.2f} "
        f"{found.load_s:>5.1f} s {drift:>8.1e} {flips}/{len(images)}"
    )
