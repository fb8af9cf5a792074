"""What the answer of a language model to a question of yes or no says, as a probability.

With log-probabilities it is the share of yes against no in the first token, summed over their spellings among the
likeliest, because the share of one spelling depends on the tokeniser. Without them it is what the words say.

References:
    OpenAI API reference, chat completions, `logprobs`, `top_logprobs`; vLLM, `--logprobs-mode`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from engines.remote.tensors import Many
from stage2_bridge.client import ImageRefused, Stage2Error

# Of the likeliest tokens; below it the model answered something else.
LEAST_MASS = 0.01
# Of a model that can say nothing else than yes or no, after that was made sure of; the rest is rounding.
WHOLE_MASS = 0.95
# No model reads more at a time, and a number like this is a fault or a lie.
MOST_TOKENS = 100_000_000
WORD = re.compile(r"[^a-z]+")
NUMBER = re.compile(r"\d*\.?\d+%?")
# Tokens that can only begin one of the two, where nothing else is allowed.
BEGINNINGS = {"y": "yes", "ye": "yes", "yes": "yes", "n": "no", "no": "no"}
SPELLINGS = {"yes": "yes", "no": "no"}


class _Likely(BaseModel):
    token: str
    logprob: float


class _Token(BaseModel):
    token: str = ""
    top_logprobs: Many[_Likely] = ()


class _Logprobs(BaseModel):
    content: Many[_Token] | None = None


class _Message(BaseModel):
    content: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int | None:
        """All together; None where what the server counts can be no number of tokens."""
        parts = (self.prompt_tokens, self.completion_tokens)
        return sum(parts) if min(parts) >= 0 and 0 < sum(parts) <= MOST_TOKENS else None


class Choice(BaseModel):
    """One answer.

    Attributes:
        message: its words.
        logprobs: of its tokens, where the server gives them.
        finish_reason: why it ends; `length` where it was cut.
    """

    message: _Message = _Message()
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None

    @property
    def first_token(self) -> list[tuple[str, float]]:
        """The likeliest tokens of its beginning with their natural log-probabilities; empty without them."""
        tokens = self.logprobs.content if self.logprobs is not None else None
        return [(one.token, one.logprob) for one in tokens[0].top_logprobs] if tokens else []

    @property
    def words(self) -> str:
        """What it says.

        Raises:
            Stage2Error: nothing, for it was cut before it began.
        """
        text = self.message.content or ""
        if not text.strip() and self.finish_reason == "length":
            raise Stage2Error(
                "all tokens were spent before the answer began, as models that reason do: set max_tokens higher, or "
                "choose a model that answers at once"
            )
        return text


class Completion(BaseModel):
    """A reply of chat completions.

    Attributes:
        model: which answered, as the server names it.
        choices: the answers.
        usage: tokens that were read and written.
    """

    model: str = ""
    choices: Annotated[Many[Choice], Field(min_length=1)]
    usage: _Usage | None = None


def yes_share(likely: Sequence[tuple[str, float]], *, constrained: bool = False) -> float:
    """Probability of yes against no.

    Args:
        likely: tokens with their natural log-probabilities.
        constrained: whether the server let the model say nothing else. Then all of the mass is on the two, or the
            log-probabilities are those from before the constraint, which say something else.

    Raises:
        ImageRefused: neither is among them to speak of.
        Stage2Error: a constraint was asked for, and these are from before it.
    """
    known = BEGINNINGS if constrained else SPELLINGS
    mass = {"yes": 0.0, "no": 0.0}
    for token, logprob in likely:
        answer = known.get(WORD.sub("", token.lower()))
        if answer is not None and not math.isnan(logprob):
            mass[answer] += math.exp(min(0.0, logprob))
    total = sum(mass.values())
    shown = ", ".join(repr(token) for token, _ in likely[:5])
    if constrained and total < WHOLE_MASS:
        raise Stage2Error(
            f"yes and no have {total:.1%} of the first token although nothing else is allowed (likelier were {shown}): "
            "its log-probabilities are from before the constraint. Run vLLM with --logprobs-mode processed_logprobs, "
            "or set constrained = false"
        )
    if total < LEAST_MASS:
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
        if word in SPELLINGS:
            return float(word == "yes")
    raise ImageRefused(f"the answer {text[:60]!r} is neither yes nor no")
