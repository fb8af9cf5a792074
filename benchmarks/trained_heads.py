"""Heads trained on a pretrained backbone and photographs, for benchmarks in which it matters what a network says.

The backbone stays as it is and is pooled without weights, so that the features of each photograph are computed once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

SIZE_PX = 224
# Of all photographs, in an order drawn once; more than these take minutes and say the same.
TRAINED, CHOSEN, CERTIFIED = 0.35, 0.12, 0.3
STEPS, RATE, DECAY = 300, 1e-3, 1e-2
PICTURES, WEIGHTS, BACKBONE = "pictures.npz", "net.safetensors", "backbone.json"


@dataclass(frozen=True)
class Pictures:
    """Photographs as an engine sees them.

    Attributes:
        images: uint8 `(N, 3, S, S)`.
        labels: `(N,)`, 1 for roadwork.
        parts: indices of each of `train`, `select` and `calib`.
    """

    images: Pixels
    labels: NDArray[np.int8]
    parts: dict[str, NDArray[np.intp]]

    @classmethod
    def read(cls, home: Path) -> Pictures:
        with np.load(home / PICTURES) as stored:
            parts = {name: stored[name] for name in ("train", "select", "calib")}
            return cls(stored["images"], stored["labels"], parts)

    def fewer(self, count: int) -> Pictures:
        """The same with so many photographs at most to choose and certify with."""
        chosen, certified = len(self.parts["select"]), len(self.parts["calib"])
        share = min(1.0, count / (chosen + certified))
        most = {"select": round(share * chosen), "calib": round(share * certified)}
        return replace(self, parts={name: rows[: most.get(name)] for name, rows in self.parts.items()})

    def labelled(self, part: str, outputs: Stage1Outputs) -> LabelledOutputs:
        """Outputs of a part with their labels; each photograph counts by itself: that says nothing of other streets."""
        rows = self.parts[part]
        ids = [str(row) for row in rows.tolist()]
        return LabelledOutputs(outputs, self.labels[rows], ids, ids)


def network(home: Path) -> Any:
    """The network that `train` kept, in evaluation mode."""
    from stage1.model.backbones import build
    from stage1.model.settings import ModelSettings, PretrainedBackbone
    from stage1.model.weights import load_weights

    name = json.loads((home / BACKBONE).read_text())
    settings = ModelSettings(backbone=PretrainedBackbone(name=name), pooling="cls_mean", last_layers=None)
    net = build(settings, shape=(SIZE_PX, SIZE_PX), seed=0).eval()
    if (home / WEIGHTS).exists():
        load_weights(net, home / WEIGHTS)
    return net


def train(backbone: Path, data: Path, home: Path) -> None:
    """Train the heads, and write the network, the pictures and the export `fp32.onnx`."""
    import torch

    from offline.certify.onnx_export import export_onnx
    from offline.data.sources.source import read_dataset
    from offline.learning.predict import features
    from stage1.model.weights import save_weights
    from stage1.preprocess import PreprocessSettings

    home.mkdir(parents=True, exist_ok=True)
    (home / BACKBONE).write_text(json.dumps(str(backbone)))
    found = read_dataset(data)
    images = found.array(PreprocessSettings(size_px=SIZE_PX))
    labels = np.array([row.label for row in found.rows], np.int8)
    order = np.random.default_rng(0).permutation(len(images))
    cuts = np.cumsum([round(share * len(order)) for share in (TRAINED, CHOSEN, CERTIFIED)])
    parts: dict[str, Any] = dict(zip(("train", "select", "calib"), np.split(order, cuts), strict=False))
    net = network(home)
    torch.manual_seed(0)
    seen, truth = features(net, images[parts["train"]]), torch.tensor(labels[parts["train"]]).long()
    heads = [*net.class_head.parameters(), *net.select_head.parameters()]
    optimiser = torch.optim.AdamW(heads, RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        said = net.outputs(seen)
        right = (said.logits.argmax(1) == truth).float()
        loss = torch.nn.functional.cross_entropy(said.logits, truth)
        loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(said.select_score, right)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    save_weights(net, home / WEIGHTS)
    export_onnx(net, home / "incoming.onnx", (SIZE_PX, SIZE_PX))
    with (home / PICTURES).open("wb") as file:
        np.savez(file, images=images, labels=labels, **parts)
    (home / "incoming.onnx").rename(home / "fp32.onnx")
