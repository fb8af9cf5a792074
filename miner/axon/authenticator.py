"""How a request proves who sent it: what every wire protocol of an axon offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from miner.axon.refusals import Unauthenticated

NS_PER_S = 1_000_000_000
# What bittensor's keys sign with, by the numbers that they have there.
ED25519, SR25519 = 0, 1


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its body.

    Attributes:
        method: in upper case.
        target: path and query as they were received, before anything is decoded.
        headers: lower-case names to values.
    """

    method: str
    target: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Claim:
    """What the head of one request claims; true only once it is proved.

    Attributes:
        sender: ss58 address of the hotkey that is said to have signed it.
        nonce_ns: the sender's clock when it signed, in nanoseconds since 1970.
        signature: `0x` and 128 hex digits.
        message: the text that was signed, from the SHA-256 of the body in lower-case hex digits; a protocol that does
            not sign the body is given an empty text.
        auth_mode: what the signature covers, for the logs.
        uuid: tells the nonces of several senders with one hotkey apart.
        scheme: of the signature, `ED25519` or `SR25519`.
        waits_s: how long the sender says it waits, in seconds; not signed. None if it does not say.
        stale: the refusal that it gets once it is proved, because of its nonce; None if that is fresh.
    """

    sender: str
    nonce_ns: int
    signature: str
    message: Callable[[str], str]
    auth_mode: str
    uuid: str = ""
    scheme: int = SR25519
    waits_s: float | None = None
    stale: Unauthenticated | None = None


class Authenticator(Protocol):
    """One wire protocol, for one hotkey of ours.

    A request is checked in steps, so that a stranger costs little: first whether the hotkey that it claims to come from
    may ask at all, then what its head says, and only then whether the claim is true.

    Attributes:
        signs_body: the signature covers the body, so that nothing is proved before the body is read.
    """

    signs_body: bool

    def recognises(self, headers: Mapping[str, str]) -> bool:
        """Whether a request speaks this protocol; cheap, and no more than a guess.

        Args:
            headers: lower-case names to values.
        """
        ...

    def claimed_sender(self, headers: Mapping[str, str]) -> str:
        """The hotkey (ss58 address) that a request claims to come from, empty if none.

        Args:
            headers: lower-case names to values.
        """
        ...

    def read(self, head: Head, now_ns: int) -> Claim:
        """Read what a request claims, and refuse what cannot be true before anything costly is done for it.

        Args:
            head: the request.
            now_ns: our clock, nanoseconds since 1970.

        Raises:
            Unauthenticated: it is not signed, not for us, or not fresh.
            BadRequest: the headers cannot be read.
        """
        ...

    def prove(self, claim: Claim, body_sha256: str, now_ns: int) -> None:
        """Prove that the claimed sender signed this request a moment ago, and accept it only once.

        Args:
            claim: what `read` found.
            body_sha256: of the body, 64 lower-case hex digits; empty unless `signs_body`.
            now_ns: our clock when the head came, nanoseconds since 1970.

        Raises:
            Unauthenticated: the claim is not true, the request is not fresh, or it was seen before.
        """
        ...

    def reply_headers(self, status: int, message: str, *, seconds: float) -> list[tuple[bytes, bytes]]:
        """Headers from which the caller takes the outcome.

        Args:
            status: HTTP status.
            message: one line for the caller.
            seconds: how long the request took.
        """
        ...


def decode_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header names and values of an ASGI scope as text; of a repeated header the last one counts."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}
