"""Requests signed with real keys, as a dendrite signs them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from bittensor_wallet import Keypair, Wallet

EMPTY_HASH = hashlib.sha3_256(b"").hexdigest()


@dataclass(frozen=True)
class Signer:
    """Makes the headers of requests to one axon."""

    key: Keypair
    receiver: str

    @property
    def hotkey(self) -> str:
        return str(self.key.ss58_address)

    def headers(self, *, nonce_ns: int | None = None, uuid: str = "dendrite-1", **changes: str) -> dict[str, str]:
        """Signed headers; `changes` are made after signing, an empty value removes the header."""
        nonce_ns = time.time_ns() if nonce_ns is None else nonce_ns
        message = f"{nonce_ns}.{self.hotkey}.{self.receiver}.{uuid}.{EMPTY_HASH}"
        headers = {
            "name": "ImageSynapse",
            "timeout": "9.0",
            "computed_body_hash": EMPTY_HASH,
            "bt_header_axon_hotkey": self.receiver,
            "bt_header_dendrite_hotkey": self.hotkey,
            "bt_header_dendrite_nonce": str(nonce_ns),
            "bt_header_dendrite_uuid": uuid,
            "bt_header_dendrite_signature": "0x" + self.key.sign(message).hex(),
        }
        return {name: value for name, value in (headers | changes).items() if value}


def new_key() -> Keypair:
    return Keypair.create_from_mnemonic(Keypair.generate_mnemonic())


@pytest.fixture(scope="session")
def axon_key() -> Keypair:
    return new_key()


@pytest.fixture(scope="session")
def validator(axon_key: Keypair) -> Signer:
    """Signs requests to `axon_key`."""
    return Signer(new_key(), str(axon_key.ss58_address))


@pytest.fixture(scope="session")
def stranger(axon_key: Keypair) -> Signer:
    """Signs just as well, but nobody knows it."""
    return Signer(new_key(), str(axon_key.ss58_address))


@pytest.fixture
def new_wallet(tmp_path: Path) -> Callable[[str], Wallet]:
    """Creates wallets with the hotkey `default` below `tmp_path`."""

    def create(name: str) -> Wallet:
        wallet = Wallet(name=name, hotkey="default", path=str(tmp_path))
        wallet.create_new_coldkey(use_password=False, overwrite=True, suppress=True)
        wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
        return wallet

    return create
