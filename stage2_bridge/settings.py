"""Settings of the way to Stage-2."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from engines.remote.address import checked_address
from stage1.preprocess import PreprocessSettings
from stage1.settings import Section, UserPath
from stage2_bridge.protection.budget.cost import Cost
from stage2_bridge.protection.settings import FEWEST_CALLS, BudgetSettings, CacheSettings, HedgeSettings, Unit

# Images at a time at an engine of this process, which computes them one after the other.
ENGINE_CALLS = 16
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,40}$")]


Url = Annotated[str, AfterValidator(partial(checked_address, instead="use key_env or key_file"))]


class _AnyServer(Section):
    """What every kind of server has.

    Attributes:
        equal: as good as the server before it in the list: of equals the one with fewer requests under way is asked.
        free: its calls do not count against `stage2.budget`.
        price_a_call: what a call costs, in the unit of `stage2.budget.money`.
    """

    equal: bool = False
    free: bool = False
    price_a_call: float = Field(default=0.0, ge=0)

    @property
    def calls_an_image(self) -> int:
        """Calls that an image takes."""
        return 1

    def cost(self, unit: Unit) -> Cost | None:
        """What handing an image on costs, in a unit of budgets; None for nothing."""
        if self.free:
            return None
        return Cost(self.calls_an_image * (1.0 if unit == "calls" else self.price_a_call))


class EngineServer(_AnyServer):
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


class _RemoteServer(_AnyServer):
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
        price_per_1000_tokens: what a thousand tokens cost, of the question and of the answer.
        most_tokens: of one call; so many are set aside before it, and what it used is settled after it.
    """

    kind: Literal["openai"] = "openai"
    prompt_file: UserPath | None = None
    constrained: bool = False
    both_orders: bool = False
    max_tokens: int | None = Field(default=None, ge=1, le=100_000)
    price_per_1000_tokens: float = Field(default=0.0, ge=0)
    most_tokens: int = Field(default=4096, ge=1)

    @property
    def calls_an_image(self) -> int:
        """See `_AnyServer.calls_an_image`."""
        return 2 if self.both_orders else 1

    def cost(self, unit: Unit) -> Cost | None:
        """See `_AnyServer.cost`."""
        found = super().cost(unit)
        if found is None or unit == "calls":
            return found
        return replace(
            found, token=self.price_per_1000_tokens / 1000, most_tokens=self.calls_an_image * self.most_tokens
        )


class PythonServer(_AnyServer):
    """A server of one's own: a class in a Python file, which runs in this process.

    Attributes:
        kind: tells it from the others.
        name: what the journal calls it.
        file: the Python file; it is run when the miner starts.
        factory: the class in it, or whatever else makes a client.
        options: arguments that it is made with, by name.
        connections: images at a time.
    """

    kind: Literal["python"] = "python"
    name: Name
    file: UserPath
    factory: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    options: dict[str, JsonValue] = Field(default={})
    connections: int = Field(default=16, ge=1, le=1024)


AnyServer = EngineServer | KserveServer | DetectorServer | OpenAiServer | PythonServer
Server = Annotated[AnyServer, Field(discriminator="kind")]


class Stage2Settings(Section):
    """Where deferred images go.

    Attributes:
        engine: directory of a larger engine in this process; short for one server of that kind.
        threads: intra-op threads of that engine; by default all cores.
        servers: in order of preference; a later one is asked where the earlier ones fail or are full.
        max_in_flight: most images at Stage-2 at one time; by default as many as the servers take together, of
            which an engine in this process takes 16.
        max_waiting: most images that wait for a hand-off to end, while there is time left for an answer;
            further ones are answered by Stage-1.
        reserve_s: time that is kept before an answer is due, to answer without Stage-2.
        max_image_bytes_a_second: most bytes of images that are sent to servers elsewhere in a second, all
            together; what comes earlier waits, and is `busy` if there is no time for that.
        probe_s: a server that was not asked for so long is asked whether it is there, which computes nothing;
            `0` for never.
        hedge: a second server for what takes long.
        budget: how much Stage-2 may be asked; None for any.
        cache: verdicts that are used again.
    """

    engine: UserPath | None = None
    threads: int | None = Field(default=None, ge=1)
    servers: tuple[Server, ...] = ()
    max_in_flight: int | None = Field(default=None, ge=1)
    max_waiting: int = Field(default=256, ge=0)
    reserve_s: float = Field(default=0.25, ge=0)
    max_image_bytes_a_second: int | None = Field(default=None, ge=1024)
    probe_s: float = Field(default=15.0, ge=0)
    hedge: HedgeSettings = HedgeSettings()
    budget: BudgetSettings | None = None
    cache: CacheSettings = CacheSettings()

    @property
    def all_servers(self) -> tuple[AnyServer, ...]:
        """All servers in order of preference, that of `engine` first."""
        if self.engine is None:
            return self.servers
        return (EngineServer(directory=self.engine, threads=self.threads), *self.servers)

    @property
    def is_asked(self) -> bool:
        """Whether there is a Stage-2: a server, and a budget that is not 0."""
        return bool(self.all_servers) and (self.budget is None or self.budget.limit > 0)

    @property
    def hand_offs(self) -> int:
        """Hand-offs at a time."""
        return self.max_in_flight or sum(self.calls_at_a_time(one) for one in self.all_servers) or 1

    @property
    def dearest_image(self) -> float:
        """The most that handing one image on costs, in the unit of the budget; 0 without one."""
        if self.budget is None:
            return 0.0
        costs = (one.cost(self.budget.unit) for one in self.all_servers)
        return max((cost.upper for cost in costs if cost is not None), default=0.0)

    def calls_at_a_time(self, server: Server) -> int:
        """Images that one server takes at a time."""
        if isinstance(server, EngineServer):
            return self.max_in_flight or ENGINE_CALLS
        return server.connections * (server.max_batch if isinstance(server, KserveServer | DetectorServer) else 1)

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        twice = [name for name, count in Counter(one.name for one in self.all_servers).items() if count > 1]
        if twice:
            raise ValueError(f"two servers have the name {twice[0]!r}: give each its own")
        return self

    @model_validator(mode="after")
    def _affordable(self) -> Self:
        budget = self.budget
        if budget is None or budget.unit != "money" or not budget.limit:
            return self
        for one in self.all_servers:
            if (cost := one.cost("money")) is None:
                continue
            if not cost.upper:
                raise ValueError(
                    f"budget.money is given and server {one.name!r} has no price: set its price_a_call"
                    f"{', or price_per_1000_tokens' if isinstance(one, OpenAiServer) else ''}, or free = true"
                )
            if FEWEST_CALLS * cost.upper > budget.limit:
                raise ValueError(
                    f"budget.money is {budget.limit:g} and a call to {one.name!r} may cost {cost.upper:g}: give "
                    f"the price of at least {FEWEST_CALLS} calls, or 0 for Stage-1 alone"
                )
        return self
