"""Errors of the live miner, each with the exit status of the command that it ends.

MinerError
├── SettingsError          the settings do not fit                           2
├── WalletError            the wallet or hotkey cannot be read               3
└── StartError             the miner cannot start                            4
"""

from __future__ import annotations

from typing import ClassVar


class MinerError(Exception):
    """Root of the errors of `miner`."""

    exit_status: ClassVar[int] = 1


class SettingsError(MinerError):
    """The settings do not fit."""

    exit_status = 2


class WalletError(MinerError):
    """The wallet or the hotkey cannot be read."""

    exit_status = 3


class StartError(MinerError):
    """The miner cannot start."""

    exit_status = 4
