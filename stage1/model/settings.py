"""Settings of the network; without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from stage1.settings import Section, expanded

Adapter = Literal["doran", "dora", "lora", "prompts", "parallel", "none"]
Pooling = Literal["attention", "cls_mean", "mean", "largest"]

VIEWS_GONE = (
    'there is no model.views: set preprocess.geometry = "tiles", which shows the whole picture and its parts. A bundle '
    "that was trained with whole_and_quadrants goes on serving; to compile or audit it, train a night with tiles"
)

DINOV3 = "facebook/dinov3-vith16plus-pretrain-lvd1689m"


def _home(name: str) -> str:
    return str(expanded(name)) if name.startswith("~") else name


class RandomBackbone(Section):
    """A small DINOv3 with random weights: for demonstrations and tests, where no pretrained one can be had.

    Attributes:
        kind: tells it from a pretrained backbone.
        hidden: width; a multiple of `heads`.
        layers: blocks.
        heads: attention heads.
        patch_px: side of a patch.
        initializer_range: standard deviation of the weights; near hidden ** -0.5, or frozen layers carry no signal.
    """

    kind: Literal["random"] = "random"
    hidden: int = Field(default=64, ge=16)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=2, ge=1)
    patch_px: int = Field(default=16, ge=4)
    initializer_range: float = Field(default=0.12, gt=0)


class PretrainedBackbone(Section):
    """A vision transformer from the Hugging Face hub or a local directory.

    Attributes:
        kind: tells it from a random backbone.
        name: name on the Hugging Face hub, or a directory.
    """

    kind: Literal["pretrained"] = "pretrained"
    name: Annotated[str, AfterValidator(_home)] = DINOV3


class NamedHead(Section):
    """A head for a column of the data beside the label; rows without a value are not in its loss.

    Attributes:
        column: column of the labels file; `travel_alteration` also finds `scene_level_tags.travel_alteration`.
        classes: its values in the order of the logits; the first one means no roadwork. Other values are an error.
    """

    column: str = Field(min_length=1)
    classes: tuple[str, ...] = Field(min_length=2)


class DoranSettings(Section):
    """What there is to choose in DoRAN; see `stage1.model.adapters.doran`.

    Attributes:
        sharing: `query_value` lets query and value of a block share the trunks that generate their factors, as in the
            paper; `equal_shapes` lets key and output, and gate and up, share as well.
        generated: whether the factors are generated; without it DoRAN is DoRA with a learned length in its denominator.
        detach_norm: no gradient through the norm, as in DoRA.
    """

    sharing: Literal["query_value", "equal_shapes"] = "query_value"
    generated: bool = True
    detach_norm: bool = False


class ModelSettings(Section):
    """Backbone, adapter and heads.

    Attributes:
        backbone: where the features come from.
        pooling: what of the patches the heads see: `attention` learns where to look; `mean` is the mean patch,
            `largest` the largest value of each channel, and `cls_mean` the CLS token and the mean.
        queries: places that attention looks for; each makes a vector as wide as a patch.
        pooled_blocks: blocks whose patches are pooled, counted from the end, -1 is the last; several lie side by side.
            Blocks after the last of them are taken away. Others than the last need a transformer of one width.
        adapter: what is trained of the backbone. `doran`, `dora` and `lora` are low-rank and merged into plain weights;
            `prompts` are extra tokens in each block and `parallel` is a bottleneck beside each MLP, and both stay in
            the graph; `none` trains the heads alone. Every backbone takes `lora`, `dora` and `none`; `doran` needs
            linear layers, `prompts` a CLS token, and `parallel` blocks with an MLP.
        doran: what there is to choose in the adapter `doran`.
        targets: projections that low-rank adapters are put on; of a convolutional backbone its 1x1 convolutions,
            whatever this says.
        rank: rank of low-rank adapters (their alpha is twice that), number of prompts in a block, or width of the
            parallel bottleneck.
        dropout: dropout before low-rank adapters.
        last_layers: number of blocks, counted from the end, that are adapted; None for all.
        head: what the heads are: `mlp` has one hidden layer, `linear` has none. A linear head fits less, so conformal
            risk training has more to gain with it; the hidden layer gains as much by cross-entropy alone.
        head_hidden: width of the hidden layer of each head, of `mlp`.
        heads: named heads by their name.
        multi_scale: patches half and twice as coarse as the backbone's are trained beside it and go into the heads.
            They see the pixels, so the activations of frozen blocks cannot be kept instead.
    """

    backbone: Annotated[RandomBackbone | PretrainedBackbone, Field(discriminator="kind")] = PretrainedBackbone()
    pooling: Pooling = "attention"
    queries: int = Field(default=4, ge=1, le=64)
    pooled_blocks: tuple[int, ...] = Field(default=(-1,), min_length=1)
    adapter: Adapter = "doran"
    doran: DoranSettings = DoranSettings()
    targets: Literal["query_value", "attention", "mlp", "all"] = "all"
    rank: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    last_layers: int | None = Field(default=6, ge=1)
    head: Literal["mlp", "linear"] = "mlp"
    head_hidden: int = Field(default=64, ge=1)
    heads: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], NamedHead] = Field(default_factory=dict)
    multi_scale: bool = False

    @model_validator(mode="before")
    @classmethod
    def _with_views(cls, content: Any) -> Any:  # noqa: ANN401  whatever is in the file
        """Take over what a program wrote that knew `views`, pooled by CLS and mean, and shared all trunks of DoRAN."""
        if not isinstance(content, dict) or "views" not in content:
            return content
        if content["views"] == "whole" and "pooling" not in content:
            as_then: dict[str, Any] = {"pooling": "cls_mean"}
            if content.get("adapter", "doran") == "doran":
                as_then["doran"] = {"sharing": "equal_shapes"}
            return as_then | {name: value for name, value in content.items() if name != "views"}
        raise ValueError(VIEWS_GONE)

    @field_validator("pooled_blocks")
    @classmethod
    def _from_the_end(cls, blocks: tuple[int, ...]) -> tuple[int, ...]:
        if max(blocks) >= 0 or len(set(blocks)) < len(blocks):
            raise ValueError(f"blocks are counted from the end, each once, for example [-2, -1], not {[*blocks]}")
        return tuple(sorted(blocks))
