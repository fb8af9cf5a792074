"""Errors of the live miner, each with the exit status of the command that it ends.

MinerError                 a `stage1.errors.CascadeError`
├── WalletError            3   the wallet or hotkey cannot be read
├── RegistrationError          NATIX did not take a registration
│   └── RegistrationPending    75  it has not decided yet
└── StartError             4   the miner cannot start
    ├── StateInUse             another miner has the state directory
    ├── ServerError            it cannot listen
    └── ChainError             what the chain says, or does not
        ├── ChainUnavailable   the endpoint gave no answer in time, or an unusable one
        │   └── ChainStuck     its block does not advance
        ├── NotRegistered      the hotkey has no UID on the subnet
        ├── ServeRefused       the chain did not accept the published address
        └── AddressUnknown     nobody says which address this machine has
"""

from __future__ import annotations

from stage1.errors import CascadeError


class MinerError(CascadeError):
    """Root of the errors of `miner`."""


class WalletError(MinerError):
    """The wallet or the hotkey cannot be read."""

    exit_status = 3


class RegistrationError(MinerError):
    """NATIX did not take a registration, or cannot be asked."""


class RegistrationPending(RegistrationError):
    """NATIX has not decided on a registration yet; it can be asked again."""

    exit_status = 75


class StartError(MinerError):
    """The miner cannot start."""

    exit_status = 4


class StateInUse(StartError):
    """Another miner has the state directory."""


class ServerError(StartError):
    """The axon, or the administrator's endpoint, cannot listen."""


class ChainError(StartError):
    """Root of the errors of the chain; a miner that runs already goes on with what it knows."""


class ChainUnavailable(ChainError):
    """The endpoint gave no answer in time, or one that cannot be used."""


class ChainStuck(ChainUnavailable):
    """What the endpoint knows does not advance: the node is stuck, or the chain is."""


class NotRegistered(ChainError):
    """The hotkey has no UID on the subnet."""


class ServeRefused(ChainError):
    """The chain did not accept the published address."""


class AddressUnknown(ChainError):
    """An address is to be published, and nobody says which one this machine has."""
