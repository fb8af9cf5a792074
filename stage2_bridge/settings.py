"""Settings of the way to Stage-2."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from stage1.preprocess import PreprocessSettings
from stage1.settings import Section, UserPath

WRITE_URL = "write http://HOST:PORT or https://HOST"
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,40}$")]


def _address(url: str) -> str:
    """Without the address in any error: it may hold a password.

    Raises:
        ValueError: it is none, or has more than a host, a port and a path.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"not an address of a server: {WRITE_URL}") from error
    if "@" in parts.netloc:
        raise ValueError("an address with a name or a password in it would be in the log: use key_env or key_file")
    more = parts.query or parts.fragment or " " in url or not url.isprintable()
    if parts.scheme not in {"http", "https"} or not host or more:
        raise ValueError(f"not an address of a server: {WRITE_URL}")
    return url.rstrip("/")


Url = Annotated[str, AfterValidator(_address)]


class EngineServer(Section):
    """A larger engine in this process.

    Attributes:
        kind: tells it from the others.
        name: what the journal calls it.
        directory: of the engine.
        threads: intra-op threads.
    """

    kind: Literal["engine"] = "engine"
    name: Name = "local-engine"
    directory: UserPath
    threads: int | None = Field(default=None, ge=1)


class _RemoteServer(Section):
    """A server that is asked over HTTP.

    Attributes:
        name: what the journal calls it.
        url: of the server, without the path of its protocol.
        model: its name on the server.
        timeout_s: longest time for one attempt; never more than is left until the validator's deadline.
        connections: open at a time.
        key_env: variable of the environment that holds the key.
        key_file: file that holds the key, instead.
        ca_file: certificates in PEM of the authorities that may vouch for the server, instead of the public ones.
    """

    name: Name
    url: Url
    model: str = Field(min_length=1)
    timeout_s: float = Field(default=4.0, gt=0, le=60)
    connections: int = Field(default=16, ge=1, le=1024)
    key_env: str | None = None
    key_file: UserPath | None = None
    ca_file: UserPath | None = None

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.key_env is not None and self.key_file is not None:
            raise ValueError("key_env and key_file are both given: give one of them")
        if self.ca_file is not None and not self.url.lower().startswith("https:"):
            raise ValueError(
                "ca_file is given, and the address does not begin with https:// : nothing would be checked"
            )
        return self


class _InferenceServer(_RemoteServer):
    """A server that speaks the Open Inference Protocol.

    Attributes:
        version: of the model; None leaves the choice to the server.
        input: name of the model's input.
        image: what it takes: the file as it came (`file`, of the type BYTES), or `pixels` of the type UINT8.
        preprocess: how a picture becomes pixels.
        binary: whether the server has the binary extension of the protocol; None asks it.
        channels: where the pixels have their channels: `first`, `(N, 3, H, W)`, or `last`, `(N, H, W, 3)`.
        max_batch: most images of one call. More than one go together where they wait because all `connections` are
            under way.
    """

    version: str | None = None
    input: str = "image"
    image: Literal["file", "pixels"] = "file"
    preprocess: PreprocessSettings = PreprocessSettings()
    channels: Literal["first", "last"] = "first"
    binary: bool | None = None
    max_batch: int = Field(default=1, ge=1, le=256)


class KserveServer(_InferenceServer):
    """A classifier behind the Open Inference Protocol: Triton, MLServer, KServe, OpenVINO Model Server.

    Attributes:
        kind: tells it from the others.
        output: name of the model's output.
        reads: what it is: the `probability` of roadwork, its `logit`, or the two `logits` of no roadwork and roadwork.
    """

    kind: Literal["kserve"] = "kserve"
    output: str = "probability"
    reads: Literal["probability", "logit", "logits"] = "probability"


class DetectorServer(_InferenceServer):
    """A detector behind the same protocol, whose boxes become one score.

    Attributes:
        kind: tells it from the others.
        scores: name of the output with the score of each box, in [0, 1]; `(K,)`, or with other axes of one.
        classes: name of the output with the class of each box, a number, of the same shape.
        roadwork: classes that count as roadwork.
        combine: `max` takes the surest box, `noisy_or` the probability that at least one box is right.
    """

    kind: Literal["detector"] = "detector"
    scores: str = "scores"
    classes: str = "classes"
    roadwork: tuple[int, ...] = Field(min_length=1)
    combine: Literal["max", "noisy_or"] = "max"


class OpenAiServer(_RemoteServer):
    """A vision-language model behind chat completions: vLLM, SGLang, llama.cpp, Ollama, a paid service.

    Attributes:
        kind: tells it from the others.
        prompt_file: what is asked beside the image; a question that is answered by yes or no.
        constrained: have the server allow the two answers alone. Only for one whose log-probabilities are those after
            the constraint; see docs/using.md.
        both_orders: ask with each of the two answers first and take the mean, which costs twice as much.
        max_tokens: of an answer; by default one with log-probabilities and a few without. A model that reasons before
            it answers needs more.
    """

    kind: Literal["openai"] = "openai"
    prompt_file: UserPath | None = None
    constrained: bool = False
    both_orders: bool = False
    max_tokens: int | None = Field(default=None, ge=1, le=100_000)


Server = Annotated[EngineServer | KserveServer | DetectorServer | OpenAiServer, Field(discriminator="kind")]


class Stage2Settings(Section):
    """Where deferred images go.

    Attributes:
        engine: directory of a larger engine in this process; short for one server of that kind.
        threads: intra-op threads of that engine.
        servers: in order of preference; a later one is asked where the earlier ones fail or are full.
        max_in_flight: hand-offs at a time.
        max_waiting: hand-offs that wait for one to end, while there is time left for an answer.
        reserve_s: time kept before the deadline to answer without Stage-2.
    """

    engine: UserPath | None = None
    threads: int | None = Field(default=None, ge=1)
    servers: tuple[Server, ...] = ()
    max_in_flight: int = Field(default=16, ge=1)
    max_waiting: int = Field(default=256, ge=0)
    reserve_s: float = Field(default=0.25, ge=0)

    @property
    def all_servers(self) -> tuple[EngineServer | KserveServer | DetectorServer | OpenAiServer, ...]:
        """All servers in order of preference, that of `engine` first."""
        if self.engine is None:
            return self.servers
        return (EngineServer(directory=self.engine, threads=self.threads), *self.servers)

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        twice = [name for name, count in Counter(one.name for one in self.all_servers).items() if count > 1]
        if twice:
            raise ValueError(f"two servers have the name {twice[0]!r}: give each its own")
        return self
