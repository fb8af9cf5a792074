"""A vision-language model behind chat completions, asked a question that it answers by yes or no.

It is asked freely and read by its log-probabilities, or asked under a constraint and read by those after it, and stays
with what the first answer had: scores of two kinds cannot share a calibration.
"""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from engines.errors import RemoteError
from engines.remote import http as remote
from engines.remote.http import JSON_AT_ONCE_BYTES, Client, made
from stage1.errors import SettingsError
from stage2_bridge.client import MeteredProbability, ServerIdentity, Stage2Error, mean_of
from stage2_bridge.sample_image import black_image
from stage2_bridge.servers.language.answers import Completion, spoken, yes_share
from stage2_bridge.servers.language.dialect import CHOICE, INSTEAD, LOGPROBS, blamed, body
from stage2_bridge.servers.language.server_facts import facts_of
from stage2_bridge.settings import OpenAiServer

log = structlog.get_logger(__name__)

OPTIONS, YES_NO, NO_YES = "{options}", "yes or no", "no or yes"
QUESTION = (
    "Is there roadwork in this street image: cones, barriers, barrels, signs of works, diggers or people at work? "
    f"Answer with one word, {OPTIONS}."
)
# So many tokens have less, with twenty others beside each, and reading it takes the event loop milliseconds.
MOST_BYTES = 2**18
# The first status of a server that is not there, or not well.
FAILS = 500


