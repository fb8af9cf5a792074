"""How much frozen patches say about roadwork where learned queries look, without training the backbone.

Before it is trained, a pool of attention takes the mean of all patches, in which a small thing drowns. A judge of a
backbone whose net pools by attention therefore trains a copy of that pool, with one linear layer behind it.

References:
    Psomas et al. (2025), Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency, arXiv
    2506.10178.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from offline.data.pictures.pixel_store import Images
from offline.learning.precision import autocast
from offline.learning.predict import EVAL_BATCH, device_of
from stage1.model.net import Stage1Net
from stage1.model.pooling import AttentionPool
from stage1.model.trunk import blocks_of

STEPS, BATCH, RATE, DECAY = 150, 96, 3e-3, 0.01
MOST_BYTES = 2 * 1024**3


def looks(net: Stage1Net) -> bool:
    """Whether a network pools its patches by attention, and nothing else goes into its heads."""
    return isinstance(net.pool, AttentionPool) and not len(net.stems)


def attentive_probe(net: Stage1Net, train: Images, labels: NDArray[np.integer], images: Images) -> NDArray[np.float64]:
    """Logits of 1 by a pool like the network's and one linear layer, both trained on frozen patches; `(M,)`.

    Every probe of a night starts from the same pool and sees the rows in the same order, so what two backbones differ
    in is theirs. Classes weigh the same. The network stays as it is, and no generator but its own is drawn from.

    Args:
        net: one that `looks`.
        train: uint8 images that it is fitted on, `(N, 3, H, W)`; evenly picked if their patches take over 2 GiB.
        labels: 0 or 1, both present, `(N,)`.
        images: that it is asked about, `(M, 3, H, W)`.
    """
    device = device_of(net)
    first = next(_tokens(net, train[:1]))
    fitting = max(2, MOST_BYTES // (first.numel() * 2))
    if len(train) > fitting:
        picked = np.unique(np.linspace(0, len(train) - 1, fitting).astype(np.intp))
        train, labels = train[picked], labels[picked]
    tokens = torch.cat([each.half().cpu() for each in _tokens(net, train)])
    truth = torch.from_numpy(labels.astype(np.float32))
    weight = torch.where(truth == 1, 0.5 / truth.mean(), 0.5 / (1 - truth.mean()))
    pool = copy.deepcopy(net.pool).requires_grad_(True)
    slope = torch.zeros(1, net.width, device=device, requires_grad=True)
    offset = torch.zeros(1, device=device, requires_grad=True)
    optimiser = torch.optim.AdamW([*pool.parameters(), slope, offset], lr=RATE, weight_decay=DECAY)
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        for _ in range(STEPS):
            rows = torch.randint(len(train), (min(BATCH, len(train)),), generator=generator)
            scores = F.linear(pool(tokens[rows].to(device).float()), slope, offset).squeeze(1)
            loss = F.binary_cross_entropy_with_logits(scores, truth[rows].to(device), weight[rows].to(device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.no_grad():
        found = torch.cat(
            [F.linear(pool(each.half().float()), slope, offset).squeeze(1) for each in _tokens(net, images)]
        )
    return found.double().cpu().numpy()


@torch.no_grad()
def _tokens(net: Stage1Net, images: Images) -> Iterator[Tensor]:
    """Tokens `(n, V, T, C)` of images in evaluation mode, batch by batch."""
    net.eval()
    device, cut = device_of(net), len(blocks_of(net.backbone))
    for start in range(0, len(images), EVAL_BATCH):
        with autocast(device, "auto"):
            yield net.prefix(torch.tensor(images[start : start + EVAL_BATCH]).to(device), cut)
