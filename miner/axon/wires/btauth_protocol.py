r"""`btauth/1`, the signed requests of bittensor 11: what a request claims, and what a reply carries.

The signature covers eight lines: `btauth/1`, the scheme, the method, path and query as they were sent, the SHA-256 of
the body, the nonce, the sender, and the receiver or `-`. So it is proved in two steps: the head is read first, and the
proof waits for the body.

Reference: bittensor 11.3.0, `http_auth.py` (`build_payload`, `verify`), `wallets.py` (`parse_crypto_type`).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from functools import partial

from miner.axon.authenticator import ED25519, SR25519, Claim, Head
from miner.axon.nonces import SEEN
from miner.axon.proofs import STALE_CLAIM, Proofs, nonce_age_s
from miner.axon.refusals import Unauthenticated
from miner.axon.settings import WireSettings

PROTOCOL, VERSION = "btauth/1", "1"
# In the place of the receiver, where a request is for anyone.
UNBOUND = "-"

_HOTKEY = "x-bittensor-hotkey"
_SCHEMES = {"sr25519": SR25519, "ed25519": ED25519, "1": SR25519, "0": ED25519}
_NAMES = {SR25519: "sr25519", ED25519: "ed25519"}
_SIGNATURE = re.compile(r"(?:0x)?([0-9a-fA-F]{128})")
_INTEGER = re.compile(r"[0-9]{1,20}")
_LONGEST_NAME = 32


class BtauthProtocol:
    """The `Authenticator` of bittensor 11.

    Args:
        hotkey: ss58 address of our own hotkey.
        settings: which requests count as fresh, and whether one may be for anyone.
        age_s: age of this process, in seconds.
        clock: monotonic time in seconds.
    """

    signs_body = True

    def __init__(
        self,
        hotkey: str,
        settings: WireSettings | None = None,
        *,
        age_s: Callable[[], float] = lambda: math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hotkey = hotkey
        self._settings = settings = settings or WireSettings()
        self._proofs = Proofs(
            retention_s=settings.nonce_retention_s,
            most=settings.nonces_per_hotkey,
            ahead_s=settings.max_skew_s,
            age_s=age_s,
            clock=clock,
        )
        self.prove = self._proofs.prove

    def recognises(self, headers: Mapping[str, str]) -> bool:
        """See `Authenticator.recognises`."""
        return _HOTKEY in headers

    def claimed_sender(self, headers: Mapping[str, str]) -> str:
        """See `Authenticator.claimed_sender`."""
        return headers.get(_HOTKEY, "")

    def read(self, head: Head, now_ns: int) -> Claim:
        """See `Authenticator.read`.

        A stale claim is refused before its body is read, except for one of a sender in a while: see `Proofs.spare`.
        """
        nonce = head.headers.get("x-bittensor-nonce", "")
        if not _INTEGER.fullmatch(nonce):
            raise Unauthenticated(f"X-Bittensor-Nonce is {'not a decimal integer' if nonce else 'missing'}")
        nonce_ns = int(nonce)
        try:
            claim = self._claim(head, nonce_ns, now_ns)
            if claim.stale is not None and not self._proofs.spare(claim.sender):
                claim.stale.kind = STALE_CLAIM
                raise claim.stale
            if claim.stale is None and self._proofs.seen(claim):
                raise Unauthenticated(SEEN, "replay")
        except Unauthenticated as error:
            error.known["nonce_age_s"] = nonce_age_s(nonce_ns, now_ns)
            raise
        return claim

    def reply_headers(
        self,
        status: int,  # noqa: ARG002  the protocol has nothing but the status of HTTP
        message: str,  # noqa: ARG002
        *,
        seconds: float,  # noqa: ARG002
    ) -> list[tuple[bytes, bytes]]:
        """See `Authenticator.reply_headers`."""
        return [(b"content-type", b"application/json")]

    def _claim(self, head: Head, nonce_ns: int, now_ns: int) -> Claim:
        headers = head.headers
        version = headers.get("x-bittensor-version", "")
        if version != VERSION:
            told = f"is {version[:_LONGEST_NAME]!r}" if version else "is missing"
            raise Unauthenticated(f"X-Bittensor-Version {told}; this axon speaks version {VERSION}")
        receiver = headers.get("x-bittensor-receiver")
        if receiver is None and not self._settings.allow_unbound_receiver:
            raise Unauthenticated("X-Bittensor-Receiver is missing: this axon takes only requests for its hotkey")
        if receiver is not None and receiver != self._hotkey:
            raise Unauthenticated("the request is addressed to another hotkey")
        signature = _SIGNATURE.fullmatch(headers.get("x-bittensor-signature", ""))
        if signature is None:
            raise Unauthenticated("X-Bittensor-Signature is missing or is not 128 hex digits")
        scheme = _scheme(headers.get("x-bittensor-crypto", "sr25519"))
        sender = headers.get(_HOTKEY, "")
        return Claim(
            sender=sender,
            nonce_ns=nonce_ns,
            signature=f"0x{signature[1]}",
            message=partial(
                payload,
                scheme=_NAMES[scheme],
                method=head.method,
                target=head.target,
                nonce_ns=nonce_ns,
                sender=sender,
                receiver=receiver,
            ),
            auth_mode=PROTOCOL if receiver is not None else f"{PROTOCOL} unbound",
            scheme=scheme,
            stale=self._proofs.stale(nonce_ns, self._settings.max_age_s, now_ns),
        )


def payload(
    body_sha256: str, *, scheme: str, method: str, target: str, nonce_ns: int, sender: str, receiver: str | None
) -> str:
    """The text that is signed.

    Args:
        body_sha256: of the body, 64 lower-case hex digits.
        scheme: `sr25519` or `ed25519`.
        method: of the request, in upper case.
        target: path and query as they are sent.
        nonce_ns: nanoseconds since 1970.
        sender: ss58 address of the hotkey that signs.
        receiver: ss58 address of the hotkey that is asked; None if anyone is.
    """
    lines = (PROTOCOL, scheme, method, target, body_sha256, str(nonce_ns), sender, receiver or UNBOUND)
    return "\n".join(lines)


def _scheme(name: str) -> int:
    scheme = _SCHEMES.get(name.strip().lower())
    if scheme is None:
        known = " and ".join(sorted(_NAMES.values()))
        raise Unauthenticated(
            f"X-Bittensor-Crypto {name[:_LONGEST_NAME]!r} is no scheme that this axon can verify; it can verify {known}"
        )
    return scheme
