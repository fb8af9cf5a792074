"""What the watch on the live certificate costs a request: CPU time with it and without it, in turns in one process.

    python -m benchmarks.live_risk_cost --requests 2000
    python -m benchmarks.live_risk_cost --memory 1000000
    python -m benchmarks.live_risk_cost --memory 1000000 --watch-only

Pictures are asked in blocks of eight, each with the watch and without it, in changing order. Before an answer the watch
works on the event loop alone, whose CPU time is read around every answer; that of the process is read when the thread
that looks at pictures is done. With `--memory`, so many images go through the watch, the harvest and the journal, and
what they hold and have written is told on the way.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import trim_mean

from benchmarks.made_bundles import SIZE_PX, images, linear, publish
from engines.live.batcher import Batcher
from engines.live.load.load_bundle import LiveBundle, load_bundle
from engines.live.settings import BatchSettings
from engines.live.slot import BundleSlot
from engines.machine.tally import Tally
from engines.store.store import Store
from miner.answering.cascade import Cascade
from miner.answering.deadline import TimeBudget
from miner.answering.journal import Journal
from miner.answering.record import RequestRecord, SeenImage
from miner.answering.request import Request
from miner.answering.settings import EngineSettings
from miner.harvest.harvest import Harvest
from miner.harvest.settings import HarvestSettings
from miner.live_risk.live_risk import LiveRisk
from miner.live_risk.settings import LiveRiskSettings
from stage1.decisions import Action
from stage1.preprocess import Pixels
from stage2_bridge.bridge import Bridge
from stage2_bridge.client import Outcome

# The thread begins a tenth of a second after an answer.
DONE_S, BLOCK = 0.16, 8
TRIMMED = 0.1
# What is kept of a picture in the trial of memory, and of all of them.
CONTENT, HARVEST_MIB = bytes(4096), 16
# Between two of them, seconds.
STEP_S = 10


def bundle_in(home: Path) -> LiveBundle:
    home.mkdir(parents=True, exist_ok=True)
    store = Store(home / "store")
    engine = linear(home / "engine.onnx", SIZE_PX)
    return load_bundle(store.path(publish(store, engine, home / "files")), threads=1)


def encoded(number: int) -> list[str]:
    """JPEGs of about 110 kB."""
    found = []
    for place, picture in enumerate(images(number).transpose(0, 2, 3, 1)):
        # The engine scores red against blue, and trusts green: most of these exit, most of them with 0.
        tint = (80, 60, -80) if place % 4 == 0 else (-80, 60, 80)
        tinted = np.clip(picture.astype(np.int16) + tint, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(tinted).resize((896, 896)).save(file, "JPEG", quality=75)
        found.append(base64.b64encode(file.getvalue()).decode())
    return found


def opened(bundle: LiveBundle, risk: LiveRisk | None) -> Cascade:
    slot = BundleSlot()
    slot.swap(bundle)
    return Cascade(
        slot,
        Batcher(BatchSettings()),
        Bridge(None, max_in_flight=4, clock=time.monotonic),
        observers=() if risk is None else (risk,),
        image_observers=() if risk is None else (risk,),
        policy=None if risk is None else risk.policy,
        engine=EngineSettings(workers=1),
        clock=time.monotonic,
        now=lambda: datetime.now(UTC),
    )


async def cost(home: Path, requests: int, *, audits: bool) -> None:
    bundle, pictures = bundle_in(home), encoded(160)
    risk = LiveRisk(home / "risk", LiveRiskSettings(audits=audits), now=lambda: datetime.now(UTC))
    risk.live(bundle)
    cascades = {"without": opened(bundle, None), "with": opened(bundle, risk)}
    budget = TimeBudget(deadline_s=30.0, margin_s=0.0, reserve_s=0.1)
    before: dict[str, list[float]] = {name: [] for name in cascades}
    whole: dict[str, list[float]] = {name: [] for name in cascades}
    for block in range(requests // BLOCK):
        turns = list(cascades) if block % 2 else list(cascades)[::-1]
        for name in turns:
            began, loop = time.process_time(), 0.0
            for number in range(block * BLOCK, (block + 1) * BLOCK):
                deadline = budget.deadline(time.monotonic(), 60.0)
                # Of a caller of its own, so that every exit is of a place of its own and may be audited.
                request = Request(f"{number}", f"caller {number}", None, pictures[number % len(pictures)], deadline)
                asked = time.thread_time()
                await cascades[name].answer(request)
                loop += time.thread_time() - asked
            await asyncio.sleep(DONE_S)
            before[name].append(loop / BLOCK * 1e3)
            whole[name].append((time.process_time() - began) / BLOCK * 1e3)
    for what, values in (("on the loop, before the answer", before), ("in all", whole)):
        told(f"{what}, audits {'on' if audits else 'off'}", values["with"], values["without"])
    print(f"  audits drawn: {risk.status().get('waiting')}, failed: {risk.status()['failed']}")
    risk.close()
    for cascade in cascades.values():
        await cascade.close()


def told(what: str, on: Sequence[float], off: Sequence[float]) -> None:
    """Trimmed means, and that of the differences of the same block with its standard error."""
    differences = np.sort(np.array(on) - np.array(off))
    cut = int(len(differences) * TRIMMED)
    middle = differences[cut : len(differences) - cut]
    error = middle.std() / np.sqrt(len(middle))
    print(
        f"{what}: {trim_mean(on, TRIMMED):.3f} with, {trim_mean(off, TRIMMED):.3f} without, difference "
        f"{middle.mean():+.4f} +- {error:.4f} CPU-ms",
        flush=True,
    )


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def on_disk(home: Path) -> str:
    """What each directory and file of a home takes, MiB."""
    parts = {"hours": "metrics_live.csv*", "audits": "streams/*/audits*.jsonl", "waiting": "streams/*/images/*"}
    found = {name: list((home / "live_risk").glob(glob)) for name, glob in parts.items()}
    found |= {"places": list((home / "live_risk").glob("sites.json"))}
    found |= {"harvest": [path for path in (home / "harvest").rglob("*") if path.is_file()]}
    found |= {"journal": list(home.glob("journal.jsonl*"))}
    sizes = {name: sum(path.stat().st_size for path in paths) / 2**20 for name, paths in found.items()}
    return ", ".join(f"{name} {size:.1f}" for name, size in sizes.items())


def decades(number: int) -> set[int]:
    """1, 2 and 5 times every power of ten up to a number, and the number."""
    steps = {factor * 10**power for power in range(2, 10) for factor in (1, 2, 5)}
    return {step for step in steps if step < number} | {number}


def memory(home: Path, number: int, *, picked: bool, harvested: bool) -> None:
    """So many images through the watch, the harvest and the journal, some seconds apart by their clock."""
    bundle = bundle_in(home)
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    settings = LiveRiskSettings(audits=True, most_waiting=200)
    risk = LiveRisk(home / "live_risk", settings, now=lambda: clock[0])
    kept = HarvestSettings(max_mib=HARVEST_MIB, picked=picked)
    harvest = Harvest(home / "harvest", kept, secret=b"0123456789abcdef")
    risk.contradicted = harvest.take_contradicted
    lost = Tally("journal_failed")
    journal = Journal(home, lost)
    risk.live(bundle)
    rng, began, told = np.random.default_rng(0), time.process_time(), decades(number)
    for one in range(1, number + 1):
        clock[0] += timedelta(seconds=STEP_S)
        seen = SeenImage(made_record(rng, one, clock[0], bundle), CONTENT, pixels(rng), bundle.params)
        label = seen.record.likelier_label or 0
        for observer in (risk, journal):
            observer.on_answer(seen.record)
        risk.take(seen)
        # In its own thread, as in a miner, where what audits contradict is kept too.
        if harvested:
            harvest.queue.disk.submit(partial(harvest.take, seen)).result()
        if (found := risk.unasked()) is not None:
            # One of a hundred is contradicted, and a person agrees with the miner.
            contradicted = one % 100 == 0
            risk.said(found[0], found[1].number, "expert", 0.9 * (label ^ contradicted))
            if contradicted:
                risk.labelled(found[0], found[1].number, found[1].exit_label, "person")
        if one % (3600 // STEP_S) == 0:
            # An hour is over.
            risk.tick()
        if one in told:
            print(f"{one:>9} images: {resident_mib():.1f} MiB resident; MiB on disk: {on_disk(home)}", flush=True)
    print(f"{(time.process_time() - began) / number * 1e3:.3f} CPU-ms an image with its verdict")
    print(
        f"not taken: {dict(risk.lost.counts)} {dict(harvest.lost.counts)}, records lost: {lost.counts['record_lost']}"
    )
    risk.close()
    harvest.close()
    journal.close()


def pixels(rng: np.random.Generator) -> Pixels:
    """Noise, which looks like no other picture."""
    return rng.integers(0, 256, (3, 32, 32), dtype=np.uint8)


def made_record(rng: np.random.Generator, one: int, at: datetime, bundle: LiveBundle) -> RequestRecord:
    """An answer: three of ten are roadwork, and Stage-2 answers one of seven."""
    label, defers = int(rng.random() < 0.3), bool(rng.random() < 1 / 7)
    return RequestRecord(
        request_id=f"{one:016x}",
        at=at,
        hotkey=f"caller {one % 64}",
        result="answered",
        answer=0.5,
        bundle=bundle.bundle_id,
        image_sha256=f"{one:064x}",
        action=Action.DEFER if defers else Action.EXIT,
        level="AMBIGUOUS" if defers else "SURE",
        review=defers and one % 3 == 0,
        prediction_set=(0, 1) if defers else (label,),
        likelier_label=label,
        roadwork_score=float(rng.normal()),
        select_score=1.0,
        stage1_probability=0.5,
        stage2=Outcome.ANSWERED if defers else None,
        stage2_probability=0.9 * label if defers else None,
        stage1_ms=1.0,
        total_ms=1.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--memory", type=int, help="images of the trial of memory")
    parser.add_argument("--random-only", action="store_true", help="harvest.picked = false in the trial of memory")
    parser.add_argument("--watch-only", action="store_true", help="without the harvest in the trial of memory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if arguments.memory is not None:
            kept = {"picked": not arguments.random_only, "harvested": not arguments.watch_only}
            memory(Path(directory), arguments.memory, **kept)
            return
        for audits in (False, True):
            asyncio.run(cost(Path(directory) / str(audits), arguments.requests, audits=audits))


if __name__ == "__main__":
    main()
