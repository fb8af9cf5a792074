"""What a harvest at its cap costs: CPU time of an image, memory for what is known of each, with labels in many files.

    python -m benchmarks.harvest_at_cap
    python -m benchmarks.harvest_at_cap --pictures 2000 --images 500

The store is written as it lies on the disk after a long time: as many pictures as it may hold, as many of which only a
line is left, and labels of a quarter of them in one file for each import. Then images come: the mixture of a stream,
which makes room again and again, and random draws of one place that has more than it may have.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from benchmarks.live_risk_cost import resident_mib
from miner.harvest.harvest import limits_of
from miner.harvest.kept_image import KeptImage, Reason, week_of
from miner.harvest.settings import HarvestSettings
from miner.harvest.store import IMAGES, INDEX, HarvestStore
from stage1.monitor.audit import drawn_number

BEGAN = datetime(2026, 1, 5, tzinfo=UTC)
CONTENT = bytes(64)
SECRET = b"0123456789abcdef"
STEP = timedelta(seconds=10)


def made(number: int, *, site: int | None = None, drawn: bool = False, gone: bool = False) -> KeptImage:
    """An image as a miner keeps it."""
    at = BEGAN + number * STEP
    reason: Reason = "random" if drawn else ("deferred", "audited", "ambiguous")[number % 3]
    return KeptImage(
        sha256=hashlib.sha256(f"{number}".encode()).hexdigest(),
        at=at,
        reasons=(reason,),
        week=week_of(at) if drawn else "",
        request_id=f"{number:016x}",
        hotkey=f"5F{number % 64:046d}",
        bundle=f"{number // 5000:016x}",
        site=number if site is None else site,
        picture=int.from_bytes(hashlib.sha256(f"hash {number}".encode()).digest()[:8], "big"),
        size=len(CONTENT),
        suffix=".jpg",
        exit_label=None if number % 3 else 0,
        score=number / 7,
        probability=0.5,
        stage2_probability=None if number % 2 else 0.9,
        gone=gone,
    )


def filled(home: Path, pictures: int, imports: int) -> int:
    """Write a store at its cap; says the number of the next image."""
    order = range(2 * pictures)
    found = [made(number, drawn=number % 14 == 0, gone=number < pictures) for number in order]
    (home / "labels").mkdir(parents=True)
    for one in found[pictures:]:
        path = home / IMAGES / one.sha256[:2] / f"{one.sha256}{one.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT)
    (home / INDEX).write_text("".join(one.model_dump_json() + "\n" for one in found))
    labelled = [one.sha256 for one in found[::4]]
    for number in range(imports):
        lines = "".join(f'{{"sha256":"{name}","label":0}}\n' for name in labelled[number::imports])
        (home / "labels" / f"20260105T00{number:04d}.jsonl").write_text(lines)
    return 2 * pictures


def rank(image: KeptImage) -> float:
    """The number that a miner draws for an image."""
    return drawn_number(SECRET, f"{image.at.isoformat()}/{image.request_id}/{image.sha256}/harvest")


def timed(store: HarvestStore, images: Iterable[KeptImage]) -> tuple[float, float, float]:
    """Mean, 99th percentile and largest CPU time of an image, ms."""
    took = []
    for one in images:
        began = time.thread_time()
        store.keep(one, CONTENT)
        took.append((time.thread_time() - began) * 1e3)
    return float(np.mean(took)), float(np.percentile(took, 99)), max(took)


def told(what: str, act: Callable[[], tuple[float, float, float]]) -> None:
    mean, high, most = act()
    print(
        f"{what}: {mean:.3f} CPU-ms an image that is offered, 99th percentile {high:.3f}, largest {most:.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20_000, help="cap of the store")
    parser.add_argument("--images", type=int, default=5_000, help="images that come")
    parser.add_argument("--imports", type=int, default=200, help="files of labels")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory) / "harvest"
        home.mkdir()
        following = filled(home, arguments.pictures, arguments.imports)
        gc.collect()
        before, began = resident_mib(), time.process_time()
        limits = limits_of(HarvestSettings(max_pictures=arguments.pictures))
        store = HarvestStore(home, limits, rank=rank)
        gc.collect()
        held = resident_mib() - before
        print(f"opened in {time.process_time() - began:.1f} CPU-s; {held:.1f} MiB more resident", flush=True)
        print(
            f"{held * 2**20 / len(store.images):.0f} bytes for each of {len(store.images)} that are known", flush=True
        )
        numbers = range(following, following + arguments.images)
        told("a stream", lambda: timed(store, (made(one, drawn=one % 14 == 0) for one in numbers)))
        flood = range(numbers.stop, numbers.stop + arguments.images // 10)
        told("draws of one place", lambda: timed(store, (made(one, site=10**9, drawn=True) for one in flood)))
        gc.collect()
        print(f"{resident_mib() - before:.1f} MiB more resident at the end", flush=True)


if __name__ == "__main__":
    main()
