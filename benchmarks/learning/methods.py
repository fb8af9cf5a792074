"""The rows of both tables, and what is compared with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stage1.model.settings import Adapter

Kind = Literal["heads", "adapter", "continued"]
CROSS_ENTROPY_ALONE = {"risk_weight": 0.0, "cross_entropy_weight": 1.0}


@dataclass(frozen=True)
class Method:
    """A row of a table.

    Attributes:
        name: its short name.
        label: what the table calls it.
        kind: `heads` trains heads on kept features of images as they are; `adapter` trains on augmented images behind
            the frozen blocks; `continued` trains the heads of another row on, on its features.
        adapter: what is trained of the backbone.
        train: changes to `TrainSettings`.
        after: of `continued`, the row that it starts from.
        risk: of `continued`, changes to `ConformalTrainingSettings`.
        adapted: the backbone was adapted to the unlabelled training images first.
        features: of `heads`, which kept features.
        multi_scale: of `heads`, patch embeddings half and twice as coarse as the backbone's are trained beside it.
        softmax: ranks and exits by the softmax probability, as it has no selection head.
    """

    name: str
    label: str
    kind: Kind
    adapter: Adapter = "none"
    train: Mapping[str, Any] = field(default_factory=dict)
    after: str = ""
    risk: Mapping[str, float] = field(default_factory=dict)
    adapted: bool = False
    features: str = ""
    multi_scale: bool = False
    softmax: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: `a` or `b`.
        title: what it says.
        methods: its rows.
        pairs: names of a row and of the simplest alternative to it.
    """

    name: str
    title: str
    methods: tuple[Method, ...]
    pairs: tuple[tuple[str, str], ...]

    def method(self, name: str) -> Method:
        """The row of that name."""
        return next(method for method in self.methods if method.name == name)

    def continues(self, name: str) -> bool:
        """Whether any row starts from this one."""
        return any(method.after == name for method in self.methods)


def _baseline(features: str) -> Method:
    return Method(
        "baseline",
        "baseline: MLP head by cross-entropy, exits at 0.88 / 0.12",
        "heads",
        train={"selection_weight": 0.0},
        features=features,
        softmax=True,
    )


def _multi_scale(features: str) -> Method:
    label = "head only, not augmented, with coarser and finer patches"
    return Method("multi_scale", label, "heads", features=features, multi_scale=True)


PHOTOGRAPHS = Table(
    "a",
    "real photographs, pretrained MobileNetV2, one city held out at a time",
    (
        _baseline("whole_224"),
        Method("head", "head only", "adapter"),
        Method("lora", "LoRA", "adapter", "lora"),
        Method("dora", "DoRA", "adapter", "dora"),
        Method("dora_fsam", "DoRA + F-SAM", "adapter", "dora", {"optimiser": "fsam"}),
        Method("dora_ce", "DoRA + cross-entropy alone", "continued", after="dora", risk=CROSS_ENTROPY_ALONE),
        Method("dora_crt", "DoRA + conformal risk training", "continued", after="dora"),
        Method("whole_224", "head only, not augmented, whole at 224", "heads", features="whole_224"),
        Method("whole_448", "head only, not augmented, whole at 448", "heads", features="whole_448"),
        Method(
            "quadrants_448", "head only, not augmented, whole and quadrants at 448", "heads", features="quadrants_448"
        ),
        _multi_scale("whole_224"),
    ),
    (
        ("head", "baseline"),
        ("lora", "head"),
        ("dora", "lora"),
        ("dora_fsam", "dora"),
        ("dora_crt", "dora_ce"),
        ("dora_crt", "dora"),
        ("whole_448", "whole_224"),
        ("quadrants_448", "whole_448"),
        ("quadrants_448", "whole_224"),
        ("multi_scale", "whole_224"),
    ),
)
STREETS = Table(
    "b",
    "synthetic scenes of a shifted domain, small DINOv3 pretrained on unlabelled scenes of another",
    (
        _baseline("whole_96"),
        Method("head", "head only", "adapter"),
        Method("lora", "LoRA", "adapter", "lora"),
        Method("dora", "DoRA", "adapter", "dora"),
        Method("doran", "DoRAN", "adapter", "doran"),
        Method("doran_fsam", "DoRAN + F-SAM", "adapter", "doran", {"optimiser": "fsam"}),
        Method("doran_explora", "DoRAN + ExPLoRA", "adapter", "doran", adapted=True),
        Method("doran_ce", "DoRAN + cross-entropy alone", "continued", after="doran", risk=CROSS_ENTROPY_ALONE),
        Method("doran_crt", "DoRAN + conformal risk training", "continued", after="doran"),
        Method("almost", "DoRAN + F-SAM + ExPLoRA", "adapter", "doran", {"optimiser": "fsam"}, adapted=True),
        Method("everything", "everything together", "continued", after="almost", adapted=True),
        Method("whole_96", "head only, not augmented", "heads", features="whole_96"),
        _multi_scale("whole_96"),
    ),
    (
        ("head", "baseline"),
        ("lora", "head"),
        ("dora", "lora"),
        ("doran", "dora"),
        ("doran_fsam", "doran"),
        ("doran_explora", "doran"),
        ("doran_crt", "doran_ce"),
        ("doran_crt", "doran"),
        ("everything", "almost"),
        ("everything", "doran"),
        ("everything", "lora"),
        ("everything", "head"),
        ("multi_scale", "whole_96"),
    ),
)
TABLES = {table.name: table for table in (PHOTOGRAPHS, STREETS)}
