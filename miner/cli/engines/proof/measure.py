"""Measures an engine for a proof."""

from __future__ import annotations

import contextlib
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

import numpy as np

from engines.backends.registry import check_available, compile_engine, open_engine
from engines.batches import in_batches
from engines.engine import Engine
from engines.errors import BundleRefused, InferenceError
from engines.live.load.golden_check import drift, limits
from engines.live.load.load_bundle import CheckedBundle, check_bundle
from engines.machine.gpu import Gpu, NoGpu, find_gpu
from engines.machine.memory import give_back
from engines.spec import EngineSpec
from engines.store.file_names import ENGINE, ENGINE_PREFIXES, GOLDEN
from engines.store.golden import read_golden
from engines.store.shared_file import share
from engines.store.store import Store
from miner.cli.engines.proof.machine import this_machine
from miner.cli.engines.proof.record import Agreement, Memory, Proof, Speed
from miner.update.check import installed_version
from stage1.errors import Stage1Error
from stage1.outputs import Stage1Outputs
from stage1.policy import ScrcPolicy
from stage1.preprocess import Pixels

STATUS = Path("/proc/self/status")
FEWEST_CALLS = 5


def prove(
    root: Path,
    bundle: str,
    *,
    batches: Sequence[int],
    seconds: float,
    now: datetime,
    spec: EngineSpec | None = None,
    threads: int | None = None,
    find: Callable[[], Gpu | NoGpu] = find_gpu,
) -> Proof:
    """A proof of the engine of a bundle on this machine.

    Args:
        root: the store.
        bundle: id, or its beginning.
        batches: sizes of batches, in ascending order.
        seconds: that calls of each size are timed for; at least five calls.
        now: the time, with a time zone.
        spec: another engine than the one that the bundle was certified on.
        threads: intra-op threads on a CPU; None for all cores.
        find: looks for the GPU.

    Raises:
        UnknownBundle: it is not in the store.
        BundleRefused: it is damaged, or the engine cannot be opened here.
    """
    home = Store(root).path(bundle)
    checked = check_bundle(home)
    chosen = spec or checked.spec
    gpu = find()
    check_available(chosen, gpu)
    tolerance = checked.manifest.parity_tolerance
    images, expected = read_golden(home / GOLDEN)
    before = _status("VmRSS")
    # Beside the bundle, so that links do instead of copies.
    with tempfile.TemporaryDirectory(prefix=".prove-", dir=root) as scratch:
        model = home / ENGINE if chosen == checked.spec else _compiled(chosen, home, Path(scratch))
        begun = time.perf_counter()
        with closing(open_engine(chosen, model, threads=threads)) as engine:
            # What fails at one size fails again below, where it is written down.
            with contextlib.suppress(InferenceError, Stage1Error):
                engine.warm_up(max(batches))
            load_s = time.perf_counter() - begun
            loaded, taken = _status("VmRSS"), _taken(gpu, find)
            about = engine.describe()
            agreement = _agreements(engine, checked, images, expected, batches)
            speed = tuple(_speed(engine, size, seconds) for size in batches)
    del engine
    gc.collect()
    give_back()
    after = _status("VmRSS")
    return Proof(
        bundle=checked.manifest.bundle_id,
        program=installed_version(),
        at=now.isoformat(timespec="seconds"),
        spec=chosen,
        runtime=about.runtime,
        rung=about.rung,
        details=about.details,
        image=(3, *about.shape),
        tolerance=tolerance,
        limits=limits(expected, tolerance, checked.spec.precision, chosen.precision),
        load_s=round(load_s, 3),
        machine=this_machine(gpu),
        agreement=agreement,
        speed=speed,
        memory=Memory(
            before_bytes=before,
            loaded_bytes=loaded,
            # The kernel counts by core, and adds up the most less often than it is asked for the rest.
            peak_bytes=max(before, loaded, after, _status("VmHWM")),
            after_bytes=after,
            gpu_bytes=taken,
        ),
    ).sealed()


def _compiled(spec: EngineSpec, home: Path, scratch: Path) -> Path:
    for path in home.iterdir():
        if path.name.startswith(ENGINE_PREFIXES):
            share(path, scratch / path.name)
    compile_engine(spec, scratch / ENGINE)
    return scratch / ENGINE


def _agreements(
    engine: Engine, checked: CheckedBundle, images: Pixels, expected: Stage1Outputs, batches: Sequence[int]
) -> tuple[Agreement, ...]:
    decided = ScrcPolicy(checked.params).decide(expected).exit_label

    def at(size: int) -> Agreement:
        try:
            found = in_batches(engine, images, size)
            logits, score, *heads = drift(found, expected)
        except (InferenceError, Stage1Error, BundleRefused) as error:
            # That is what is to be proved.
            return Agreement(batch=size, images=len(images), error=str(error))
        return Agreement(
            batch=size,
            images=len(images),
            logits=logits,
            select_score=score,
            heads=dict(zip(expected.heads, heads, strict=True)),
            flips=_flips(found, decided, checked),
        )

    return tuple(at(size) for size in batches)


def _flips(found: Stage1Outputs, decided: np.ndarray, checked: CheckedBundle) -> int:
    return int((ScrcPolicy(checked.params).decide(found).exit_label != decided).sum())


def _speed(engine: Engine, size: int, seconds: float) -> Speed:
    images = _noise(size, engine.describe().shape)
    taken, until = list[float](), time.perf_counter() + seconds
    while len(taken) < FEWEST_CALLS or time.perf_counter() < until:
        begun = time.perf_counter()
        try:
            engine.infer(images)
        except (InferenceError, Stage1Error):
            return Speed(batch=size, calls=0)
        taken.append(time.perf_counter() - begun)
    p50, p99 = (float(one) for one in np.quantile(taken, (0.5, 0.99)))
    return Speed(
        batch=size,
        calls=len(taken),
        p50_ms=round(p50 * 1e3, 3),
        p99_ms=round(p99 * 1e3, 3),
        images_per_s=round(size / p50, 2),
    )


def _noise(size: int, shape: tuple[int, int]) -> Pixels:
    # A GPU multiplies zeros faster than numbers.
    return np.random.default_rng(size).integers(0, 256, (size, 3, *shape), np.uint8)


def _status(field: str) -> int:
    """Of this process, bytes; 0 where the kernel does not tell."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def _taken(gpu: Gpu | NoGpu, find: Callable[[], Gpu | NoGpu]) -> int | None:
    """Memory of the GPU that is taken since; None where there is no GPU, or somebody gave some back meanwhile."""
    after = find() if isinstance(gpu, Gpu) else gpu
    if isinstance(gpu, NoGpu) or isinstance(after, NoGpu) or after.free_bytes > gpu.free_bytes:
        return None
    return gpu.free_bytes - after.free_bytes
