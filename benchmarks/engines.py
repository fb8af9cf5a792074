"""The engines of a CPU side by side: time, memory and what their precision costs, each in a process of its own.

    python -m benchmarks.engines
    python -m benchmarks.engines --quick                  # a small network: shows that the script runs
    python -m benchmarks.engines --data DATA --backbone DIRECTORY --out benchmarks/results/engines.md

The network has the shape of DINOv3 ViT-S/16 and random weights, and images are noise; with --data they are photographs,
and the network is the backbone with heads that were trained on a third of them. It is exported once and kept. In every
round each
engine gets its turn while the others wait, and the ratios to ONNX Runtime in fp32 are medians of the ratios within a
round, above 1 where the engine is faster. Load is from the import of the runtime to the first answer; resident is the
whole process with Python in it. Error is the largest difference of a logit from torch, and alone the largest one
between an image by itself and among eight, both as shares of the largest logit. Flips are images that end on the
other side of the median of torch's roadwork scores: random weights have no threshold of their own.

With photographs each engine is also calibrated through itself, at --alpha, on the rows that trained nothing: what it
exits is the certified coverage, and flips are photographs that the reference's own certified rule decides otherwise on
its outputs, which is what serving with it on the reference's certificate would do. And each engine runs beside a thread
that wants to wake up every 5 ms, as a server does: late is the 99th percentile of how late it is, with as many threads
as there are cores and with one less.

OpenVINO in int8 is quantised by NNCF, on 64 of the images (of photographs: of those that trained), if that is installed
(`pip install nncf`). It is no engine of this project, and stands here to be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np

from benchmarks import trained_heads
from benchmarks.random_dinov3 import VITS, Shape, network
from benchmarks.trained_heads import Pictures
from engines.backends.openvino import load_openvino
from engines.errors import BundleRefused
from stage1.outputs import Stage1Outputs

BATCH = 8
REFERENCE, TORCH = "onnxruntime fp32", "torch fp32"
NNCF = "openvino int8"
ENGINES = (TORCH, REFERENCE, "onnxruntime int8", "openvino fp32", "openvino bf16", NNCF)
NNCF_IMAGES = 64
TICK_S = 0.005
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
MIB = 2**20


SHAPES = {"vits": VITS, "tiny": Shape(64, 4, 2, 64)}


@dataclass(frozen=True)
class Ask:
    what: Literal["time", "outputs", "resident", "late"]
    images: Any = None
    times: int = 1


@dataclass(frozen=True)
class Loaded:
    load_s: float
    runtime: str


def random_images(count: int, size_px: int) -> Any:
    """Noise that differs in brightness and contrast."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (count, 3, size_px, size_px), dtype=np.uint8)
    contrast, brightness = rng.uniform(0.2, 1, (2, count, 1, 1, 1)).astype(np.float32)
    return (noise * (contrast * brightness)).astype(np.uint8)


def export(shape: Shape, home: Path) -> None:
    from offline.certify.onnx_export import export_onnx

    home.mkdir(parents=True, exist_ok=True)
    export_onnx(network(shape), home / "incoming.onnx", (shape.size_px, shape.size_px))
    (home / "incoming.onnx").rename(home / "fp32.onnx")


def quantise_by_onnxruntime(home: Path) -> None:
    from engines.backends.int8 import quantise_dynamic

    quantise_dynamic(home / "fp32.onnx", home / "fp32.int8.onnx")


def quantise_by_nncf(shape: Shape, home: Path) -> None:
    # First, because nncf would report its use in the same way.
    ov = load_openvino()
    import nncf  # type: ignore[import-not-found]

    pictures = Pictures.read(home) if (home / trained_heads.PICTURES).exists() else None
    images = random_images(NNCF_IMAGES, shape.size_px)
    if pictures is not None:
        images = pictures.images[pictures.parts["train"][:NNCF_IMAGES]]
    seen = nncf.Dataset([image[None] for image in images])
    graph = ov.Core().read_model(home / "fp32.onnx")
    quantised = nncf.quantize(graph, seen, subset_size=NNCF_IMAGES, model_type=nncf.ModelType.TRANSFORMER)
    ov.save_model(quantised, home / "nncf.xml", compress_to_fp16=False)


