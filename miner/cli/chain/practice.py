"""A chain for practice: throw-away keys, the file on which they are registered, and the variables that name both."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from miner.errors import MinerError
from miner.simulation.keys import HOTKEY, throw_away_key, write_chain
from stage1.artifacts import write_atomic

MINER, VALIDATOR = "miner", "validator"


@dataclass(frozen=True)
class Practice:
    """What was made.

    Attributes:
        miner: ss58 address of the miner's hotkey.
        validator: ss58 address of the validator's hotkey.
        variables: a file for a shell, after which commands take this chain and these keys.
    """

    miner: str
    validator: str
    variables: Path


def made(directory: Path) -> Practice:
    """Write keys, chain and variables; hotkeys that are there are kept, and no private coldkey stays.

    Args:
        directory: where to; made if it is not there.

    Raises:
        OSError: it cannot be written.
        MinerError: it has wallets that were not made for practice, as `~/.bittensor` does; nothing is changed there.
    """
    home = directory.resolve()
    keys, chain = home / "wallets", home / "chain.json"
    for name in (MINER, VALIDATOR):
        _check_not_in_use(keys / name, chain)
    directory.mkdir(parents=True, exist_ok=True)
    found = Practice(
        miner=throw_away_key(keys, MINER),
        validator=throw_away_key(keys, VALIDATOR),
        variables=directory / "practice.env",
    )
    for name in (MINER, VALIDATOR):
        # As on a machine of the real chain: hotkeys alone, or the doctor calls it an error.
        (keys / name / "coldkey").unlink(missing_ok=True)
    write_chain(chain, miner=found.miner, validator=found.validator)
    variables = {
        "CASCADE_WALLET__PATH": keys,
        "CASCADE_WALLET__NAME": MINER,
        "CASCADE_WALLET__HOTKEY": HOTKEY,
        "CASCADE_CHAIN__KIND": "offline",
        "CASCADE_CHAIN__SNAPSHOT": chain,
        "CASCADE_CHAIN__PUBLISH_ENDPOINT": "false",
    }
    lines = (f"export {name}={shlex.quote(str(value))}\n" for name, value in variables.items())
    write_atomic(found.variables, "".join(lines).encode())
    return found


def _check_not_in_use(wallet: Path, chain: Path) -> None:
    """A coldkey that is here already was not made here, and neither was a wallet beside which no chain is."""
    if (wallet / "coldkey").exists() or (wallet.exists() and not chain.exists()):
        raise MinerError(f"{wallet}: a wallet that was not made for practice; give a directory that is empty or new")
