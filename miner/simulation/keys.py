"""Throw-away keys of a miner and a validator, and the file that stands for the chain they are registered on."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bittensor_wallet import Wallet

from miner.chain.offline import ChainFile
from miner.chain.port import Neuron

HOTKEY = "default"
STAKE = 50_000.0


def throw_away_key(keys: Path, name: str) -> str:
    """The address of the hotkey of a wallet without a password, which is made if it is not there.

    Args:
        keys: directory of wallets.
        name: of the wallet.
    """
    wallet = Wallet(name=name, hotkey=HOTKEY, path=str(keys))
    if not (keys / name / "hotkeys" / HOTKEY).is_file():
        with contextlib.redirect_stdout(None):
            wallet.create_new_coldkey(use_password=False, overwrite=True, suppress=True)
            wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
    return str(wallet.hotkey.ss58_address)


def write_chain(path: Path, *, miner: str, validator: str, stake: float = 0.0) -> None:
    """A chain on which both are registered, and the validator has a permit.

    Args:
        path: where it is written.
        miner: ss58 address.
        validator: ss58 address.
        stake: that the validator needs, in TAO; it has `STAKE` or more.
    """
    neurons = {miner: Neuron(uid=0), validator: Neuron(uid=1, validator_permit=True, stake=max(STAKE, stake))}
    ChainFile(block=1, neurons=neurons).write(path)
