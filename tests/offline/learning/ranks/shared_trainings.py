"""Small trainings, on one process or shared by two; see `trains_child.py`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from offline.data.dataset import Dataset, Row
from offline.errors import TrainingInterrupted
from offline.learning.predict import ImageSet
from offline.learning.ranks import team
from offline.learning.self_distillation import adapt
from offline.learning.self_distillation.adapt import adapt_domain
from offline.learning.settings import AdaptSettings, TrainSettings
from offline.learning.supervised.train import Trainee, train_supervised
from stage1.certificate.settings import CalibrationSettings
from stage1.model.adapters.attach import add_adapters
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, RandomBackbone

SIZE_PX, ROWS, BATCH = 32, 50, 12
MODEL = ModelSettings(backbone=RandomBackbone(hidden=32, layers=2, heads=2, patch_px=8), last_layers=None, rank=4)
RECIPES: dict[str, dict[str, object]] = {
    "adamw": {"optimiser": "adamw", "ema_decay": 0.9},
    "fsam": {"optimiser": "fsam", "gradient_clip": 0.5},
}
Tell = Callable[[int, int, str], None]


def coloured(count: int, seed: int) -> ImageSet:
    """Images that are roadwork if and only if they are reddish."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.4).astype(int)
    pixels = rng.integers(0, 120, (count, 3, SIZE_PX, SIZE_PX))
    pixels[:, 0] += 100 * labels[:, None, None]
    rows = tuple(Row(image=f"{seed}/{n}", label=int(y), group=str(n)) for n, y in enumerate(labels))
    return ImageSet(pixels.astype(np.uint8), Dataset(Path("nowhere"), rows))


def trained(kind: str, checkpoints: Path | None, tell: Tell, *, parts: int = 1) -> Stage1Net:
    """A network after a training of this kind, on as many processes as there are."""
    torch.manual_seed(0)
    made = build(MODEL, shape=(SIZE_PX, SIZE_PX), seed=0)
    # What draws from torch's generator draws otherwise on two processes.
    for module in made.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    train = coloured(ROWS, 1)
    if kind == "adapt":
        # Positions jitter by torch's generator, as dropout draws by it.
        adapt.ROPE_RESCALE = 1.0
        adapting = AdaptSettings(
            enabled=True,
            epochs=2,
            batch_size=8,
            accumulation=parts,
            prototypes=16,
            head_hidden=32,
            head_bottleneck=16,
            rank=2,
            head_steps=1,
        )
        images = np.asarray(train.images[:24])
        adapt_domain(made, images, adapting, seed=0, progress=tell, checkpoints=checkpoints)
        return made
    add_adapters(made, MODEL)
    recipe = TrainSettings.model_validate(
        {"epochs": 2, "batch_size": BATCH, "learning_rate": 2e-3, "augmentation": "light", "checkpoint_steps": 2}
        | RECIPES[kind]
    )
    train_supervised(
        Trainee(made, train, coloured(30, 2)),
        recipe,
        CalibrationSettings(alpha=0.1, unit="row", grid_size=30, gate_size=5),
        seed=0,
        progress=tell,
        checkpoints=checkpoints,
    )
    return made


def weights(net: Stage1Net) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def train_here(kind: str, place: Path, stop: int) -> None:
    """One of the processes: trains, and writes what came of it; told to end after some steps, on the last process."""
    torch.set_num_threads(1)
    team.start()

    def tell(done: int, _total: int, _note: str) -> None:
        if done == stop and not team.leads():
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        net = trained(kind, place / "checkpoints", tell)
    except TrainingInterrupted as error:
        team.wait()
        raise SystemExit(error.exit_status) from error
    torch.save(weights(net), place / f"weights-{team.rank()}")
    team.wait()
    torch.distributed.destroy_process_group()
