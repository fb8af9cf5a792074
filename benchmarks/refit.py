"""Fifty nights whose weights are put into the engine that stands by, under load, also without a GPU.

    python -m benchmarks.refit
    python -m benchmarks.refit --nights 10 --device cuda

What TensorRT does on a GPU, torch's AOTInductor does on a CPU as well: a compiled engine that takes other weights.
Everything else is as in a miner: a store, a follower, a batcher that is asked without pause, and the golden images of
each bundle at every batch size before it may serve. Numbers in brackets are those of the list of properties that a hot
swap must have. Ends with status 1 if one of them does not hold. On a GPU it has not been run by us.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import structlog
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch._inductor.graph import GraphLowering

from benchmarks.made_bundles import SMALL, export, images, publish
from benchmarks.random_dinov3 import network
from benchmarks.swap import MIB, NOW, Findings, Load, Ring, resident, scores
from engines.batches import run_at_buckets
from engines.engine import EngineDescription
from engines.errors import BundleRefused, InferenceError
from engines.live.batcher import Batcher
from engines.live.load.background_loader import EngineOptions
from engines.live.settings import BatchSettings, SwapSettings
from engines.live.swap.follower import StoreFollower
from engines.machine.memory import few_arenas, give_back
from engines.spec import REFERENCE, EngineSpec
from engines.store.store import Store
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

BUNDLES = 5
WEIGHTS = "weights.safetensors"
MOST = 8


class AotiEngine:
    """A package of AOTInductor with the weights of a bundle.

    Args:
        package: compiled once for the shape of the network.
        model: the graph, with the weights as torch names them beside it.
        device: that it was compiled for.
        refits: told how long each took, seconds.
    """

    def __init__(self, package: Path, model: Path, device: str, refits: list[float]) -> None:
        self._compiled: Any = torch._inductor.aoti_load_package(str(package))  # noqa: SLF001  the documented name
        self._device = device
        self._refits = refits
        self._put(model)

    def infer(self, batch: Pixels) -> Stage1Outputs:
        if self._compiled is None:
            raise InferenceError("the engine is closed")
        with torch.no_grad():
            logits, select_score = self._compiled(torch.from_numpy(batch).to(self._device))
        return Stage1Outputs(logits.cpu().numpy().copy(), select_score.cpu().numpy().copy())

    def warm_up(self, most: int) -> None:
        run_at_buckets(self, (SMALL.size_px, SMALL.size_px), most)

    def close(self) -> None:
        self._compiled = None

    def describe(self) -> EngineDescription:
        return EngineDescription(
            REFERENCE, f"AOTInductor {torch.__version__}", (SMALL.size_px, SMALL.size_px), torch.get_num_threads()
        )

    def takes(self, model: Path) -> bool:
        with safe_open(model.with_name(WEIGHTS), framework="pt") as stored:
            return set(stored.keys()) >= set(self._compiled.get_constant_fqns())

    def refit(self, model: Path) -> None:
        begun = time.perf_counter()
        self._put(model)
        self._refits.append(time.perf_counter() - begun)

    def _put(self, model: Path) -> None:
        stored, names = load_file(model.with_name(WEIGHTS), device=self._device), self._compiled.get_constant_fqns()
        if not set(stored) >= set(names):
            raise BundleRefused("the weights are those of another network")
        # What training alone uses is not in the package.
        self._compiled.load_constants({name: stored[name] for name in names}, check_full_update=True)


def compiled(path: Path, device: str) -> float:
    """Compile the package in a process of its own; seconds, 0 if it was there."""
    if path.exists():
        return 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(_compile, path, device).result()
    return time.perf_counter() - begun


def _compile(path: Path, device: str) -> None:
    # Up to eight numbers are written into the code, where no other weights reach them: the biases of the heads.
    GraphLowering.can_inline_constant = staticmethod(lambda _: False)  # type: ignore[method-assign, assignment]
    example = torch.from_numpy(images(2)).to(device)
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=32)
        program = torch.export.export(network(SMALL).to(device), (example,), dynamic_shapes=({0: batch},))
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))  # noqa: SLF001


def ring(home: Path, cache: Path) -> Ring:
    """Publish nights of one network with the weights beside the graph."""
    store, asked = Store(home / "store"), images(32, seed=2)
    found, expected = [], {}
    for seed in range(BUNDLES):
        net = network(SMALL, seed)
        weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
        weights |= {name: tensor.contiguous() for name, tensor in net.named_buffers()}
        save_file(weights, home / WEIGHTS)
        bundle = publish(
            store, export(cache / f"small-{seed}.onnx", SMALL, seed), home / f"files-{seed}", home / WEIGHTS
        )
        expected[bundle] = scores(store, bundle, asked)
        found.append(bundle)
    return Ring(store, tuple(found), asked, expected)


async def nights(made: Ring, count: int, device: str, opened: Callable[..., Any], refits: list[float]) -> Findings:
    findings, memory, loads = Findings(), [], []
    # The first thing on a GPU makes a context, which stays.
    torch.zeros(1, device=device)
    free = free_memory(device)
    made.store.activate(made.bundles[0], now=NOW)
    follower = StoreFollower(
        made.store,
        # A trial loads the bundle by ONNX Runtime in another process, which is not what is measured here.
        settings=SwapSettings(trial=False),
        options=EngineOptions(most=MOST, opens=opened),
    )
    await follower.start()
    batcher = Batcher(BatchSettings(max_batch=MOST))
    load = Load(follower.slot, batcher, made.asked, made.expected)
    with load.running():
        await asyncio.sleep(2.0)
        for night in range(1, count + 1):
            made.store.activate(made.bundles[night % BUNDLES], now=NOW)
            await follower.refresh()
            loads.append(follower.status().history[-1].seconds())
            await asyncio.sleep(0.3)
            give_back()
            memory.append(resident())
            if sys.stderr.isatty():
                print(f"\r{night}/{count} nights", end="", file=sys.stderr, flush=True)
    refitted, swapped = len(refits), follower.swaps
    findings.add("[18] nights that went live", f"{swapped}", f"{count}", swapped == count)
    # The first two nights make the two engines.
    findings.add("[18] of them by other weights in the twin", f"{refitted}", f"{count - 1}", refitted == count - 1)
    findings.add("[18] refused by the golden images", f"{follower.refusals}", "0", follower.refusals == 0)
    findings.add_counts("", load, count)
    findings.add_growth("[18] memory, last nights less the fifth", memory)
    gate = statistics.median(seconds["gating"] for seconds in loads)
    findings.add(
        "refit, median; the golden images after it", f"{statistics.median(refits) * 1e3:.0f} ms; {gate:.2f} s", "", True
    )
    await follower.close()
    batcher.close()
    if device != "cpu":
        kept = free - free_memory(device)
        findings.add("[7] GPU memory that is not given back", f"{kept / MIB:+.0f} MiB", "<= 16 MiB", kept <= 16 * MIB)
    return findings


def free_memory(device: str) -> int:
    """Bytes that are left on a GPU, once nothing unused is kept; 0 for a CPU."""
    if device == "cpu":
        return 0
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=50)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--cache", type=Path, default=Path(".cache/engines"), help="where compiled models are kept")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    warnings.simplefilter("ignore")
    few_arenas()
    refits: list[float] = []
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "no GPU that this torch can use\n")
    torch.backends.cudnn.allow_tf32 = False
    package = options.cache / f"small-{options.device}.pt2"
    seconds = compiled(package, options.device)

    def opened(_spec: EngineSpec, model: Path, *, compiled: Path | None, threads: int | None) -> AotiEngine:
        return AotiEngine(package, model, options.device, refits)

    with tempfile.TemporaryDirectory() as home:
        made = ring(Path(home), options.cache)
        findings = asyncio.run(nights(made, options.nights, options.device, opened, refits))
    print(findings.text())
    print(f"\nto compile the package takes {seconds:.1f} s" if seconds else "\nthe package had been compiled before")
    sys.exit(not all(held for *_, held in findings.rows))


if __name__ == "__main__":
    main()