class ChatClient:
    """A Stage-2 that is asked by chat completions.

    Args:
        http: sends the requests; closed with the client.
        settings: of the server.

    Raises:
        SettingsError: the prompt cannot be read, or names no options although both orders are wanted.
    """

    def __init__(self, http: Client, settings: OpenAiServer) -> None:
        self._http = http
        self._settings = settings
        self._base = settings.url.removesuffix("/v1")
        self._url = f"{self._base}/v1/chat/completions"
        self._questions = _questions(settings)
        # What this server was found not to know.
        self._without: set[str] = set()
        # Whether its answers have log-probabilities, once it has answered.
        self._measured: bool | None = None

    @property
    def name(self) -> str:
        """See `Stage2Client.name`."""
        return self._settings.name

    async def ask(self, content: bytes, timeout_s: float) -> float:
        """See `Stage2Client.ask`; the mean of both orders of the options where `both_orders` is set.

        Raises:
            RemoteError: the server did not answer as the protocol says.
            Stage2Error: it answered in another way than before, or not under the constraint that was asked for.
            ImageRefused: the answer is neither yes nor no, nor a probability; an image with words in it can do that.
        """
        if self._settings.both_orders and (both := await self.ask_in_both_orders(content, timeout_s)) is not None:
            return mean_of(both)
        return await self._asked(self._questions[0], content, timeout_s)

    async def ask_in_both_orders(self, content: bytes, timeout_s: float) -> tuple[float, float] | None:
        """See `TwoOrders.ask_in_both_orders`."""
        if len(self._questions) == 1:
            return None
        asking = [asyncio.ensure_future(self._asked(one, content, timeout_s)) for one in self._questions]
        try:
            first, second = await asyncio.gather(*asking)
        except RemoteError as error:
            if not error.passing:
                raise
            # The other may have been computed, and paid for: both together are nothing that was never sent.
            raise RemoteError(str(error), status=error.status, retry_after_s=error.retry_after_s) from error
        finally:
            for one in asking:
                one.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return first, second

    async def check(self, timeout_s: float) -> str:
        """See `Checked.check`: asks for a black image, because nothing else says whether the model sees images."""
        completion = await self._completion(self._questions[0], black_image(), timeout_s)
        self._read(completion)
        parts = {*self._without, *(() if self._measured else (LOGPROBS,))}
        told = [INSTEAD[part] for part in sorted(parts)]
        if self._measured:
            told.insert(0, "with log-probabilities")
        if completion.usage is not None and completion.usage.prompt_tokens:
            used = completion.usage
            told.append(f"{used.prompt_tokens} tokens read and {used.completion_tokens} written for an image")
        return f"model {completion.model or self._settings.model}, {', '.join(told)}"

    async def identity(self, timeout_s: float) -> ServerIdentity:
        """See `Checked.identity`: an image is asked about first, which shows what the server understands.

        A paid service tells the date of its model by the model that it names in a reply.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        completion = await self._completion(self._questions[0], black_image(), timeout_s)
        self._read(completion)
        facts = await facts_of(self._http, self._base, self._settings.model, until - loop.time())
        named = completion.model if completion.model != self._settings.model else ""
        return ServerIdentity.made(
            "openai",
            self.name,
            self._settings.model,
            " ".join(filter(None, (named, facts.version))),
            questions=list(self._questions if self._settings.both_orders else self._questions[:1]),
            logprobs="none" if not self._measured else "processed" if self._is_constrained else "raw",
            without=sorted(self._without),
            constrained=self._is_constrained,
            max_tokens=self._settings.max_tokens,
            flags=[list(one) for one in facts.flags],
        )

    async def probe(self, timeout_s: float) -> None:
        """See `Probed.probe`: asks for the list of models; a server without one is there too."""
        try:
            await remote.ask(self._http, "GET", f"{self._base}/v1/models", timeout_s=timeout_s)
        except RemoteError as error:
            if error.status is None or error.status >= FAILS:
                raise

    async def close(self) -> None:
        """See `Stage2Client.close`."""
        await self._http.aclose()

    @property
    def _is_constrained(self) -> bool:
        return self._settings.constrained and CHOICE not in self._without

    async def _asked(self, question: str, content: bytes, timeout_s: float) -> float:
        completion = await self._completion(question, content, min(self._settings.timeout_s, timeout_s))
        found, usage = self._read(completion), completion.usage
        tokens = None if usage is None else usage.tokens
        return found if tokens is None else MeteredProbability(found, tokens)

    def _read(self, completion: Completion) -> float:
        choice = completion.choices[0]
        likely = choice.first_token
        found = yes_share(likely, constrained=self._is_constrained) if likely else spoken(choice.words)
        if self._measured is None:
            self._measured = bool(likely)
            if not likely and LOGPROBS not in self._without:
                log.warning("stage2_server_lacks", server=self.name, parts=[LOGPROBS])
        elif self._measured is not bool(likely):
            had, has = ("with", "without") if self._measured else ("without", "with")
            raise Stage2Error(
                f"it answered {had} log-probabilities before and {has} them this time, and they do not mix"
            )
        return found

    async def _completion(self, question: str, content: bytes, timeout_s: float) -> Completion:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        settings = self._settings
        without = frozenset(self._without)
        while True:
            make = partial(
                body,
                settings.model,
                question,
                content,
                without=without,
                constrained=settings.constrained,
                max_tokens=settings.max_tokens,
            )
            sent = await made(make, len(content), JSON_AT_ONCE_BYTES)
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
                # Of a server that has answered it is known what it knows.
                guess = self._measured is None
                unknown = blamed(str(error), without, constrained=settings.constrained, guess=guess)
                if error.status in {400, 422} and unknown is not None:
                    without |= {unknown}
                    continue
                raise
            # An image that is refused is refused without them too: only what helped is remembered.
            if unknown_parts := without - self._without:
                self._without |= unknown_parts
                log.warning("stage2_server_lacks", server=self.name, parts=sorted(unknown_parts))
            return reply.read(Completion, f"{self._url}: the reply is no chat completion")


def _questions(settings: OpenAiServer) -> tuple[str, ...]:
    """The question, and the same with the options the other way round where it names them."""
    text = QUESTION if settings.prompt_file is None else _prompt(settings)
    where = OPTIONS if OPTIONS in text else YES_NO
    if where in text:
        return text.replace(where, YES_NO), text.replace(where, NO_YES)
    if settings.both_orders:
        raise SettingsError(
            f"stage2 server {settings.name}: both_orders is set, and {settings.prompt_file} has neither {OPTIONS} nor "
            f"{YES_NO!r} in it"
        )
    return (text,)


def _prompt(settings: OpenAiServer) -> str:
    assert settings.prompt_file is not None
    try:
        text = settings.prompt_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"stage2 server {settings.name}: prompt_file cannot be read: {error}") from error
    if not text:
        raise SettingsError(f"stage2 server {settings.name}: {settings.prompt_file} is empty")
    return text
