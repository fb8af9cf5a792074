"""Engines on the device: parity, latencies against the card's own rate, proofs, a swap under load, TensorRT-RTX."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.made_bundles import SIZE_PX, SMALL, export, images, linear, publish
from benchmarks.on_gpu.options import Found, Options, Skipped
from benchmarks.random_dinov3 import VITS
from engines.backends.registry import check_available, known
from engines.errors import EngineError
from engines.live.batcher import Batcher
from engines.live.load.load_bundle import load_bundle
from engines.live.settings import BatchSettings
from engines.live.slot import BundleSlot
from engines.machine.gpu import NoGpu, find_gpu
from engines.machine.memory import give_back
from engines.spec import EngineSpec, twin
from engines.store.store import Store
from miner.cli.engines.proof.measure import prove

BATCHES, SMALL_BATCHES = (1, 8, 32), (1, 2)
SWAPS, SMALL_SWAPS = 20, 4
CLIENTS, LIMIT_S, GIVEN_BACK_BYTES = 3, 30.0, 64 * 2**20


def latency_s(options: Options) -> Found:
    """A ViT-S/16."""
    return _latency(options, {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12}, heads=6)


def latency_h(options: Options) -> Found:
    """A ViT-H/16+ as DINOv3 has it."""
    wide = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
    return _latency(options, wide | {"use_gated_mlp": True, "hidden_act": "silu"}, heads=20)


def _latency(options: Options, config: dict[str, Any], *, heads: int) -> Found:
    """Torch in bf16 and ONNX Runtime in fp32, against what the rate of the card allows."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import DINOv3ViTConfig

    from benchmarks.engines_on_gpu import Bench, bandwidth, free, median_s, runner
    from benchmarks.learning_on_gpu import matrix_rate
    from engines.backends.onnxruntime import OnnxEngine
    from offline.certify.onnx_export import bf16_twin, export_onnx
    from offline.learning.predict import predict

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    size_px, batches = (64, SMALL_BATCHES) if options.small else (224, BATCHES)
    if options.small:
        config = config | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        heads = 2
    DINOv3ViTConfig(num_attention_heads=heads, num_register_tokens=4, **config).save_pretrained(
        options.home / "backbone"
    )
    device = options.torch_device
    bench = Bench(options.home, device, size_px, list(batches), 5 if options.small else 50)
    bench.rate, bench.bandwidth = matrix_rate(device) * 1e12, bandwidth(device)
    net = bench.net()
    weights = sum(parameter.numel() for parameter in net.parameters())
    counter = FlopCounterMode(display=False)
    with counter:
        predict(net.to(device), bench.images(1))
    bench.operations = counter.get_total_flops()
    expected = bench.reference()
    rows, parity = list[Found](), Found()

    def measured(name: str, infer: Callable[[Any], object], bytes_each: int) -> None:
        for batch in batches:
            took, floor = median_s(infer, bench.images(batch), bench.repeats), bench.floor(batch, weights)
            rows.append(
                {
                    "engine": name,
                    "batch": batch,
                    "ms": round(took * 1e3, 3),
                    "images_per_s": round(batch / took, 1),
                    "times_the_floor": round(took / floor, 2),
                    "bytes_a_weight": bytes_each,
                }
            )

    module = bf16_twin(bench.net()).to(device)
    measured("torch eager, bf16", runner(module, device), 2)
    parity["torch eager, bf16"] = float(
        np.abs(runner(module, device)(bench.images(max(batches)))[0].numpy() - expected.logits).max()  # type: ignore[index]
    )
    if not options.small:
        compiled = torch.compile(module)
        measured("torch.compile, bf16", runner(compiled, device), 2)
    del module
    free(device)
    path = options.home / "model.onnx"
    export_onnx(bench.net(), path, (size_px, size_px))
    try:
        with closing(OnnxEngine(path, EngineSpec(device=options.device))) as engine:
            measured(f"ONNX Runtime {options.device}, fp32", engine.infer, 4)
            found = engine.infer(bench.images(max(batches)))
            parity["ONNX Runtime, fp32"] = float(np.abs(found.logits - expected.logits).max())
    except EngineError as error:
        parity["ONNX Runtime, fp32"] = f"not measured: {error}"
    return {
        "rows": rows,
        "largest_difference_of_a_logit": parity,
        "largest_logit": float(np.abs(expected.logits).max()),
        "weights": weights,
        "tflop_per_image": bench.operations / 1e12,
        "card_tflop_per_s_bf16": bench.rate / 1e12,
        "card_gb_per_s": bench.bandwidth / 1e9,
    }


def proofs(options: Options) -> Found:
    """`cascade engines prove` with every engine of the device."""
    store = Store(options.home / "store")
    bundle = publish(store, _engine(options, 0), options.home / "files")
    found: Found = {}
    for spec in known():
        if spec.device != options.device:
            continue
        try:
            check_available(spec)
            proof = prove(
                store.root,
                bundle,
                batches=SMALL_BATCHES if options.small else BATCHES,
                seconds=0.1 if options.small else 3.0,
                now=datetime.now(UTC),
                spec=spec,
            )
            found[str(spec)] = {"agrees": proof.agrees, **proof.model_dump(mode="json")}
        except EngineError as error:
            found[str(spec)] = f"no: {error}"
    return {"proofs": found}


