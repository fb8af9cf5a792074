"""What a Stage-2 server can do wrong, each as a server that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.support.stage2_servers import Asked, Fake, Handler, classifier, http

# More than anybody reads of one image.
HUGE = 24 * 2**20


@dataclass(frozen=True)
class Fault:
    """One of them.

    Attributes:
        name: of it.
        what: it is, in words.
        make: a server that does it, from one that keeps to the protocol.
        tls: whether it has a certificate that nobody vouches for.
        outcomes: that a hand-off to it may have.
    """

    name: str
    what: str
    make: Callable[[Handler], Fake]
    tls: bool = False
    outcomes: tuple[str, ...] = ("error",)


def broken(fault: Fault, knows: Handler) -> Fake:
    server = fault.make(knows)
    server.only = "/infer"
    return server


def always(reply: bytes | None) -> Callable[[Handler], Fake]:
    """Answers all images with this."""

    def make(knows: Handler) -> Fake:
        return Fake(lambda asked: reply if asked.path.endswith("/infer") else knows(asked))

    return make


def giving(values: list[float], version: str = "1") -> Callable[[Handler], Fake]:
    """Answers all images with these numbers."""
    gives = classifier(lambda _: {"probability": np.asarray(values, np.float32)})

    def make(knows: Handler) -> Fake:
        def answer(asked: Asked) -> bytes | None:
            if not asked.path.endswith("/infer"):
                return knows(asked)
            reply = gives(asked)
            return reply and reply.replace(b'"model_version": "1"', f'"model_version": "{version}"'.encode())

        return Fake(answer)

    return make


FAULTS = (
    Fault("delay", "answers after a minute", lambda knows: Fake(knows, before_s=60), outcomes=("timeout", "error")),
    Fault("reset", "resets in the middle of a body", lambda knows: Fake(knows, cut=120, resets=True)),
    Fault("hang_up", "closes without a reply", always(None)),
    Fault("storm", "503 for every image", always(http(503, b"overloaded", {"retry-after": "1"}))),
    Fault(
        "slow_loris", "a byte every 50 ms", lambda knows: Fake(knows, bytes_a_second=20), outcomes=("timeout", "error")
    ),
    Fault("shape", "three numbers for one image", giving([0.1, 0.2, 0.3])),
    Fault("nan", "no number", giving([float("nan")])),
    Fault("no_probability", "a logit for a probability", giving([7.5])),
    Fault("huge", f"a reply of {HUGE // 2**20} MiB", always(http(200, bytes(HUGE))), outcomes=("error", "timeout")),
    Fault("version", "another version than the pinned one", giving([0.5], version="2")),
    Fault("refusal", "400 for every image", always(http(400, b"unknown field"))),
    Fault("failure", "500 for every image", always(http(500, b"out of memory"))),
    Fault("no_http", "bytes that are no HTTP", always(b"\x00\x01\x02\x03\r\n\r\n")),
    Fault("tls", "a certificate that nobody vouches for", Fake, tls=True),
)
