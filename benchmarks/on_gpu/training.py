"""Adapters and training stages on the device: the same numbers as on the CPU, and how fast."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import numpy as np

from benchmarks.on_gpu.options import Found, Options

SIZE_PX, STEPS, BATCH = 64, 3, 4
# fp32 without TF32, through four blocks, after three steps.
SAME = 1e-2


def adapters(options: Options) -> Found:
    """Each adapter is trained for a few steps on the device, and computed there and on the CPU."""
    import torch

    from benchmarks.learning_on_gpu import CALIBRATION, images, shape
    from offline.learning.predict import predict
    from offline.learning.settings import TrainSettings
    from offline.learning.supervised.train import Trainee, train_supervised
    from stage1.model.adapters.attach import add_adapters
    from stage1.model.backbones import build
    from stage1.model.settings import Adapter, ModelSettings, PretrainedBackbone

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    shape(True).save_pretrained(options.home / "backbone")
    settings = TrainSettings(epochs=1, batch_size=BATCH, cache="off", augmentation="light")
    sets = images(BATCH * STEPS, SIZE_PX, 1), images(8, SIZE_PX, 2)
    rows = []
    for name in get_args(Adapter):
        model = ModelSettings(
            backbone=PretrainedBackbone(name=str(options.home / "backbone")), adapter=name, last_layers=2
        )
        net = build(model, shape=(SIZE_PX, SIZE_PX), seed=0).to(options.torch_device)
        add_adapters(net, model)
        before = predict(net, sets[1].images)
        train_supervised(Trainee(net, *sets), settings, CALIBRATION, seed=0, progress=lambda *_: None)
        there = predict(net, sets[1].images)
        here = predict(net.to("cpu"), sets[1].images)
        apart = float(np.abs(there.logits - here.logits).max())
        moved = float(np.abs(there.logits - before.logits).max())
        rows.append({"adapter": name, "differs": apart, "moved": moved, "same": apart <= SAME and moved > 0})
    if not all(row["same"] for row in rows):
        raise AssertionError(f"not the same on {options.device} as on the CPU: {rows}")
    return {"adapters": rows, "accepted": SAME}


def stages(options: Options) -> Found:
    """The stages of a night at full size; see `benchmarks.learning_on_gpu`."""
    command = [sys.executable, "-m", "benchmarks.learning_on_gpu", "--steps", "4"]
    command += ["--small"] if options.small else ["--batch", "32", "64"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:] or f"status {done.returncode}")
    return {"lines": done.stdout.splitlines()}
