"""What a chat completions server understands: a request that asks for all of it, and what is left out where it is not.

References:
    OpenAI API reference, chat completions; vLLM, `structured_outputs`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Set as AbstractSet
from typing import Any

# The most that OpenAI and vLLM give, and what others do.
TOP, FEW_TOP = 20, 5
TOKENS_OF_TEXT = 8
KINDS = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"RI": "webp"}
CHOICE, TOP_LOGPROBS, LOGPROBS, MAX_TOKENS, TEMPERATURE = (
    "structured_outputs",
    "top_logprobs",
    "logprobs",
    "max_tokens",
    "temperature",
)
# What is done where a server does not know one of them.
INSTEAD = {
    CHOICE: "without structured_outputs: it may say anything",
    TOP_LOGPROBS: f"with the likeliest {FEW_TOP} tokens",
    LOGPROBS: "without log-probabilities: its answers are yes or no, never maybe",
    MAX_TOKENS: "with max_completion_tokens instead of max_tokens",
    TEMPERATURE: "without a temperature: it answers differently each time",
}


def body(
    model: str,
    question: str,
    image: bytes,
    *,
    without: AbstractSet[str],
    constrained: bool,
    max_tokens: int | None,
) -> bytes:
    """The JSON of a request.

    Args:
        model: its name on the server.
        question: asked beside the image.
        image: the file as it came.
        without: parts that the server does not know.
        constrained: have it allow yes and no alone.
        max_tokens: of the answer; None for one with log-probabilities, and for a few without.
    """
    url = f"data:image/{KINDS.get(image[:2], 'jpeg')};base64,{base64.b64encode(image).decode()}"
    content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": url}}]
    sent: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}]}
    tokens = max_tokens or (TOKENS_OF_TEXT if LOGPROBS in without else 1)
    sent["max_completion_tokens" if MAX_TOKENS in without else "max_tokens"] = tokens
    if TEMPERATURE not in without:
        sent["temperature"] = 0
    if LOGPROBS not in without:
        sent |= {"logprobs": True, "top_logprobs": FEW_TOP if TOP_LOGPROBS in without else TOP}
    if constrained and CHOICE not in without:
        sent["structured_outputs"] = {"choice": ["yes", "no"]}
    return json.dumps(sent).encode()


def blamed(told: str, without: AbstractSet[str], *, constrained: bool, guess: bool) -> str | None:
    """Which part of a refused request the server may not know; None if there is no more to leave out.

    Args:
        told: the refusal.
        without: parts that are left out already.
        constrained: whether yes and no alone were asked for.
        guess: whether a refusal that names no part may mean the constraint or the log-probabilities.
    """
    optional = (*((CHOICE,) if constrained else ()), TOP_LOGPROBS, LOGPROBS, MAX_TOKENS, TEMPERATURE)
    known = [part for part in optional if part not in without]
    if LOGPROBS in without:
        known = [part for part in known if part != TOP_LOGPROBS]
    named: str | None = next((part for part in known if part in told), None)
    if named is not None or not guess:
        return named
    return next((part for part in (CHOICE, LOGPROBS) if part in known), None)
