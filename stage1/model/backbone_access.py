"""Whether a backbone can be had, asked in seconds and without torch: before any picture is decoded."""

from __future__ import annotations

from pathlib import Path

from stage1.errors import ModelError
from stage1.model.settings import DINOV3, PretrainedBackbone, RandomBackbone

CONFIG = "config.json"
# One file, or the list of several.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
ASKED_S = 5.0


def is_here(name: str) -> bool:
    """Whether a backbone is on this machine: a directory, or a model of the hub that was downloaded whole.

    Args:
        name: hub id or directory.
    """
    if Path(name).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415  belongs to the extra `train`
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        found = {file for file in (CONFIG, *WEIGHTS) if isinstance(try_to_load_from_cache(name, file), str)}
    except HFValidationError:
        return False
    # The list alone does not say that its files are there.
    return {CONFIG, WEIGHTS[0]} <= found


def check_backbone(backbone: RandomBackbone | PretrainedBackbone, endpoint: str | None = None) -> None:
    """Make sure that a backbone is here or can be downloaded; the hub is asked once for each file, without retries.

    Args:
        backbone: of the settings.
        endpoint: address of the hub; None for that of the environment.

    Raises:
        ModelError: its licence is not accepted, there is no such model, it has no weights in safetensors, or nobody
            answers; says what to do.
    """
    if isinstance(backbone, RandomBackbone) or is_here(backbone.name):
        return
    from huggingface_hub import get_hf_file_metadata, hf_hub_url  # noqa: PLC0415
    from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

    name = backbone.name

    def asked(file: str) -> None:
        get_hf_file_metadata(hf_hub_url(name, file, endpoint=endpoint), timeout=ASKED_S)

    try:
        asked(CONFIG)
        try:
            asked(WEIGHTS[0])
        except EntryNotFoundError:
            asked(WEIGHTS[1])
    except EntryNotFoundError as error:
        raise ModelError(how_to_get(name, f"use_safetensors: {error}")) from error
    # The client of the hub raises errors of the library beneath it, which changes from version to version.
    except Exception as error:
        raise ModelError(how_to_get(name, _reason(error))) from error


def _reason(error: Exception) -> str:
    """What went wrong in one line; a gated model is named so whatever the library says."""
    kind = type(error).__name__
    first = next((line for line in str(error).strip().splitlines() if line), kind)
    gated = "gated: " if kind == "GatedRepoError" else ""
    return f"{gated}{first}" if kind.endswith("RepoError") or "http" in first else f"{kind}: {first}"


def how_to_get(name: str, reason: str) -> str:
    """What was wrong with a backbone and what to do about it.

    Args:
        name: hub id or directory.
        reason: what the hub or the disk said.
    """
    if "use_safetensors" in reason:
        return (
            f"the backbone {name!r} has no weights in safetensors, and no others are read: give a model that has them, "
            "or a local directory, as model.backbone.name"
        )
    told = f"the backbone {name!r} cannot be loaded: {(reason.strip().splitlines() or ['no reason is given'])[0]}"
    if name == DINOV3 or "gated" in reason or "401" in reason or "403" in reason:
        return (
            f"{told}. Its weights are gated: open https://huggingface.co/{name} while logged in, accept the licence, "
            "wait until access is granted, run `hf auth login` with a token that may read gated repositories, and "
            "start again. Without a network, give the directory of a downloaded copy: "
            "--set model.backbone.name=/path/to/dinov3"
        )
    return f"{told}. Give a model of the Hugging Face hub or a local directory as model.backbone.name"
