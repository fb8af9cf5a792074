"""What a night costs before it begins: operations and memory of its trainings, counted from the config.

An operation is an addition or a multiplication; only products of matrices count, which are nearly all of it. A block of
a transformer of width D and MLP width M takes, for T tokens, `8 T D^2` for its four projections, `4 T^2 D` for the
attention and `4 T D M` for the MLP, or `6 T D M` if that is gated. A frozen weight has no gradient of its own, so a
block behind an adapter costs twice its forward pass and not three times.

The memory of a training step is that of the weights, and of what each trained block keeps of a token until its gradient
is computed. The bytes of the latter are those that autograd keeps in bf16, as a test counts them.

Reference:
    Kaplan et al. (2020), Scaling laws for neural language models, arXiv 2001.08361, section 2.1 (how to count).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from offline.learning.settings import AdaptSettings, CompareSettings, ConformalTrainingSettings, TrainSettings
from stage1.model.settings import ModelSettings, RandomBackbone
from stage1.preprocess import PreprocessSettings

# Kept of a token in a block by norms, residuals and attention, in bytes per channel of the block, and by the activation
# of an MLP, in bytes per channel of it: bf16 but for the residual stream and its norms.
KEPT_ATTENTION, KEPT_MLP, KEPT_GATED = 19, 2, 6
# Of the input of an adapted projection, and of its output where its rows have a learned length; bytes per channel.
KEPT_INPUT, KEPT_OUTPUT = 2, 5.5
# Libraries, workspaces and what the allocator cannot use.
OVERHEAD_BYTES, FRAGMENTED = 1.5e9, 1.1
# Weight, gradient and the two averages of AdamW.
TRAINED_BYTES = 16


@dataclass(frozen=True)
class VisionTransformer:
    """The shape of a vision transformer.

    Attributes:
        width: D, channels of a token.
        blocks: their number.
        mlp: M, hidden channels of the MLP.
        gated: the MLP is a SwiGLU, with two projections up.
        patch_px: side of a patch.
        extra: tokens beside the patches: CLS and registers.
    """

    width: int
    blocks: int
    mlp: int
    gated: bool = False
    patch_px: int = 16
    extra: int = 5

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """Input and output channels of the linear layers of a block, by the target that they belong to and a name."""
        d, m = self.width, self.mlp
        found = {"query_value/q": (d, d), "query_value/v": (d, d), "attention/k": (d, d), "attention/o": (d, d)}
        found |= {"mlp/up": (d, m), "mlp/down": (m, d)}
        return found | ({"mlp/gate": (d, m)} if self.gated else {})

    @property
    def block_parameters(self) -> int:
        """Weights of the linear layers of a block."""
        return sum(into * out for into, out in self.projections.values())

    @property
    def parameters(self) -> int:
        """Weights of linear layers and of the patch embedding."""
        return self.blocks * self.block_parameters + 3 * self.patch_px**2 * self.width

    def tokens(self, shape: tuple[int, int]) -> int:
        """Of an image of this height and width in px."""
        return (shape[0] // self.patch_px) * (shape[1] // self.patch_px) + self.extra

    def block_flops(self, shape: tuple[int, int]) -> float:
        """Operations of the forward pass of one block for one image."""
        tokens = self.tokens(shape)
        return 2.0 * tokens * self.block_parameters + 4.0 * tokens**2 * self.width

    def forward_flops(self, shape: tuple[int, int], blocks: int | None = None) -> float:
        """Operations of the embedding and so many blocks for one image; None for all of them."""
        patches = self.tokens(shape) - self.extra
        embedding = 2.0 * patches * 3 * self.patch_px**2 * self.width
        return embedding + (self.blocks if blocks is None else blocks) * self.block_flops(shape)


# By the end of the name on the Hugging Face hub.
TRANSFORMERS = {
    "dinov3-vits16": VisionTransformer(384, 12, 1536),
    "dinov3-vits16plus": VisionTransformer(384, 12, 1536, gated=True),
    "dinov3-vitb16": VisionTransformer(768, 12, 3072),
    "dinov3-vitl16": VisionTransformer(1024, 24, 4096),
    "dinov3-vith16plus": VisionTransformer(1280, 32, 5120, gated=True),
    "dinov3-vit7b16": VisionTransformer(4096, 40, 8192, gated=True),
}


def transformer_of(settings: ModelSettings) -> VisionTransformer | None:
    """The shape of the backbone of a config; None if it is no transformer that is known without loading it."""
    backbone = settings.backbone
    if isinstance(backbone, RandomBackbone):
        return VisionTransformer(
            backbone.hidden, backbone.layers, 2 * backbone.hidden, patch_px=backbone.patch_px, extra=1
        )
    for name, found in TRANSFORMERS.items():
        if backbone.name.rsplit("/", 1)[-1].startswith(f"{name}-pretrain"):
            return found
    try:
        config = json.loads((Path(backbone.name) / "config.json").read_text())
        return VisionTransformer(
            width=config["hidden_size"],
            blocks=config["num_hidden_layers"],
            mlp=config.get("intermediate_size") or config["hidden_size"] * config["mlp_ratio"],
            gated=bool(config.get("use_gated_mlp", config.get("use_swiglu_ffn", False))),
            patch_px=config["patch_size"],
            extra=1 + config.get("num_register_tokens", 0),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
        name: of its kind.
        flops: operations a second in bf16 that a training of a transformer reaches on it, not what its maker promises.
        memory: bytes.
    """

    name: str
    flops: float
    memory: float


