"""What the parts of a training take, beside those of another checkout of this project.

    python -m benchmarks.training_throughput --tree ../before
    python -m benchmarks.training_throughput --tree ../before --precision bf16 --rounds 12 --only steps_anew predict
    python -m benchmarks.training_throughput --tree ../before --memory 20000

Each checkout has a process that holds a network and images and waits. The two take turns: in every round each does the
same work once, and who is first changes from round to round, because whoever comes second finds a warm machine. A ratio
is the other checkout's time by that of this one, as the geometric mean over the rounds, with its 95% interval; above 1
this one is faster. Without `--tree` both processes run this checkout, which shows what the noise of the machine is.

`augment` draws a batch of views as validators send them; `steps_anew` is the steps of an epoch on such views, and
`steps_kept` those behind the frozen blocks; `fill` fills the cache of frozen activations; `look_up` finds all of it
there; `predict` is what the report's comparison asks of a network, each checkout at the precision that it asks it at.

With `--memory` each decodes so many pictures, as a stage does, and draws batches of them. Printed is the most memory
that its process had: of its own, which the system cannot take back, and with the pages of files that it can.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
WORK = ("augment", "steps_anew", "steps_kept", "fill", "look_up", "predict")
QUANTILE = 1.96


class Side:
    """A checkout's process.

    Args:
        tree: the checkout.
        options: of the command line.
        home: directory of its own.
    """

    def __init__(self, tree: Path, options: argparse.Namespace, home: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(options.threads)}
        told = json.dumps({**vars(options), "tree": str(tree), "home": str(home)})
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work", told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=tree,
        )
        self._ask("ready")

    def seconds(self, work: str) -> tuple[float, float]:
        """Wall and CPU seconds of one piece of work."""
        wall, cpu = json.loads(self._ask(work))
        return wall, cpu

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self._process.args!r}: ended with status {self._process.wait()}")
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def ratio(pairs: list[tuple[float, float]]) -> str:
    """Geometric mean of second by first with its interval."""
    logs = [math.log(theirs / ours) for ours, theirs in pairs]
    mean = statistics.fmean(logs)
    error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
    low, high = (math.exp(mean + sign * QUANTILE * error) for sign in (-1, 1))
    return f"{math.exp(mean):>6.2f} [{low:.2f}, {high:.2f}]"


def compare(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        trees = {"ours": HERE, "theirs": options.tree.resolve()}
        sides = {side: Side(tree, options, Path(name) / side) for side, tree in trees.items()}
        print(f"{'':12}{'ours, s':>9}{'theirs, s':>10}{'ratio of wall time':>24}{'ratio of CPU time':>24}")
        for work in options.only:
            found: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
            for number in range(options.rounds + 1):
                order = list(sides) if number % 2 else list(sides)[::-1]
                for side in order:
                    seconds = sides[side].seconds(work)
                    # The first round compiles, reads and fills what the others find.
                    if number:
                        found[side].append(seconds)
            walls, cpus = (
                [(a[kind], b[kind]) for a, b in zip(found["ours"], found["theirs"], strict=True)] for kind in (0, 1)
            )
            medians = [statistics.median(wall for wall, _ in found[side]) for side in ("ours", "theirs")]
            print(f"{work:12}{medians[0]:>9.2f}{medians[1]:>10.2f}{ratio(walls):>24}{ratio(cpus):>24}", flush=True)
        for each in sides.values():
            each.close()


def memory(options: argparse.Namespace) -> None:
    """Print what pictures take, in each checkout."""
    with tempfile.TemporaryDirectory() as name:
        print(f"{'':10}{'own, MiB':>10}{'all, MiB':>10}{'seconds':>9}")
        for side, tree in {"ours": HERE, "theirs": options.tree}.items():
            told = json.dumps({"count": options.memory, "size": options.size, "home": name, "tree": str(tree)})
            child = subprocess.run(
                [sys.executable, __file__, "--hold", told],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(tree)},
                cwd=tree,
                check=True,
            )
            own, everything, seconds = json.loads(child.stdout)
            print(f"{side:10}{own / 1024:>10.0f}{everything / 1024:>10.0f}{seconds:>9.0f}", flush=True)


def hold(told: str) -> None:
    """Be a stage that reads pictures, and write what memory it had at most, in KiB, and how long it took."""
    given = json.loads(told)
    sys.path[0] = given["tree"]
    import hashlib
    import threading

    import numpy as np

    from offline.data.dataset import Dataset, Row
    from stage1.preprocess import PreprocessSettings

    home, files, settings = Path(given["home"]), 64, PreprocessSettings(size_px=given["size"])
    for number in range(files):
        _draw(home / f"{number}.jpg", number, (320, 180))
    rows = tuple(Row(image=f"row {n}", label=n % 2, group=str(n)) for n in range(given["count"]))
    data = Dataset(home, rows, paths={row.image: f"{n % files}.jpg" for n, row in enumerate(rows)})
    most, ended = [0, 0], threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
            status = {words[0]: int(words[1]) for words in lines if words[0] in {"RssAnon:", "VmRSS:"}}
            for place, name in enumerate(("RssAnon:", "VmRSS:")):
                most[place] = max(most[place], status[name])

    watching = threading.Thread(target=look)
    watching.start()
    began = time.perf_counter()
    try:
        from offline.data.originals import Copies
        from offline.data.pictures.pixel_store import PixelStore
    except ImportError:
        images: Any = data.array(settings)
    else:
        known = {row.image: hashlib.sha256(data.file_of(row.image).read_bytes()).hexdigest() for row in rows}
        store = PixelStore(home / "pixels", Copies(home / "copies", settings), known)
        images = store.images(data.keeping(store), settings)
    order = np.random.default_rng(0).permutation(len(images))
    total = sum(int(images[order[start : start + 32]].sum()) for start in range(0, len(order), 32))
    assert total
    ended.set()
    watching.join()
    print(json.dumps([*most, time.perf_counter() - began]))


class Workplace:
    """What a process holds; it uses only what both checkouts have.

    Args:
        options: of the command line, with the process's own directory.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        import numpy as np
        import torch
        from transformers import DINOv3ViTConfig, DINOv3ViTModel
        from transformers.utils import logging

        from offline.data.dataset import Dataset, Row
        from offline.learning.challenge_views import ChallengeViews
        from offline.learning.predict import ImageSet
        from stage1.certificate.stream import even_weights
        from stage1.model.settings import ModelSettings, PretrainedBackbone
        from stage1.preprocess import PreprocessSettings

        warnings.simplefilter("ignore")
        self._options, self._home = options, Path(options["home"])
        self._home.mkdir(parents=True, exist_ok=True)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        torch.manual_seed(0)
        width = options["hidden"]
        config = DINOv3ViTConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=options["layers"],
            num_attention_heads=width // 64,
            num_register_tokens=4,
            initializer_range=width**-0.5,
        )
        DINOv3ViTModel(config).save_pretrained(self._home / "backbone")
        self._model = ModelSettings(
            backbone=PretrainedBackbone(name=str(self._home / "backbone")), last_layers=options["last"], adapter="lora"
        )
        preprocess = PreprocessSettings(size_px=options["size"])
        rows = tuple(Row(image=f"{n}.jpg", label=n % 2, group=str(n)) for n in range(options["images"]))
        data = Dataset(self._home, rows)
        for number, row in enumerate(rows):
            _draw(self._home / row.image, number)
        self._train = ImageSet(data.array(preprocess), data)
        self._judged = ImageSet(self._train.images[:4], Dataset(self._home, rows[:4]))
        self._challenges = ChallengeViews(data, preprocess, even_weights())
        self._order = np.arange(options["batch"])
        self._fills = 0

    def run(self, work: str) -> tuple[float, float]:
        """Wall and CPU seconds of one piece of work."""
        import torch

        prepared: Callable[[], Callable[[], None]] = getattr(self, f"_{work}")
        todo = prepared()
        wall, cpu = time.perf_counter(), time.process_time()
        found = todo()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - wall, time.process_time() - cpu
        return found if isinstance(found, tuple) else elapsed

    def _net(self, adapters: bool = True) -> Any:
        from stage1.model.adapters.attach import add_adapters
        from stage1.model.backbones import build

        side = self._options["size"]
        # Checkouts from before an input had a height and a width name its side.
        named = "shape" in inspect.signature(build).parameters
        size: Any = {"shape": (side, side)} if named else {"size_px": side}
        net = build(self._model, **size, seed=0)
        if adapters:
            add_adapters(net, self._model)
        return net.to(self._device)

    def _augment(self) -> Callable[[], object]:
        import torch

        from offline.learning.augmentation import augmenter
        from offline.learning.supervised.inputs import FreshViews

        views = FreshViews(self._train.images, augmenter("strong"), self._device, self._challenges)
        return lambda: _void(views.draw(self._order, torch.Generator()))

    def _steps(self, cache: str) -> Callable[[], object]:
        from offline.learning.settings import TrainSettings
        from offline.learning.supervised.train import Trainee, train_supervised
        from stage1.certificate.settings import CalibrationSettings

        settings = TrainSettings(
            epochs=1,
            batch_size=self._options["batch"],
            augmentation="strong",
            precision=self._options["precision"],
            cache=cache,
            cache_views=2,
            cache_share=1.0,
        )
        trainee = Trainee(self._net(), self._train, self._judged, challenges=self._challenges)
        ends: list[tuple[float, float]] = []

        def tell(_done: int, _total: int, note: str) -> None:
            if "keeping" not in note:
                ends.append((time.perf_counter(), time.process_time()))

        def run() -> tuple[float, float]:
            calibration = CalibrationSettings(alpha=0.1, unit="row", grid_size=30, gate_size=5)
            train_supervised(trainee, settings, calibration, seed=0, progress=tell, cache=self._home / "prefixes")
            # From the first step on; the last one tells of the epoch's judgement.
            return ends[-2][0] - ends[0][0], ends[-2][1] - ends[0][1]

        return run

    def _steps_anew(self) -> Callable[[], object]:
        return self._steps("off")

    def _steps_kept(self) -> Callable[[], object]:
        return self._steps("on")

    def _inputs(self, directory: Path) -> Callable[[], object]:
        from offline.learning.settings import TrainSettings
        from offline.learning.supervised.inputs import choose_inputs

        net, precision = self._net(), self._options["precision"]
        directory.mkdir(exist_ok=True)
        settings = TrainSettings(augmentation="strong", cache="on", cache_views=2, cache_share=1.0, precision=precision)
        return lambda: _void(
            choose_inputs(
                net,
                self._train.images,
                self._judged.images,
                settings,
                challenges=self._challenges,
                seed=0,
                device=self._device,
                directory=directory,
                progress=lambda *_: None,
                check=lambda: None,
            )
        )

    def _fill(self) -> Callable[[], object]:
        self._fills += 1
        return self._inputs(self._home / f"fill{self._fills}")

    def _look_up(self) -> Callable[[], object]:
        return self._inputs(self._home / "looked_up")

    def _predict(self) -> Callable[[], object]:
        from offline.learning.predict import predict

        net = self._net(adapters=False)
        # The report's comparison was computed in fp32 whatever the training's precision was.
        ours = Path(self._options["tree"]) == HERE
        precision: Any = self._options["precision"] if ours else "fp32"
        return lambda: _void(predict(net, self._train.images, precision))