def load_nncf(home: Path, threads: int) -> tuple[Any, str]:
    if not (home / "nncf.xml").exists():
        raise BundleRefused("needs nncf: pip install nncf")
    ov = load_openvino()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(home / "nncf.xml", "CPU", options)

    def infer(images: Any) -> Stage1Outputs:
        found = compiled(images)
        return Stage1Outputs(found["logits"].copy(), found["select_score"].copy())

    return infer, f"openvino {ov.__version__}, int8 by NNCF, the rest fp32"


def load(name: str, shape: Shape, home: Path, threads: int) -> tuple[Any, str]:
    """What computes outputs of images, and what it is."""
    if name == TORCH:
        import torch

        from offline.learning.predict import predict

        torch.set_num_threads(threads)
        net = trained_heads.network(home) if (home / trained_heads.WEIGHTS).exists() else network(shape)
        return lambda images: predict(net, images), f"torch {torch.__version__}"
    if name == NNCF:
        return load_nncf(home, threads)
    from engines.backends.registry import open_engine
    from engines.spec import EngineSpec

    backend, precision = name.split()
    spec = EngineSpec.model_validate({"backend": backend, "precision": precision})
    engine = open_engine(spec, home / "fp32.onnx", threads=threads)
    described = engine.describe()
    details = ", ".join(f"{key} {value}" for key, value in described.details.items())
    return engine.infer, f"{described.runtime}, {described.threads} threads, {details}"


def serve(questions: Connection, name: str, shape: Shape, home: Path, threads: int) -> None:
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    try:
        infer, runtime = load(name, shape, home, threads)
    except BundleRefused as error:
        questions.send(str(error))
        return
    infer(random_images(1, shape.size_px))
    questions.send(Loaded(time.perf_counter() - began, runtime))
    while (ask := questions.recv()) is not None:
        if ask.what == "outputs":
            parts = [infer(ask.images[start : start + BATCH]) for start in range(0, len(ask.images), BATCH)]
            alone = [infer(ask.images[row : row + 1]) for row in range(4 * BATCH)]
            questions.send((Stage1Outputs.concatenate(parts), Stage1Outputs.concatenate(alone).logits))
        elif ask.what == "late":
            questions.send(lateness(infer, ask.images, ask.times))
        elif ask.what == "resident":
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            questions.send(pages * os.sysconf("SC_PAGE_SIZE") / MIB)
        else:
            taken = []
            for _ in range(ask.times):
                began = time.perf_counter()
                infer(ask.images)
                taken.append(time.perf_counter() - began)
            questions.send(statistics.median(taken))


def lateness(infer: Any, images: Any, times: int) -> float:
    """99th percentile of how late a thread of this process wakes up, ms, while it computes."""
    late, done = list[float](), threading.Event()

    def tick() -> None:
        while not done.is_set():
            began = time.perf_counter()
            time.sleep(TICK_S)
            late.append(time.perf_counter() - began - TICK_S)

    thread = threading.Thread(target=tick)
    thread.start()
    for _ in range(times):
        infer(images)
    done.set()
    thread.join()
    return float(np.percentile(late, 99)) * 1e3


class Child:
    """An engine in its process."""

    def __init__(self, context: Any, name: str, *rest: Any) -> None:
        self._questions, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, name, *rest), daemon=True)
        self._process.start()
        theirs.close()
        self.loaded: Loaded | str = self._questions.recv()

    def ask(self, *question: Any) -> Any:
        self.begin(*question)
        return self.end()

    def begin(self, *question: Any) -> None:
        self._questions.send(Ask(*question))

    def end(self) -> Any:
        return self._questions.recv()

    def close(self) -> None:
        if isinstance(self.loaded, Loaded):
            self._questions.send(None)
        self._process.join()


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    told = {key.strip(): value.strip() for key, value in told.items()}
    flags = [flag for flag in FLAGS if flag in told.get("flags", "").split()]
    return f"{told.get('model name', 'CPU')}, {len(os.sched_getaffinity(0))} cores, {' '.join(flags) or 'no AVX2'}"


