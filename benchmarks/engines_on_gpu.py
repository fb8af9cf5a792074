"""What runs Stage-1 on a GPU, how fast, and whether it computes the same: torch, AOTInductor, ONNX Runtime, TensorRT.

    python -m benchmarks.engines_on_gpu
    python -m benchmarks.engines_on_gpu --only torch tensorrt --batch 1 8 32
    python -m benchmarks.engines_on_gpu --small           # a small backbone; also on a CPU: shows that the script runs

Needs torch for CUDA; what else is not installed is named and left out. The backbone has the shape of DINOv3 ViT-H/16+
and random weights, the images are random. A latency is the median of whole calls, from pixels in memory to outputs in
memory, and stands beside the least that the card allows: its own rate in products, or its own bandwidth over the
weights, whichever takes longer; both are measured first.

Not one number of it has been measured by us: without a GPU it ends at once, or with --small runs what a CPU can.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.learning_on_gpu import matrix_rate, shape
from engines.backends.tensorrt.build import build_plan
from engines.backends.tensorrt.engine import TensorRtEngine
from engines.backends.tensorrt.library import EXTRAS, Flavour, load_flavour
from engines.backends.tensorrt.plan import PLAN
from engines.backends.tensorrt.refit import refit
from engines.engine import INPUT
from engines.errors import EngineError
from engines.machine.gpu import NoGpu, find_gpu
from engines.spec import EngineSpec, twin
from offline.certify.onnx_export import bf16_twin, export_bf16, export_onnx
from offline.learning.predict import predict
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, PretrainedBackbone
from stage1.outputs import Stage1Outputs
from stage1.telemetry import without_telemetry

if TYPE_CHECKING:
    import onnxruntime as ort
else:
    ort = without_telemetry("onnxruntime")

BF16 = EngineSpec(backend="tensorrt", precision="bf16", device="cuda")
Infer = Callable[[np.ndarray], object]


@dataclass
class Bench:
    """What is measured, on what; outputs are compared with those of torch in fp32."""

    home: Path
    device: torch.device
    size_px: int
    batches: list[int]
    repeats: int
    operations: float = 0.0
    rate: float = 0.0
    bandwidth: float = 0.0
    references: dict[int, Stage1Outputs] = field(default_factory=dict)

    def net(self, seed: int = 0) -> Stage1Net:
        model = ModelSettings(backbone=PretrainedBackbone(name=str(self.home / "backbone")))
        return build(model, shape=(self.size_px, self.size_px), seed=seed).eval()

    def images(self, count: int) -> np.ndarray:
        return np.random.default_rng(count).integers(0, 256, (count, 3, self.size_px, self.size_px), dtype=np.uint8)

    def floor(self, batch: int, weights: int) -> float:
        """Seconds below which no engine in bf16 can stay."""
        return max(batch * self.operations / self.rate, weights * 2 / self.bandwidth)

    def reference(self, seed: int = 0) -> Stage1Outputs:
        if seed not in self.references:
            self.references[seed] = predict(self.net(seed).to(self.device), self.images(max(self.batches)))
            free(self.device)
        return self.references[seed]


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - began:.1f} s", flush=True)


@contextmanager
def told(what: str, fails: list[str]) -> Iterator[None]:
    """Print what it took, or why it was left out, and go on."""
    try:
        with timed(what):
            yield
    except (EngineError, ImportError, RuntimeError, OSError) as error:
        fails.append(what)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"{what}: not measured: {first[:300]}", flush=True)


def median_s(infer: Infer, images: np.ndarray, repeats: int) -> float:
    for _ in range(3):
        infer(images)
    durations = []
    for _ in range(repeats):
        began = time.perf_counter()
        infer(images)
        durations.append(time.perf_counter() - began)
    return statistics.median(durations)


def latencies(name: str, bench: Bench, infer: Infer, weights: int) -> None:
    for batch in bench.batches:
        took, floor = median_s(infer, bench.images(batch), bench.repeats), bench.floor(batch, weights)
        shown = f"{took * 1e3:>9.2f} ms  {batch / took:>8.1f} images/s  {took / floor:>6.1f} x the floor"
        print(f"  {name:28} batch {batch:>3}  {shown}", flush=True)


def parity(name: str, found: Stage1Outputs, expected: Stage1Outputs) -> None:
    apart = max(
        float(np.abs(found.logits - expected.logits).max()),
        float(np.abs(found.select_score - expected.select_score).max()),
    )
    scale = float(np.abs(expected.logits).max())
    print(f"  {name:28} differs from torch in fp32 by {apart:.2g}, the largest logit is {scale:.2g}", flush=True)


def bandwidth(device: torch.device) -> float:
    """Bytes a second that the card reads and writes."""
    size = 2**30 if device.type == "cuda" else 2**26
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy(_: object) -> None:
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return 2 * size / median_s(copy, np.empty(0), 10)


def runner(module: Callable[..., Any], device: torch.device) -> Infer:
    @torch.no_grad()
    def infer(images: np.ndarray) -> object:
        return [output.cpu() for output in module(torch.from_numpy(images).to(device))]

    return infer


def run_torch(bench: Bench, fails: list[str]) -> None:
    net = bench.net()
    weights = sum(parameter.numel() for parameter in net.parameters())
    module, example = bf16_twin(net).to(bench.device), torch.from_numpy(bench.images(2)).to(bench.device)
    with told("torch eager, bf16", fails):
        latencies("torch eager", bench, runner(module, bench.device), weights)
    with told("AOTInductor, bf16", fails), torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=max(bench.batches))
        program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
        package = torch._inductor.aoti_compile_and_package(  # noqa: SLF001  the documented name
            program, package_path=str(bench.home / "model.pt2")
        )
        compiled = torch._inductor.aoti_load_package(package)  # noqa: SLF001
        latencies("AOTInductor", bench, runner(compiled, bench.device), weights)
    free(bench.device)


def run_onnxruntime(bench: Bench, fails: list[str]) -> None:
    with told("ONNX Runtime on CUDA, fp32", fails):
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise ImportError("onnxruntime-gpu is not installed")
        net, path = bench.net(), bench.home / "fp32.onnx"
        export_onnx(net, path, (bench.size_px, bench.size_px))
        session = ort.InferenceSession(str(path), providers=[("CUDAExecutionProvider", {"use_tf32": 0})])
        if session.get_providers()[0] != "CUDAExecutionProvider":
            raise ImportError("onnxruntime-gpu finds no CUDA that it can use")
        weights = 2 * sum(parameter.numel() for parameter in net.parameters())
        logits, select_score = session.run(None, {INPUT: bench.images(max(bench.batches))})
        parity("ONNX Runtime", Stage1Outputs(logits, select_score), bench.reference())
        latencies("ONNX Runtime", bench, lambda images: session.run(None, {INPUT: images}), weights)
    free(bench.device)


def run_tensorrt(bench: Bench, fails: list[str]) -> None:
    model = bench.home / "model.onnx"
    with told("export of the twin in bf16", fails):
        net = bench.net()
        weights = sum(parameter.numel() for parameter in net.parameters())
        export_bf16(net, twin(model, "bf16"), (bench.size_px, bench.size_px))
        del net
        free(bench.device)
    for name in EXTRAS:
        with told(name, fails):
            flavour = load_flavour(name)
            with closing(measured_engine(bench, model, flavour, weights, refittable=False)) as plain:
                stall(bench, model, plain)
        with told(f"{name}, built to be refitted", fails):
            measured_refit(bench, model, load_flavour(name), weights)


def measured_engine(bench: Bench, model: Path, flavour: Flavour, weights: int, *, refittable: bool) -> TensorRtEngine:
    with timed("  build"):
        build_plan(twin(model, "bf16"), flavour=flavour, refit=refittable, timing_cache=bench.home).write(model.parent)
        print(f"  {model.with_name(PLAN).stat().st_size / 2**20:.0f} MiB", flush=True)
    with timed("  load and warm"):
        engine = TensorRtEngine(model, BF16)
        engine.warm_up(max(bench.batches))
        print(f"  {engine.describe().details}", flush=True)
    parity(str(flavour), engine.infer(bench.images(max(bench.batches))), bench.reference())
    latencies(f"{flavour.name}{', refittable' if refittable else ''}", bench, engine.infer, weights)
    return engine


def stall(bench: Bench, model: Path, serving: TensorRtEngine) -> None:
    """Longest time between two answers of one engine while another is loaded beside it."""
    ends, done = [time.perf_counter()], threading.Event()

    def serve() -> None:
        while not done.is_set():
            serving.infer(bench.images(1))
            ends.append(time.perf_counter())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with timed("  load beside a serving engine"):
            TensorRtEngine(model, BF16).close()
    finally:
        done.set()
        thread.join()
    gaps = np.diff(ends)
    print(f"  answers meanwhile: median {np.median(gaps) * 1e3:.2f} ms, longest {gaps.max() * 1e3:.2f} ms", flush=True)


def measured_refit(bench: Bench, model: Path, flavour: Flavour, weights: int) -> None:
    twin = measured_engine(bench, model, flavour, weights, refittable=True)
    night = bench.home / "night.onnx"
    export_bf16(bench.net(seed=1), night, (bench.size_px, bench.size_px))
    with closing(twin):
        with timed("  refit"):
            refit(twin, night)
        parity("refitted", twin.infer(bench.images(max(bench.batches))), bench.reference(seed=1))


PARTS = {"torch": run_torch, "onnxruntime": run_onnxruntime, "tensorrt": run_tensorrt}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="what is measured")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32], help="batch sizes")
    parser.add_argument("--repeats", type=int, default=50, help="calls a latency is the median of")
    parser.add_argument("--size", type=int, default=224, help="side of the images, px")
    parser.add_argument("--small", action="store_true", help="a small backbone, also for a machine without a GPU")
    options: Any = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.backends.cudnn.allow_tf32 = False
    gpu = find_gpu()
    if isinstance(gpu, NoGpu) and not options.small:
        parser.exit(2, f"no GPU: nothing to measure ({gpu.reason})\n")
    if not isinstance(gpu, NoGpu) and not torch.cuda.is_available():
        parser.exit(2, f"{gpu.name} is there, but this torch ({torch.__version__}) cannot use it\n")
    device = torch.device("cpu" if isinstance(gpu, NoGpu) else "cuda")
    if options.small:
        options.size = 64
    print(f"{gpu.reason if isinstance(gpu, NoGpu) else gpu}, torch {torch.__version__}")
    fails: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        shape(options.small).save_pretrained(home / "backbone")
        bench = Bench(home, device, options.size, options.batch, options.repeats)
        bench.rate, bench.bandwidth = matrix_rate(device) * 1e12, bandwidth(device)
        counter = FlopCounterMode(display=False)
        with counter:
            predict(bench.net().to(device), bench.images(1))
        bench.operations = counter.get_total_flops()
        print(
            f"{bench.operations / 1e9:.3g} GFLOP an image, products in bf16 {bench.rate / 1e12:.1f} TFLOP/s, "
            f"memory {bench.bandwidth / 1e9:.0f} GB/s\n"
        )
        for name in options.only:
            PARTS[name](bench, fails)
    print(f"\nnot measured: {', '.join(what.strip() for what in fails) or 'nothing was left out'}")


if __name__ == "__main__":
    main()