def _void(_: object) -> None:
    """Drop what work returns."""


def _draw(path: Path, seed: int, size: tuple[int, int] = (1280, 720)) -> None:
    """A street of noise."""
    import numpy as np
    from PIL import Image

    rough = np.random.default_rng(seed).integers(0, 256, (45, 80, 3), np.uint8)
    Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC).save(path, quality=85)


def work(told: str) -> None:
    """Be one side: read names of work, write its seconds."""
    sys.path[0] = json.loads(told)["tree"]
    place = Workplace(json.loads(told))
    for line in sys.stdin:
        name = line.strip()
        print(json.dumps([0, 0] if name == "ready" else place.run(name)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=HERE, help="the checkout to compare with")
    parser.add_argument("--rounds", type=int, default=8, help="times that the two take turns, after one to warm up")
    parser.add_argument("--only", nargs="+", default=list(WORK), choices=WORK, help="what to compare")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="of the forward pass")
    parser.add_argument("--hidden", type=int, default=192, help="width of the backbone; a multiple of 64")
    parser.add_argument("--layers", type=int, default=12, help="its blocks")
    parser.add_argument("--last", type=int, default=3, help="adapted blocks")
    parser.add_argument("--size", type=int, default=224, help="side of the images, px")
    parser.add_argument("--images", type=int, default=64, help="images that train")
    parser.add_argument("--batch", type=int, default=16, help="images of a step")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of a matrix product")
    parser.add_argument("--memory", type=int, help="pictures to hold, instead of the comparison of times")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--hold", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(options.work)
        return
    if options.hold is not None:
        hold(options.hold)
        return
    options.tree = options.tree.resolve()
    if options.memory is not None:
        memory(options)
        return
    hidden = {"work", "hold", "memory", "only"}
    shown = ", ".join(f"{name} {value}" for name, value in vars(options).items() if name not in hidden)
    print(f"{shown}\n")
    compare(options)


if __name__ == "__main__":
    main()
