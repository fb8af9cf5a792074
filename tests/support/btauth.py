"""Requests signed as bittensor 11 signs them."""

from __future__ import annotations

import hashlib
import time

from bittensor_wallet import Keypair

from miner.axon.authenticator import ED25519


def sign(
    key: Keypair,
    body: bytes,
    receiver: str | None,
    *,
    target: str = "/ImageSynapse",
    method: str = "POST",
    nonce_ns: int | None = None,
) -> dict[str, str]:
    """The headers of a request.

    Args:
        key: signs it.
        body: its body.
        receiver: ss58 address of the hotkey that is asked; None if anyone is.
        target: path and query.
        method: of the request.
        nonce_ns: nanoseconds since 1970; the clock's without it.
    """
    nonce = time.time_ns() if nonce_ns is None else nonce_ns
    scheme = "ed25519" if key.crypto_type == ED25519 else "sr25519"
    hashed = hashlib.sha256(body).hexdigest()
    lines = ("btauth/1", scheme, method, target, hashed, str(nonce), key.ss58_address, receiver or "-")
    headers = {
        "X-Bittensor-Version": "1",
        "X-Bittensor-Hotkey": key.ss58_address,
        "X-Bittensor-Nonce": str(nonce),
        "X-Bittensor-Signature": "0x" + key.sign("\n".join(lines)).hex(),
    }
    if scheme != "sr25519":
        headers["X-Bittensor-Crypto"] = scheme
    if receiver is not None:
        headers["X-Bittensor-Receiver"] = receiver
    return headers