def swap(options: Options) -> Found:
    """Two bundles in turn under load: no request may fail, and the memory of the device has to come back."""
    store, spec = Store(options.home / "store"), EngineSpec(device=options.device)
    check_available(spec)
    paths = []
    for seed in (0, 1):
        # Alike graphs in two bundles all the same.
        (options.home / "note").write_text(str(seed))
        files = options.home / f"files-{seed}"
        paths.append(store.path(publish(store, _engine(options, seed), files, options.home / "note")))
    most, before = 2 if options.small else 8, _free_bytes()
    slot = BundleSlot()
    slot.swap(load_bundle(paths[0], spec=spec, most=most))
    loaded = _free_bytes()
    batcher = Batcher(BatchSettings(max_batch=most))
    steady, swapping, failed = list[float](), list[float](), list[str]()
    done, during = threading.Event(), threading.Event()
    picture = images(1)[0]

    def ask() -> None:
        while not done.is_set():
            begun = time.perf_counter()
            try:
                batcher.submit(slot.lease(), picture, deadline=time.monotonic() + LIMIT_S).result(LIMIT_S)
            except Exception as error:  # noqa: BLE001  it is counted
                failed.append(repr(error))
                continue
            (swapping if during.is_set() else steady).append(time.perf_counter() - begun)

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1.0)
        for number in range(SMALL_SWAPS if options.small else SWAPS):
            during.set()
            slot.swap(load_bundle(paths[(number + 1) % 2], spec=spec, most=most))
            during.clear()
            time.sleep(0.3)
    finally:
        done.set()
        for thread in threads:
            thread.join()
        batcher.close()
    again = _free_bytes()
    slot.close()
    give_back()
    after = _free_bytes()
    found = {
        "requests": len(steady) + len(swapping),
        "failed": len(failed),
        "swaps": SMALL_SWAPS if options.small else SWAPS,
        "p50_ms": {"steady": _ms(steady, 0.5), "during": _ms(swapping, 0.5)},
        "p99_ms": {"steady": _ms(steady, 0.99), "during": _ms(swapping, 0.99)},
        "free_bytes": {"before": before, "first_loaded": loaded, "after_swaps": again, "closed": after},
    }
    if failed:
        raise AssertionError(f"{len(failed)} requests failed, for example {failed[0]}: {found}")
    if loaded is not None and again is not None and again < loaded - GIVEN_BACK_BYTES:
        raise AssertionError(f"the memory of replaced engines did not come back: {found}")
    return found


def rtx(options: Options) -> Found:
    """A plan of TensorRT-RTX: built here, and on a GPU asked whether it is valid there, loaded and compared."""
    from engines.backends.tensorrt.build import build_plan
    from engines.backends.tensorrt.engine import TensorRtEngine
    from engines.backends.tensorrt.library import load_flavour
    from offline.certify.onnx_export import export_bf16
    from offline.learning.predict import predict

    try:
        flavour = load_flavour("tensorrt_rtx")
    except EngineError as error:
        raise Skipped(str(error)) from error
    from benchmarks.random_dinov3 import network

    shape = SMALL if options.small else VITS
    net = network(shape, 0)
    model = options.home / "model.onnx"
    export_bf16(net, twin(model, "bf16"), (shape.size_px, shape.size_px))
    begun = time.perf_counter()
    build_plan(twin(model, "bf16"), flavour=flavour).write(options.home)
    found: Found = {"library": str(flavour), "build_s": round(time.perf_counter() - begun, 2)}
    if options.device == "cpu":
        return found | {"run": "no: there is no GPU"}
    spec = EngineSpec(backend="tensorrt", precision="bf16", device="cuda")
    with closing(TensorRtEngine(model, spec)) as engine:
        engine.warm_up(max(BATCHES))
        pictures = images(max(BATCHES))
        expected, outputs = predict(net.to("cuda"), pictures), engine.infer(pictures)
        found |= {"details": engine.describe().details}
        found["largest_difference_of_a_logit"] = float(np.abs(outputs.logits - expected.logits).max())
        found["largest_logit"] = float(np.abs(expected.logits).max())
        for batch in BATCHES:
            found[f"ms_batch_{batch}"] = _median_ms(engine.infer, pictures[:batch])
    return found


def _engine(options: Options, seed: int) -> Path:
    """The graph of a ViT-S/16, or of next to nothing."""
    path = options.home / f"{seed}.onnx"
    return linear(path, SIZE_PX) if options.small else export(path, VITS, seed)


def _median_ms(infer: Callable[[Any], object], batch: Any) -> float:
    taken = []
    for _ in range(50):
        begun = time.perf_counter()
        infer(batch)
        taken.append(time.perf_counter() - begun)
    return round(statistics.median(taken) * 1e3, 3)


def _free_bytes() -> int | None:
    """Free memory of the GPU; None without one."""
    found = find_gpu()
    return None if isinstance(found, NoGpu) else found.free_bytes


def _ms(seconds: list[float], quantile: float) -> float | None:
    return round(float(np.quantile(seconds, quantile)) * 1e3, 3) if seconds else None