def calibrated(pictures: Pictures, outputs: dict[str, Stage1Outputs], alpha: float) -> dict[str, str]:
    """What each engine certifies of itself, and what it decides otherwise by the rule of the reference."""
    from stage1.certificate.calibrate import CalibrationContext, calibrate
    from stage1.certificate.settings import CalibrationSettings
    from stage1.policy import ScrcPolicy

    cut = len(pictures.parts["select"])
    settings = CalibrationSettings(alpha=alpha, unit="row", looks=1, stream="originals")
    certificates = {}
    for name, found in outputs.items():
        chosen = pictures.labelled("select", found.rows(slice(0, cut)))
        certified = pictures.labelled("calib", found.rows(slice(cut, len(found))))
        context = CalibrationContext("e" * 64, "p" * 64, code_version="0")
        certificates[name] = calibrate(chosen, certified, settings, context)
    rule = ScrcPolicy(certificates[REFERENCE])
    truth, told = rule.decide(outputs[REFERENCE]).exit_label, {}
    for name, found in outputs.items():
        certificate, coverage = certificates[name], certificates[name].exit_coverage
        exits = "none" if coverage is None else f"{coverage.estimate or 0:.3f} ({coverage.events}/{coverage.trials})"
        flips = int((rule.decide(found).exit_label != truth).sum())
        told[name] = f"{certificate.status:<10} exits {exits}; flips by the rule of the reference {flips}/{len(found)}"
    return told


def in_turns(children: dict[str, Child], images: Any, rounds: int) -> dict[str, dict[int, list[float]]]:
    """Seconds of a call by engine and batch size, of each round but the first, which warms up."""
    times: dict[str, dict[int, list[float]]] = {name: {1: [], BATCH: []} for name in children}
    for turn in range(rounds + 1):
        for name, child in children.items():
            for size, repeats in ((1, 5), (BATCH, 2)):
                taken = child.ask("time", images[:size], repeats)
                if turn:
                    times[name][size].append(taken)
    return times


def compare(
    started: dict[str, Child], shape: Shape, rounds: int, count: int, pictures: Pictures | None, alphas: Sequence[float]
) -> None:
    children = {name: child for name, child in started.items() if isinstance(child.loaded, Loaded)}
    images = random_images(count, shape.size_px)
    if pictures is not None:
        images = pictures.images[np.concatenate([pictures.parts["select"], pictures.parts["calib"]])]
    times = in_turns(children, images, rounds)
    resident = {name: child.ask("resident") for name, child in children.items()}
    for child in children.values():
        child.begin("outputs", images)
    outputs = {name: child.end() for name, child in children.items()}
    truth = outputs[TORCH][0].logits
    score = truth[:, 1] - truth[:, 0]
    middle, scale = np.median(score), np.abs(truth).max()
    print(
        f"{'engine':<18} {'1 image':>10} {'ratio':>6} {f'by {BATCH}':>12} {'ratio':>6} {'resident':>9} {'load':>7}",
        end="",
    )
    print(f" {'error':>8} {'alone':>8} {'flips':>9}")
    for name, child in started.items():
        if not isinstance(child.loaded, Loaded):
            print(f"{name:<18} {child.loaded}")
            continue
        one, many = times[name][1], times[name][BATCH]
        ratios = [
            statistics.median(
                theirs / ours for theirs, ours in zip(times[REFERENCE][size], times[name][size], strict=True)
            )
            for size in (1, BATCH)
        ]
        logits, alone = outputs[name][0].logits, outputs[name][1]
        error = np.abs(logits - truth).max() / scale
        apart = np.abs(logits[: len(alone)] - alone).max() / scale
        flips = int(np.sum((logits[:, 1] - logits[:, 0] > middle) != (score > middle)))
        print(
            f"{name:<18} {statistics.median(one) * 1e3:>7.1f} ms {ratios[0]:>6.2f} "
            f"{BATCH / statistics.median(many):>7.1f} im/s {ratios[1]:>6.2f} {resident[name]:>5.0f} MiB "
            f"{child.loaded.load_s:>5.1f} s {error:>8.1e} {apart:>8.1e} {flips:>4}/{len(images)}"
        )

    if pictures is None:
        return
    every = {name: found for name, (found, _) in outputs.items()}
    for alpha in alphas:
        print(f"\ncalibrated through each at alpha {alpha:g}, {len(pictures.parts['calib'])} photographs one by one:")
        for name, told in calibrated(pictures, every, alpha).items():
            print(f"{name:<18} {told}")


