"""The hotkey's file: what is said of one that is missing, or that belongs to somebody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from miner.chain.settings import WalletSettings
from miner.chain.wallet import load_hotkey
from miner.errors import WalletError

NOBODY = 65534


@contextmanager
def somebody_else() -> Iterator[None]:
    """A user whom no right of root's helps."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(own)


@pytest.mark.parametrize("closed", ["hotkeys/one", "hotkeys", "."])
def test_a_hotkey_of_another_user_is_told_with_what_to_do(tmp_path: Path, closed: str) -> None:
    file = tmp_path / "miner" / "hotkeys" / "one"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    (tmp_path / "miner" / closed).chmod(0)
    try:
        with somebody_else(), pytest.raises(WalletError) as told:
            load_hotkey(WalletSettings(name="miner", hotkey="one", path=tmp_path))
    finally:
        (tmp_path / "miner" / closed).chmod(0o755)
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    assert f"{file}: user {user} may not read it; as root: chown -R {user} {tmp_path / 'miner'}" in str(told.value)


@pytest.mark.parametrize("made", ["nothing", "a directory", "a file above"])
def test_a_hotkey_that_is_not_there_is_told(tmp_path: Path, made: str) -> None:
    file = tmp_path / "miner" / "hotkeys" / "one"
    if made == "a directory":
        file.mkdir(parents=True)
    elif made == "a file above":
        (tmp_path / "miner").write_text("")
    with pytest.raises(WalletError, match="there is no such hotkey"):
        load_hotkey(WalletSettings(name="miner", hotkey="one", path=tmp_path))
