"""Those who ask: wallets with real keys, and requests that are signed before they are sent."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bittensor_wallet import Keypair, Wallet

EMPTY_HASH = hashlib.sha3_256(b"").hexdigest()
ROUTE = "/ImageSynapse"
# What a validator waits.
TIMEOUT_S = 9.0
HOUR_NS = 3600 * 10**9


def make_wallet(home: Path, name: str) -> Wallet:
    """A wallet below `home` with the hotkey `default`, without a password."""
    wallet = Wallet(name=name, hotkey="default", path=str(home))
    wallet.create_new_coldkey(use_password=False, overwrite=True, suppress=True)
    wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
    return wallet


@dataclass(frozen=True)
class Caller:
    """One dendrite; can be sent to another process.

    Attributes:
        mnemonic: of its hotkey.
        receiver: ss58 address of the axon that it asks.
        uuid: of the dendrite.
    """

    mnemonic: str
    receiver: str
    uuid: str = "dendrite"

    @classmethod
    def new(cls, receiver: str, uuid: str = "dendrite") -> Caller:
        return cls(Keypair.generate_mnemonic(), receiver, uuid)

    def __reduce__(self) -> tuple[type[Caller], tuple[str, str, str]]:
        # A key cannot be sent.
        return Caller, (self.mnemonic, self.receiver, self.uuid)

    @cached_property
    def key(self) -> Any:
        return Keypair.create_from_mnemonic(self.mnemonic)

    @property
    def hotkey(self) -> str:
        return str(self.key.ss58_address)

    def head(self, length: int, *, nonce_ns: int | None = None, route: str = ROUTE, **changes: str) -> bytes:
        """The header of a request that is signed now, for a body of so many bytes.

        Args:
            length: announced as `content-length`.
            nonce_ns: the clock it is signed with.
            route: path.
            changes: headers that are changed after signing; an empty value leaves one out.
        """
        nonce = time.time_ns() if nonce_ns is None else nonce_ns
        message = f"{nonce}.{self.hotkey}.{self.receiver}.{self.uuid}.{EMPTY_HASH}"
        headers = {
            "host": "127.0.0.1",
            "accept": "*/*",
            "accept-encoding": "gzip, deflate",
            "user-agent": "Python/3.11 aiohttp/3.14.5",
            "name": "ImageSynapse",
            "timeout": str(TIMEOUT_S),
            "bt_header_axon_ip": "127.0.0.1",
            "bt_header_axon_port": "8091",
            "bt_header_axon_hotkey": self.receiver,
            "bt_header_dendrite_ip": "127.0.0.1",
            "bt_header_dendrite_version": "10005000",
            "bt_header_dendrite_nonce": str(nonce),
            "bt_header_dendrite_uuid": self.uuid,
            "bt_header_dendrite_hotkey": self.hotkey,
            "bt_header_dendrite_signature": "0x" + self.key.sign(message).hex(),
            "header_size": "0",
            "total_size": "0",
            "computed_body_hash": EMPTY_HASH,
            "content-type": "application/json",
            "content-length": str(length),
        }
        lines = [f"{name}: {value}" for name, value in (headers | changes).items() if value]
        return "\r\n".join([f"POST {route} HTTP/1.1", *lines, "", ""]).encode("latin-1")

    def request(self, body: bytes, **changes: Any) -> bytes:
        """A whole request; `changes` as in `head`."""
        return self.head(len(body), **changes) + body

    def stale(self, body: bytes) -> bytes:
        """One that was signed an hour ago."""
        return self.request(body, nonce_ns=time.time_ns() - HOUR_NS)

    def forged(self, body: bytes) -> bytes:
        """One whose signature is well formed and is not that of its key."""
        return self.request(body, bt_header_dendrite_signature="0x" + self.key.sign("something else").hex())


def body_of(image_b64: str) -> bytes:
    """What a dendrite sends of an `ImageSynapse`."""
    side = {"ip": "127.0.0.1", "port": 8091, "version": 10005000, "nonce": None, "uuid": None, "hotkey": None}
    content = {
        "name": "ImageSynapse",
        "timeout": TIMEOUT_S,
        "total_size": 0,
        "header_size": 0,
        "dendrite": side,
        "axon": side,
        "computed_body_hash": EMPTY_HASH,
        "testnet_label": -1,
        "image": image_b64,
        "prediction": -1.0,
    }
    return json.dumps(content).encode()