def with_threads(context: Any, shape: Shape, home: Path, rounds: int, images: Any) -> None:
    """All cores, and one less, in turns: what that costs, and what it spares a thread that has to wake up."""
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        return
    print(
        f"\n{'threads':<18} {f'1 image, {cores}':>12} {cores - 1:>8} {'ratio':>6} {f'late, {cores}':>9} {cores - 1:>9}"
    )
    for name in (REFERENCE, "openvino fp32", "openvino bf16", NNCF):
        pair = [Child(context, name, shape, home, threads) for threads in (cores, cores - 1)]
        if all(isinstance(child.loaded, Loaded) for child in pair):
            times = np.array([[child.ask("time", images[:1], 3) for child in pair] for _ in range(rounds)])
            late = [statistics.median(child.ask("late", images[:1], 5) for _ in range(3)) for child in pair]
            one, less = np.median(times, axis=0) * 1e3
            ratio = np.median(times[:, 1] / times[:, 0])
            print(f"{name:<18} {one:>9.1f} ms {less:>5.1f} ms {ratio:>6.2f} {late[0]:>6.1f} ms {late[1]:>6.1f} ms")
        for child in pair:
            child.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SHAPES), default=None, help="default vits; tiny with --quick")
    parser.add_argument("--rounds", type=int, default=None, help="times that the engines take turns; default 20, or 5")
    parser.add_argument("--images", type=int, default=256, help="that errors and flips are counted on")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each engine")
    parser.add_argument("--cache", type=Path, default=Path(".cache/engines"), help="where exports are kept")
    parser.add_argument("--data", type=Path, default=None, help="directory of photographs with labels.csv")
    parser.add_argument("--backbone", type=Path, default=None, help="directory of a pretrained backbone, with --data")
    parser.add_argument(
        "--alpha", type=float, nargs="+", default=[0.1], help="that each engine is calibrated at, with --data"
    )
    parser.add_argument("--out", type=Path, default=None, help="file that the table is added to")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    options = parser.parse_args()
    if (options.data is None) != (options.backbone is None):
        parser.error("--data and --backbone go together")
    with contextlib.ExitStack() as stack:
        if options.out:
            file = stack.enter_context(options.out.open("a"))
            print("```", file=file)
            stack.callback(print, "```", file=file)
            stack.enter_context(contextlib.redirect_stdout(Both(file)))
        run(options)


class Both(io.TextIOBase):
    """Writes to standard output and to a file, at once: who ends it early keeps what was measured."""

    def __init__(self, file: TextIO) -> None:
        self.places = (sys.stdout, file)

    def write(self, text: str) -> int:
        for place in self.places:
            place.write(text)
            place.flush()
        return len(text)


def run(options: argparse.Namespace) -> None:
    name = options.model or ("tiny" if options.quick else "vits")
    shape, rounds = SHAPES[name], options.rounds or (5 if options.quick else 20)
    key = json.dumps([asdict(shape), version("torch"), version("onnxruntime")])
    home = options.cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    if options.data:
        name = options.backbone.name
        home = options.cache / f"{name}-{hashlib.sha256(f'{key} {options.data}'.encode()).hexdigest()[:8]}"
    context = multiprocessing.get_context("spawn")
    if not (home / "fp32.onnx").exists():
        making = (trained_heads.train, options.backbone, options.data, home) if options.data else (export, shape, home)
        exporter = context.Process(target=making[0], args=making[1:])
        exporter.start()
        exporter.join()
        assert exporter.exitcode == 0
    if not (home / "fp32.int8.onnx").exists():
        quantiser = context.Process(target=quantise_by_onnxruntime, args=(home,))
        quantiser.start()
        quantiser.join()
        assert quantiser.exitcode == 0
    if find_spec("nncf") and not (home / "nncf.xml").exists():
        quantiser = context.Process(target=quantise_by_nncf, args=(shape, home))
        quantiser.start()
        quantiser.join()
        assert quantiser.exitcode == 0
    print(machine())
    what = "photographs, trained heads" if options.data else f"{shape.layers} blocks of width {shape.hidden}, noise"
    print(f"{name}: {what}, {shape.size_px} px; {rounds} rounds, {options.threads} threads, ", end="")
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}\n")
    started = {engine: Child(context, engine, shape, home, options.threads) for engine in ENGINES}
    pictures = Pictures.read(home).fewer(options.images) if options.data else None
    compare(started, shape, rounds, options.images, pictures, options.alpha)
    print()
    for engine, child in started.items():
        if isinstance(child.loaded, Loaded):
            print(f"{engine}: {child.loaded.runtime}")
        child.close()
    images = random_images(1, shape.size_px) if pictures is None else pictures.images
    with_threads(context, shape, home, rounds, images)


if __name__ == "__main__":
    main()
