"""The secrets: hotkeys that nobody else can read, no coldkey beside them, and where alerts are sent to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from miner.alerts.switch import addresses
from miner.chain.settings import WalletSettings
from miner.cli.doctor.diagnosis import Finding, error, ok, warning
from miner.errors import MinerError
from miner.identities import wallets
from miner.settings import MinerSettings
from stage1.errors import SettingsError

COLDKEY = "coldkey"
# How a key file begins that a password protects, whichever program wrote it.
# Source: bittensor-wallet 4.1, `keyfile.rs` (keyfile_data_is_encrypted).
ENCRYPTED = (b"$NACL", b"$ANSIBLE_VAULT", b"gAAAAA")


def keys(settings: MinerSettings) -> list[Finding]:
    """Hotkeys, who else can read their files, and coldkeys that are here."""
    try:
        found = [ok("hotkey", address) for address in wallets(settings)]
    except MinerError as failed:
        found = [error("hotkey", str(failed))]
    for served in settings.served:
        found += _hotkey_file(served.wallet)
    for wallet in {served.wallet.name: served.wallet for served in settings.served}.values():
        found += coldkey(wallet)
    return found


def _directory(wallet: WalletSettings) -> Path:
    return wallet.path.expanduser() / wallet.name


def _hotkey_file(wallet: WalletSettings) -> Iterator[Finding]:
    file = _directory(wallet) / "hotkeys" / wallet.hotkey
    try:
        about = file.stat()
    except OSError:
        # That it is not there is told already.
        return
    if why := _open_to_others(about):
        yield warning("wallet files", f"{file}: {why}", f"chmod 600 {file}")
        return
    if about.st_uid not in {os.getuid(), 0}:
        yield warning("wallet files", f"{file}: belongs to another user", f"chown {os.getuid()} {file}")
        return
    for home in (file.parent, file.parent.parent):
        if home.stat().st_mode & stat.S_IWOTH and not home.stat().st_mode & stat.S_ISVTX:
            detail = f"{home}: everybody can put another key in the place of this one"
            yield warning("wallet files", detail, f"chmod o-w {home}")
            return
    yield ok("wallet files", f"{file}: only its owner can read it")


def _open_to_others(about: os.stat_result) -> str:
    mode = stat.S_IMODE(about.st_mode)
    who = "everybody on this machine" if mode & stat.S_IRWXO else "its group" if mode & stat.S_IRWXG else ""
    return f"has mode {mode:03o}, so {who} can read or change it" if who else ""


def coldkey(wallet: WalletSettings) -> Iterator[Finding]:
    """Whether the coldkey's own file is here, which only transfers and registrations need."""
    directory = _directory(wallet)
    file = directory / COLDKEY
    try:
        with file.open("rb") as opened:
            content = opened.read(16)
    except FileNotFoundError:
        public = (directory / "coldkeypub.txt").is_file()
        yield ok("coldkey", f"is not here{', only its public half' if public else ''}, as it should be")
        return
    except OSError as failed:
        # It is here, and nobody but its owner may look at it.
        yield warning("coldkey", f"{file}: is here ({failed.strerror})", _away(file))
        return
    if content.startswith(ENCRYPTED):
        detail = f"{file}: the coldkey is on this machine, behind a password; a miner needs the hotkey alone"
        yield warning("coldkey", detail, _away(file))
        return
    detail = f"{file}: the coldkey is on this machine without a password; whoever gets in has all its funds"
    yield error("coldkey", detail, _away(file))


def _away(file: Path) -> str:
    return f"keep it on a machine that is not on the internet, and remove it here: shred -u {file}"


def alerts(settings: MinerSettings) -> list[Finding]:
    """Whether the addresses of alerts are there, as a start asks; nothing where nobody is to be told."""
    if not settings.alerts.on:
        return []
    try:
        url, ping = addresses(settings.alerts)
    except SettingsError as failed:
        return [error("alerts", str(failed))]
    # An address is a secret, so that none is told.
    told = [name for name, one in (("messages", url), ("signs of life", ping)) if one is not None]
    more = "; `cascade alerts test` sends one" if url is not None else ""
    return [ok("alerts", f"there is an address for {' and '.join(told)}{more}")]
