"""The wire of a subnet that does not exist, in one file: `POST /v1/detect` with a hex image, signed over the body.

Headers `toy-hotkey`, `toy-nonce` (seconds) and `toy-signature`, over `nonce:sha256(body)`; answers `{"score": p}`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping

from miner.axon.authenticator import NS_PER_S, Claim, Head
from miner.axon.proofs import Proofs
from miner.axon.refusals import BadRequest, Unauthenticated
from miner.axon.routes import Route
from miner.axon.settings import WireSettings

OLDEST_S = 30.0


class HexImage:
    """A hexadecimal text."""

    def image_b64(self, body: bytearray) -> str:
        try:
            return base64.b64encode(bytes.fromhex(body.decode())).decode()
        except ValueError:
            raise BadRequest("the body is no hexadecimal text") from None

    def answer(self, probability: float) -> bytes:
        return json.dumps({"score": probability}).encode()

    def refusal(self, message: str) -> bytes:
        return json.dumps({"detail": message}).encode()


class ToyProtocol:
    """Its `Authenticator`."""

    signs_body = True

    def __init__(self, settings: WireSettings, age_s: Callable[[], float]) -> None:
        self._proofs = Proofs(
            retention_s=settings.nonce_retention_s, most=settings.nonces_per_hotkey, ahead_s=1.0, age_s=age_s
        )
        self.prove = self._proofs.prove

    def recognises(self, headers: Mapping[str, str]) -> bool:
        return "toy-hotkey" in headers

    def claimed_sender(self, headers: Mapping[str, str]) -> str:
        return headers.get("toy-hotkey", "")

    def read(self, head: Head, now_ns: int) -> Claim:
        nonce = head.headers.get("toy-nonce", "")
        if not (nonce.isascii() and nonce.isdigit()):
            raise Unauthenticated("no nonce")
        nonce_ns = int(nonce) * NS_PER_S
        return Claim(
            sender=self.claimed_sender(head.headers),
            nonce_ns=nonce_ns,
            signature=head.headers.get("toy-signature", ""),
            message=lambda body_sha256: f"{nonce}:{body_sha256}",
            auth_mode="toy",
            stale=self._proofs.stale(nonce_ns, OLDEST_S, now_ns),
        )

    def reply_headers(self, status: int, message: str, *, seconds: float) -> list[tuple[bytes, bytes]]:  # noqa: ARG002
        return [(b"content-type", b"application/json"), (b"toy-status", str(status).encode())]


def routes(_hotkey: str, settings: WireSettings, *, age_s: Callable[[], float]) -> tuple[Route, ...]:
    return (Route("/v1/detect", HexImage(), ToyProtocol(settings, age_s), waits_s=5.0),)
