"""A vision-language model behind chat completions, asked a question that it answers by yes or no.

The probability is that of the first token of the answer, summed over the spellings of yes and of no among the likeliest
twenty, because one spelling alone has a share that depends on the tokeniser.

References:
    OpenAI API reference, chat completions, `logprobs`, `top_logprobs`; vLLM, `structured_outputs`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any

import httpx2
import structlog
from pydantic import BaseModel, Field

from engines.errors import RemoteError
from engines.remote import http as remote
from engines.remote.http import JSON_AT_ONCE_BYTES, made
from stage1.errors import SettingsError
from stage2_bridge.client import ImageRefused
from stage2_bridge.sample_image import black_image
from stage2_bridge.settings import OpenAiServer

log = structlog.get_logger(__name__)

QUESTION = (
    "Is there roadwork in this street image: cones, barriers, barrels, signs of works, diggers or people at work? "
    "Answer with one word, yes or no."
)
TOP = 20
# Of the likeliest tokens; below it the model answered something else.
LEAST_MASS = 0.01
WORD = re.compile(r"[^a-z]+")
NUMBER = re.compile(r"\d*\.?\d+%?")
KINDS = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"RI": "webp"}
TOKENS_OF_TEXT = 8
# So many tokens have less, with twenty others beside each, and reading it takes the event loop milliseconds.
MOST_BYTES = 2**18


class _Likely(BaseModel):
    token: str
    logprob: float


class _Token(BaseModel):
    token: str = ""
    top_logprobs: tuple[_Likely, ...] = ()


class _Logprobs(BaseModel):
    content: tuple[_Token, ...] | None = None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message = _Message()
    logprobs: _Logprobs | None = None


class _Completion(BaseModel):
    model: str = ""
    choices: tuple[_Choice, ...] = Field(min_length=1)


class ChatClient:
    """A Stage-2 that is asked by chat completions.

    Args:
        http: sends the requests; closed with the client.
        settings: of the server.

    Raises:
        SettingsError: the prompt cannot be read.
    """

    def __init__(self, http: httpx2.AsyncClient, settings: OpenAiServer) -> None:
        self._http = http
        self._settings = settings
        self._url = f"{settings.url.removesuffix('/v1')}/v1/chat/completions"
        self._prompt = QUESTION if settings.prompt_file is None else _prompt(settings)
        # What this server was found not to know.
        self._without: set[str] = set()

    @property
    def name(self) -> str:
        """See `Stage2Client.name`."""
        return self._settings.name

    async def ask(self, content: bytes, timeout_s: float) -> float:
        """See `Stage2Client.ask`.

        Raises:
            RemoteError: the server did not answer as the protocol says.
            ImageRefused: the answer is neither yes nor no, nor a probability; an image with words in it can do that.
        """
        completion = await self._completion(content, min(self._settings.timeout_s, timeout_s))
        choice = completion.choices[0]
        likely = _first_token(choice)
        if likely:
            return yes_share(likely)
        return spoken(choice.message.content or "")

    async def check(self, timeout_s: float) -> str:
        """See `Checked.check`: asks for a black image, because nothing else says whether the model sees images."""
        completion = await self._completion(black_image(), timeout_s)
        found = _first_token(completion.choices[0])
        yes_share(found) if found else spoken(completion.choices[0].message.content or "")
        told = (
            "with log-probabilities" if found else "without log-probabilities: its answers are yes or no, never maybe"
        )
        return f"model {completion.model or self._settings.model}, {told}"

    async def close(self) -> None:
        """See `Stage2Client.close`."""
        await self._http.aclose()

    async def _completion(self, content: bytes, timeout_s: float) -> _Completion:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        without = frozenset(self._without)
        while True:
            sent = await made(partial(self._sent, content, without), len(content), JSON_AT_ONCE_BYTES)
            try:
                reply = await remote.ask(
                    self._http,
                    "POST",
                    self._url,
                    timeout_s=until - loop.time(),
                    content=sent,
                    headers={"content-type": "application/json"},
                    most_bytes=MOST_BYTES,
                )
            except RemoteError as error:
                if error.status in {400, 422} and (unknown := self._blamed(str(error), without)):
                    without |= {unknown}
                    continue
                raise
            # An image that is refused is refused without them too: only what helped is remembered.
            if unknown_parts := without - self._without:
                self._without |= unknown_parts
                log.warning("stage2_server_lacks", server=self.name, parts=sorted(unknown_parts))
            return reply.read(_Completion, f"{self._url}: the reply is no chat completion")

    def _blamed(self, told: str, without: AbstractSet[str]) -> str | None:
        """Which optional part of a request a server may not know; None if all are left out."""
        parts = ("structured_outputs", "logprobs") if self._settings.constrained else ("logprobs",)
        named = [part for part in parts if part not in without]
        return next((part for part in named if part in told), named[0] if named else None)

    def _sent(self, content: bytes, without: AbstractSet[str]) -> bytes:
        kind = KINDS.get(content[:2], "jpeg")
        image = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": self._prompt},
                        {"type": "image_url", "image_url": {"url": image}},
                    ],
                }
            ],
            "temperature": 0,
            "max_tokens": TOKENS_OF_TEXT if "logprobs" in without else 1,
        }
        if "logprobs" not in without:
            body |= {"logprobs": True, "top_logprobs": TOP}
        if self._settings.constrained and "structured_outputs" not in without:
            body["structured_outputs"] = {"choice": ["yes", "no"]}
        return json.dumps(body).encode()


def _prompt(settings: OpenAiServer) -> str:
    assert settings.prompt_file is not None
    try:
        text = settings.prompt_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"stage2 server {settings.name}: prompt_file cannot be read: {error}") from error
    if not text:
        raise SettingsError(f"stage2 server {settings.name}: {settings.prompt_file} is empty")
    return text


def _first_token(choice: _Choice) -> Sequence[tuple[str, float]]:
    """The likeliest tokens of the answer's beginning with their log-probabilities; empty without them."""
    tokens = choice.logprobs.content if choice.logprobs is not None else None
    return [(one.token, one.logprob) for one in tokens[0].top_logprobs] if tokens else []


def yes_share(likely: Sequence[tuple[str, float]]) -> float:
    """Probability of yes against no.

    Args:
        likely: tokens with their natural log-probabilities.

    Raises:
        ImageRefused: neither is among them to speak of.
    """
    mass = {"yes": 0.0, "no": 0.0}
    for token, logprob in likely:
        word = WORD.sub("", token.lower())
        if word in mass and not math.isnan(logprob):
            mass[word] += math.exp(min(0.0, logprob))
    total = sum(mass.values())
    if total < LEAST_MASS:
        shown = ", ".join(repr(token) for token, _ in likely[:5])
        raise ImageRefused(f"yes and no have {total:.1%} of the first token; likelier were {shown}: see its prompt")
    return mass["yes"] / total


def spoken(text: str) -> float:
    """Probability in the words of an answer: a number if it has one, otherwise yes or no.

    Raises:
        ImageRefused: it has neither.
    """
    words = WORD.split(text.lower())
    if (number := NUMBER.search(text)) is not None:
        value = float(number[0].rstrip("%")) / (100 if number[0].endswith("%") else 1)
        if 0 <= value <= 1:
            return value
    for word in words:
        if word in {"yes", "no"}:
            return float(word == "yes")
    raise ImageRefused(f"the answer {text[:60]!r} is neither yes nor no")
