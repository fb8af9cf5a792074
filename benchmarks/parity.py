"""Every engine of this machine against torch, at every batch size, on photographs.

    python -m benchmarks.parity --data DATA
    python -m benchmarks.parity --data DATA --backbone DIRECTORY --images 64 --most 32

The network is a DINOv3 ViT-S/16 with random weights, or the backbone in a directory, with random heads. Error is the
largest difference of an output from torch, as a share of the largest number in that output. A flip is an image whose
roadwork score lies on another side of the median than torch's: random heads have no threshold of their own. Ends with
status 1 if an engine in fp32 flips one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from benchmarks.random_dinov3 import VITS, network
from engines.backends.registry import check_available, compile_engine, known, open_engine
from engines.batches import in_batches
from engines.engine import Engine
from engines.errors import EngineError
from engines.spec import EngineSpec
from offline.certify.onnx_export import export_onnx
from offline.data.dataset import Dataset
from offline.data.sources.source import read_dataset
from offline.learning.predict import predict
from stage1.model.backbones import build
from stage1.model.settings import ModelSettings, PretrainedBackbone
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels, PreprocessSettings


def photographs(data: Path, count: int, size_px: int) -> Pixels:
    """Rows evenly apart, as an engine sees them."""
    found = read_dataset(data)
    places = np.linspace(0, len(found) - 1, count).round().astype(int).tolist()
    return Dataset(found.root, tuple(found.rows[i] for i in places)).array(PreprocessSettings(size_px=size_px))


def compare(engine: Engine, truth: Stage1Outputs, images: Pixels, most: int) -> tuple[float, int, int]:
    """Largest error over all batch sizes, the size that has it, and the most flips."""
    middle = np.median(truth.roadwork_score)
    worst, at, flips = 0.0, 1, 0
    for size in range(1, most + 1):
        found = in_batches(engine, images, size)
        pairs = [(found.logits, truth.logits), (found.select_score, truth.select_score)]
        error = max(float(np.abs(ours - theirs).max() / np.abs(theirs).max()) for ours, theirs in pairs)
        if error > worst:
            worst, at = error, size
        flips = max(flips, int(((found.roadwork_score > middle) != (truth.roadwork_score > middle)).sum()))
    return worst, at, flips


def row(spec: EngineSpec, model: Path, truth: Stage1Outputs, images: Pixels, most: int) -> bool:
    """Print the row of an engine; whether it is as good as its precision promises."""
    try:
        check_available(spec)
        compile_engine(spec, model)
        engine = open_engine(spec, model)
    except EngineError as error:
        print(f"{spec!s:<24} {error}")
        return True
    worst, at, flips = compare(engine, truth, images, most)
    engine.close()
    print(f"{spec!s:<24} largest error {worst:.1e} at batch size {at}; flips {flips}/{len(images)}", flush=True)
    return spec.precision != "fp32" or not flips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory with labels.csv")
    parser.add_argument("--backbone", default="", help="directory of a pretrained backbone")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--most", type=int, default=32, help="largest batch size")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    size_px = VITS.size_px
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        model = Path(name) / "model.onnx"
        if options.backbone:
            settings = ModelSettings(backbone=PretrainedBackbone(name=options.backbone))
            net = build(settings, shape=(size_px, size_px), seed=0).eval()
        else:
            net = network(VITS)
        export_onnx(net, model, (size_px, size_px))
        images = photographs(options.data, options.images, size_px)
        truth = predict(net, images)
        print(f"{len(images)} photographs, batch sizes 1 to {options.most}")
        good = [row(spec, model, truth, images, options.most) for spec in known()]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