CARDS = (Card("RTX 4090", 80e12, 24e9), Card("H100", 350e12, 80e9))


@dataclass(frozen=True)
class Rows:
    """Pictures of a night: those that train, choose and report, and those without a label."""

    train: int
    val_select: int
    test: int
    unlabelled: int = 0


@dataclass(frozen=True)
class NightCost:
    """What the trainings of a night cost.

    Attributes:
        transformer: the backbone.
        preprocess: the size of the pictures.
        model: the adapter.
        train: supervised training.
        conformal: conformal risk training.
        adapt: domain adaptation.
        compare: what is trained beside the model.
    """

    transformer: VisionTransformer
    preprocess: PreprocessSettings
    model: ModelSettings
    train: TrainSettings
    conformal: ConformalTrainingSettings
    adapt: AdaptSettings
    compare: CompareSettings

    @property
    def _views(self) -> tuple[int, tuple[int, int]]:
        """Pictures that the backbone sees of one image, and their shape."""
        (height, width), tiles = self.preprocess.shape, self.preprocess.tiles
        return (
            (1, (height, width))
            if tiles is None
            else (1 + tiles[0] * tiles[1], (height // tiles[0], width // tiles[1]))
        )

    @property
    def trained_blocks(self) -> int:
        """Blocks with an adapter."""
        if self.model.adapter == "none":
            return 0
        return min(self.transformer.blocks, self.model.last_layers or self.transformer.blocks)

    @property
    def _adapted(self) -> list[tuple[int, int]]:
        """Input and output channels of the projections of a block that low-rank adapters are put on."""
        if self.model.adapter not in {"lora", "dora", "doran"}:
            return []
        wanted = {"all": ("",), "attention": ("query_value", "attention"), "query_value": ("query_value",)}
        starts = wanted.get(self.model.targets, (self.model.targets,))
        return [size for name, size in self.transformer.projections.items() if name.startswith(starts)]

    @property
    def cached(self) -> bool:
        """Whether the states of frozen blocks are kept on disk, if that has room."""
        frozen = self.transformer.blocks - self.trained_blocks
        return self.train.cache != "off" and not self.model.multi_scale and frozen > 0

    def _forward(self, blocks: int | None = None) -> float:
        views, shape = self._views
        return views * self.transformer.forward_flops(shape, blocks)

    def step_flops(self) -> float:
        """Operations of forward and backward pass of the trained blocks for one image of one step."""
        views, shape = self._views
        tokens, rank = self.transformer.tokens(shape), self.model.rank
        low_rank = 3 * 2.0 * tokens * rank * sum(into + out for into, out in self._adapted)
        passes = 3 if self.train.gradient_checkpointing else 2
        block = passes * self.transformer.block_flops(shape) + low_rank
        return views * self.trained_blocks * block * (2 if self.train.optimiser == "fsam" else 1)

    def parts(self, rows: Rows) -> dict[str, float]:
        """Operations of each part of the night.

        Args:
            rows: numbers of pictures.
        """
        frozen, everything = self._forward(self.transformer.blocks - self.trained_blocks), self._forward()
        epochs, doubled = self.train.passes(rows.train), 2 if self.train.optimiser == "fsam" else 1
        found: dict[str, float] = {}
        if self.adapt.enabled:
            found["adapt_domain"] = self.adapt.epochs * (rows.train + rows.unlabelled) * self._adaptation()
        fill, again = (
            self.train.cache_views * rows.train + rows.val_select,
            min(epochs, self.train.judgements) * rows.val_select,
        )
        if self.cached:
            found["cache"] = fill * frozen
            found["train"] = epochs * rows.train * self.step_flops() + again * (everything - frozen)
        else:
            found["train"] = epochs * rows.train * (self.step_flops() + doubled * frozen) + again * everything
        if self.conformal.enabled:
            found["conformal"] = (self.conformal.views * rows.train + rows.val_select) * everything
        variants = 1 + self.compare.baseline + self.conformal.enabled * (1 + self.compare.cross_entropy)
        found["compare"] = variants * (rows.test + rows.val_select) * everything
        if self.compare.baseline:
            found["compare"] += (rows.train + rows.val_select) * everything
        return found

    def _adaptation(self) -> float:
        """Operations of self-distillation for one image: two large crops for student and teacher, and small ones."""
        settings = self.adapt
        _, (height, width) = self._views
        patch = self.transformer.patch_px
        side = max(2, round(min(height, width) / 2 / patch)) * patch
        large, small = (self.transformer.forward_flops(shape) for shape in ((height, width), (side, side)))
        passes = 3 if settings.gradient_checkpointing else 2
        return 2 * large * (passes + 1) + settings.local_crops * small * passes

    def training_bytes(self, images: int | None = None) -> float:
        """Most memory that a step of supervised training takes on a GPU in bf16.

        Args:
            images: of a micro-batch; None for what the settings say.
        """
        views, shape = self._views
        images = -(-self.train.batch_size // self.train.accumulation) if images is None else images
        kept = images * views * self.transformer.tokens(shape) * self._token_bytes()
        blocks = self.trained_blocks
        if self.train.gradient_checkpointing:
            between = images * views * self.transformer.tokens(shape) * 4 * self.transformer.width
            activations = kept + blocks * between
        else:
            activations = blocks * kept
        return FRAGMENTED * (activations + self._weight_bytes()) + OVERHEAD_BYTES

    def _token_bytes(self) -> float:
        """Kept of a token in a trained block until its gradient is computed."""
        trunk = self.transformer
        found = KEPT_ATTENTION * trunk.width + (KEPT_GATED if trunk.gated else KEPT_MLP) * trunk.mlp
        found += KEPT_INPUT * sum(into for into, _ in self._adapted)
        lengths = self.model.adapter in {"dora", "doran"}
        return found + (KEPT_OUTPUT * sum(out for _, out in self._adapted) if lengths else 0)

    def _weight_bytes(self) -> float:
        trunk, blocks = self.transformer, self.trained_blocks
        frozen = 2.0 * (trunk.parameters - blocks * trunk.block_parameters)
        adapted = sum(into * out for into, out in self._adapted)
        # Those whose rows have a learned length stay in fp32, and what they are cast to is kept for the gradient.
        each = 6.0 if self.model.adapter in {"dora", "doran"} else 2.0
        behind = blocks * (each * adapted + 2.0 * (trunk.block_parameters - adapted))
        factors = blocks * self.model.rank * sum(into + out for into, out in self._adapted)
        return frozen + behind + 2 * TRAINED_BYTES * factors


def words(parts: Mapping[str, float], memory: float, batch: int) -> str:
    """What a night costs in one line.

    Args:
        parts: of `NightCost.parts`.
        memory: of `NightCost.training_bytes`.
        batch: images of a step.
    """
    total = sum(parts.values())
    listed = ", ".join(f"{name} {flops / 1e15:.2g}" for name, flops in parts.items())
    times = " or ".join(f"{total / card.flops / 60:.2g} min on one of the class of an {card.name}" for card in CARDS)
    step = f"a step of {batch} images takes about {memory / 1e9:.0f} GB of its memory"
    if all(total / card.flops < 60 for card in CARDS):
        return f"training takes less than a minute on a GPU; {step}"
    return f"training takes about {total / 1e15:.2g} PFLOP ({listed}): on a GPU {times}; {step}"
