"""What a night costs of large pictures: CPU seconds, peak memory and decodings an image, of this checkout and another.

    python -m benchmarks.picture_nights --images 20000 --drawn 2000 --other /path/to/another/checkout

Scenes are drawn at five times their usual size, 1,600 x 1,200 px, so that a file is larger than what a model sees. If
fewer are drawn than there are images, each is stored several times, with another comment in the file and as another
place: to a night these are other files. Each checkout runs a night in a process of its own on the same files, and then
a second night with another seed. CPU time is that of the process and its children; the memory is what the process holds
beside files that are mapped (RssAnon). What is decoded is counted by the bytes of the original files.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

SCALE = 5
# Images a scene, on average.
VIEWS = 1.25
SETTINGS: dict[str, Any] = {
    "preprocess.size_px": 64,
    "model.backbone.layers": 2,
    "train_supervised.epochs": 1,
    "compare_training.baseline": False,
    "compare_training.repetitions": 5,
    "eval_selective.cell_rows": 30,
    "splits.hash_distance": None,
    "gate.least_mcc": -1,
}


def child(data: Path, home: Path, last: str, seed: int) -> None:
    """One night; prints what it took as JSON."""
    from offline.config import load_config
    from offline.night import run_night
    from stage1 import image_file

    files: Counter[str] = Counter()
    name = next(name for name in ("decoded", "decode") if hasattr(image_file, name))
    lock, before = threading.Lock(), getattr(image_file, name)

    def counted(content: bytes, limits: Any = None) -> Any:
        digest = hashlib.sha256(content).hexdigest()
        with lock:
            files[digest] += 1
        return before(content, limits)

    # Whoever has imported it by then has it under the same name.
    for module in list(sys.modules.values()):
        if getattr(module, name, None) is before:
            setattr(module, name, counted)
    peak, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            lines = Path("/proc/self/status").read_text().splitlines()
            peak[0] = max(peak[0], next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))

    watching = threading.Thread(target=look)
    watching.start()
    config = load_config("tiny", None, SETTINGS | {"seed": seed})
    run_night(data, workspace=home / "w", store=home / "s", config=config, last=last)
    ended.set()
    watching.join()
    own = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (data / "images").iterdir()]
    times = os.times()
    told = {
        "cpu_s": round(sum(times[:4]), 1),
        "peak_mb": round(peak[0] / 1024),
        "decodings": round(sum(files[digest] for digest in own) / len(own), 2),
        "most": max(files[digest] for digest in own),
    }
    print(json.dumps(told))


def store_again(data: Path, times: int) -> int:
    """Store each image so often in all, with other bytes and as another place; the number of images."""
    labels = data / "labels.csv"
    with labels.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = list(rows)
    for copy in range(1, times):
        comment = f"copy {copy}".encode()
        marker = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        for row in rows:
            before = data / row["image"]
            after = before.with_stem(f"{before.stem}_{copy}")
            content = before.read_bytes()
            after.write_bytes(content[:2] + marker + content[2:])
            found.append(row | {"image": f"images/{after.name}", "group": f"{row['group']}_{copy}"})
    with labels.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(found)
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--last", default="calibrate_scrc")
    parser.add_argument("--drawn", type=int, help="scenes are drawn for so many images; default all")
    parser.add_argument("--nights", type=int, default=2)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--child", nargs=4, metavar=("DATA", "HOME", "LAST", "SEED"))
    options = parser.parse_args()
    if options.child:
        data, home, last, seed = options.child
        child(Path(data), Path(home), last, int(seed))
        return
    from offline.data.sources.synthetic_streets import write_scenes

    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as place:
        drawn = min(options.drawn or options.images, options.images)
        list(write_scenes(Path(place) / "data", scenes=round(drawn / VIEWS), scale=SCALE))
        images = store_again(Path(place) / "data", round(options.images / drawn))
        for checkout in [*([options.other] if options.other else []), here]:
            home = Path(tempfile.mkdtemp(dir=place))
            for seed in range(options.nights):
                command = [sys.executable, "-P", str(Path(__file__).resolve()), "--child", f"{place}/data", str(home)]
                found = subprocess.run(
                    [*command, options.last, str(seed)],
                    env=os.environ | {"PYTHONPATH": str(checkout)},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                told = found.stdout.strip().splitlines()[-1]
                print(f"{checkout}, {images} images, night {seed + 1}: {told}", flush=True)


if __name__ == "__main__":
    main()
