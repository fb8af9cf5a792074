"""The secrets: hotkeys that nobody else can read, no coldkey beside them, and where alerts are sent to."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from miner.alerts.switch import addresses
from miner.chain.settings import WalletSettings
from miner.cli.doctor.diagnosis import Finding, error, ok, warning
from miner.errors import MinerError
from miner.harvest.harvest import DIRECTORY as HARVEST
from miner.harvest.harvest import limits_of
from miner.harvest.kept_image import draw_name
from miner.harvest.settings import HarvestSettings
from miner.harvest.store import HarvestStore
from miner.identities import wallets
from miner.live_risk.audit_events import Drawn, audit_name
from miner.live_risk.audit_log import LOG
from miner.live_risk.live_risk import DIRECTORY as AUDITS
from miner.live_risk.live_risk import STREAMS
from miner.live_risk.secret import BYTES
from miner.live_risk.secret import FILE as SECRET
from miner.settings import MinerSettings
from stage1.errors import SettingsError
from stage1.monitor.audit import drawn_number

COLDKEY = "coldkey"
# A share of random draws that nobody wants, as each picture costs a person a look.
MOST_SHARE = 0.5
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


def draw_keys(settings: MinerSettings) -> list[Finding]:
    """The keys of random draws, of audits and of the harvest: readable, by the owner alone, and those of the state."""
    found: list[Finding] = []
    if settings.live_risk.enabled:
        found += _drawn_in(settings.state / AUDITS, _audits_fit)
    if settings.harvest.enabled:
        found += _drawn_in(settings.state / HARVEST, partial(_harvest_fits, share=settings.harvest.random_share))
    return found


def _drawn_in(directory: Path, fits: Callable[[Path, bytes], bool | None]) -> Iterator[Finding]:
    """See `_draw_key`; also of a directory in which something else cannot be read."""
    try:
        yield from _draw_key(directory, fits)
    except OSError as failed:
        detail = f"{failed.filename or directory}: cannot be read ({failed.strerror}), so the draws cannot be checked"
        yield error("draw key", detail, f"chown -R {os.getuid()} {directory}")


def _draw_key(directory: Path, fits: Callable[[Path, bytes], bool | None]) -> Iterator[Finding]:
    """Of one directory.

    Args:
        directory: where the key and what was drawn with it are.
        fits: whether what is there was drawn with a key; None where nothing says so.
    """
    file = directory / SECRET
    try:
        about, secret = file.stat(), file.read_bytes()
    except FileNotFoundError:
        if fits(directory, bytes(BYTES)) is None:
            yield ok("draw key", f"{file}: is made by the first start")
        else:
            detail = f"{file}: is not there, so nobody can check the draws that were made with it"
            yield error("draw key", detail, "bring it back from a backup: the next start makes another one")
        return
    except OSError as failed:
        yield error("draw key", f"{file}: cannot be read ({failed.strerror})", f"chown {os.getuid()} {file}")
        return
    if len(secret) != BYTES:
        detail = f"{file}: has {len(secret)} bytes, a key has {BYTES}; the miner does not start"
        yield error("draw key", detail, "bring it back from a backup, or remove it, and another one is made")
    elif why := _open_to_others(about):
        yield warning("draw key", f"{file}: {why}, and foresee the draws", f"chmod 600 {file}")
    elif fits(directory, secret) is False:
        detail = f"{file}: what was drawn before was drawn with another key, so nobody can check it"
        yield warning("draw key", detail, "bring the key back that belongs to this state directory")
    else:
        yield ok("draw key", f"{file}: only its owner can read it, and it is that of the draws")


def _audits_fit(directory: Path, secret: bytes) -> bool | None:
    """Whether the latest audit was drawn with a key, by the number that is written down with it."""
    logs = list((directory / STREAMS).glob(f"*/{LOG}")) if (directory / STREAMS).is_dir() else []
    for log in sorted(logs, key=lambda path: path.stat().st_mtime, reverse=True):
        for line in reversed(log.read_bytes().splitlines()):
            # A line that was cut short, or is another event.
            with contextlib.suppress(ValidationError):
                drawn = Drawn.model_validate_json(line)
                name = audit_name(drawn.at, drawn.request_id, drawn.image_sha256)
                return drawn_number(secret, name) == drawn.drawn
    return None


def _harvest_fits(directory: Path, secret: bytes, *, share: float) -> bool | None:
    """Whether images were drawn at random with a key.

    Their numbers are not written down, but are all below the share that was drawn; those of another key are below it no
    oftener than by chance. A share that was lowered since is no other key, so only what no smaller share than a half
    would explain counts.
    """
    if not directory.is_dir():
        return None
    store = HarvestStore(directory, limits_of(HarvestSettings()), read_only=True)
    drawn = [one for one in store.images.values() if one.week and not one.gone]
    if not drawn:
        return None
    numbers = [drawn_number(secret, draw_name(one.at, one.request_id, one.sha256)) for one in drawn]
    return max(numbers) < max(share, MOST_SHARE)


async def receivers(settings: MinerSettings) -> list[Finding]:
    """Whether the addresses of alerts are there, and whether their certificates are accepted; sends no message."""
    found = alerts(settings)
    if not found or found[0].failed:
        return found
    from miner.alerts.watch import receiver_faults  # noqa: PLC0415

    told = [error("alerts", f"the receiver of {what}: {why}") for what, why in await receiver_faults(settings.alerts)]
    return told or found


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
