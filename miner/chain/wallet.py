"""The miner's hotkey."""

from __future__ import annotations

import os
from typing import Protocol, cast

from bittensor_wallet import Wallet

from miner.chain.settings import WalletSettings
from miner.errors import WalletError


class Hotkey(Protocol):
    """An sr25519 key pair."""

    @property
    def ss58_address(self) -> str:
        """Its address."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Signature of some bytes, 64 bytes."""
        ...


def load_hotkey(settings: WalletSettings) -> Hotkey:
    """The hotkey of a wallet; the coldkey is not touched.

    Raises:
        WalletError: the file is missing, is of another user, is encrypted without a password at hand, or is no key.
    """
    wallet = Wallet(name=settings.name, hotkey=settings.hotkey, path=str(settings.path.expanduser()))
    directory = settings.path.expanduser() / settings.name
    where = directory / "hotkeys" / settings.hotkey
    try:
        where.open("rb").close()
    except PermissionError as error:
        user = os.geteuid()
        raise WalletError(f"{where}: user {user} may not read it; as root: chown -R {user} {directory}") from error
    except OSError as error:
        problem = "there is no such hotkey; make one with `btcli wallet new-hotkey`, or set wallet.*"
        raise WalletError(f"{where}: {problem}") from error
    try:
        return cast("Hotkey", wallet.hotkey)
    except Exception as error:  # the wallet library raises unrelated types from native code
        raise WalletError(f"{where}: the hotkey cannot be read: {error}") from error
