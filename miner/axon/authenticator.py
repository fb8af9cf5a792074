"""How a request proves who sent it: what every wire protocol of an axon offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What the headers of one request claim; true only after `verify`.

    Attributes:
        sender: ss58 address of the dendrite's hotkey.
        receiver: ss58 address of the axon's hotkey the request is meant for; empty if the header is absent.
        nonce_ns: the sender's clock when it signed, in nanoseconds since 1970.
        uuid: identity of the sender's dendrite.
        body_hash: hash over the fields the synapse class requires, constant for `ImageSynapse`.
        signature: `0x` and 128 hex digits, or empty.
        timeout_s: how long the sender waits, in seconds; finite and positive.
    """

    sender: str
    receiver: str
    nonce_ns: int
    uuid: str
    body_hash: str
    signature: str
    timeout_s: float

    @property
    def message(self) -> str:
        """The text that was signed."""
        return f"{self.nonce_ns}.{self.sender}.{self.receiver}.{self.uuid}.{self.body_hash}"


class Authenticator(Protocol):
    """One wire protocol, for one hotkey of ours.

    A request is checked in two steps, so that a stranger costs little: first whether the hotkey that it claims to come
    from may ask at all, and only then whether the claim is true.
    """

    def claimed_sender(self, headers: Mapping[str, str]) -> str:
        """The hotkey (ss58 address) that a request claims to come from, empty if none.

        Args:
            headers: lower-case names to values.
        """
        ...

    def prove(self, headers: Mapping[str, str], now_ns: int) -> float:
        """Prove that the claimed sender sent this request, to us, a moment ago, and only once.

        Args:
            headers: lower-case names to values.
            now_ns: our clock, nanoseconds since 1970.

        Returns:
            How long the sender waits for the answer, in seconds.

        Raises:
            Unauthenticated: the claim is not true, the request is not fresh, or it was seen before.
            BadRequest: the headers cannot be read.
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
