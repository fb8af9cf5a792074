"""The streams of pictures that a certificate can be true of, and their words.

Validators of subnet 72 changed pictures before they sent them, and changed how they did so: an era is a span of time in
which they did it in one way. What each era does to a picture is in `offline.stream`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

Era = Literal["challenges-2026-01", "challenges-2026-04", "challenges-2026-05"]
Stream = Literal["originals", "challenges-2026-01", "challenges-2026-04", "challenges-2026-05", "mixture"]
ERAS: tuple[Era, ...] = get_args(Era)

IN_WORDS: dict[Era, str] = {
    "challenges-2026-01": "cut to a square of 224 px and, in three of four, rotated, cropped and distorted",
    "challenges-2026-04": "put into a square of 224 px with black bars and, in three of four, rotated and distorted",
    "challenges-2026-05": "whole, compressed again",
}


def _mixable(weights: dict[Era, float]) -> dict[Era, float]:
    if not any(weights.values()):
        raise ValueError("no era has a weight above 0, so nothing would be sent: give one a weight")
    return weights


# How often each era is drawn, up to a factor.
EraWeights = Annotated[dict[Era, Annotated[float, Field(ge=0, allow_inf_nan=False)]], AfterValidator(_mixable)]


def even_weights() -> dict[Era, float]:
    """The same weight for each era."""
    return dict.fromkeys(ERAS, 1.0)


def era_shares(stream: Stream, weights: Mapping[Era, float]) -> dict[Era, float]:
    """The share of each era in a stream, summing to 1; empty for originals.

    Args:
        stream: the stream.
        weights: of the eras in a mixture, up to a factor.
    """
    if stream == "originals":
        return {}
    if stream != "mixture":
        return {stream: 1.0}
    total = sum(weights.values())
    return {era: weights[era] / total for era in ERAS if weights.get(era, 0.0) > 0}


def stream_in_words(stream: Stream, weights: Mapping[Era, float]) -> str:
    """The pictures that a certificate is true of, as a part of a sentence.

    Args:
        stream: the stream.
        weights: of the eras in a mixture, up to a factor.
    """
    shares = era_shares(stream, weights)
    if not shares:
        return "pictures as they are in the data (stream originals)"
    parts = [f"{share:.0%} as in {era} ({IN_WORDS[era]})" for era, share in shares.items()]
    if len(shares) == 1:
        parts = [IN_WORDS[era] for era in shares]
    return f"pictures as validators sent them, as JPEG of quality 75 (stream {stream}: {'; '.join(parts)})"
