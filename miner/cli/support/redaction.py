"""What leaves the machine: texts without names of wallets, coldkeys, secrets and home directories."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from miner.chain.settings import WalletSettings, endpoint_name
from miner.settings import MinerSettings
from stage1.settings import expanded

HIDDEN = "(left out)"
# Shorter ones would be found in words.
LEAST_SECRET = 6
_BETWEEN = re.compile(r"[/?&=#]")
_BEFORE_HOST = re.compile(r"(\w+://)[^/\s@\"'?#]+@")
_PERCENT = re.compile(r"%[0-9A-F]{2}")
_SECRET_NAME = re.compile(r"key|token|secret|password|passwd|mnemonic|seed", re.IGNORECASE)


@dataclass(frozen=True)
class Redaction:
    """What is replaced in every text.

    Attributes:
        replaced: what stands for a part of a text, the longest parts first.
    """

    replaced: Mapping[str, str] = field(default_factory=dict)

    def text(self, text: str) -> str:
        """The text without what must not leave."""
        for part, instead in self.replaced.items():
            text = text.replace(part, instead)
        return _BEFORE_HOST.sub(rf"\1{HIDDEN}@", text)


def redaction(settings: MinerSettings, variables: Mapping[str, str], home: Path) -> Redaction:
    """What must not leave this machine.

    That is: the directory and the names of wallets, the address of their coldkeys, what follows the host of a chain's
    endpoint (providers put keys there) or of an address of alerts, values of variables whose name says that they are
    secret, the files of keys for Stage-2 servers and what one of one's own is made with under such a name, the home
    directory's name, and a name or a password in any address. Each is found as it is and as JSON, Python and addresses
    write it. Addresses of hotkeys are public and stay.

    Args:
        settings: of the miner.
        variables: of the environment.
        home: the home directory.
    """
    found: dict[str, str] = {}
    for served in settings.served:
        found |= _of_wallet(served.wallet)
    for endpoint in (settings.chain.network, settings.chain.endpoint, *settings.chain.endpoints):
        found |= _after_host(endpoint or "")
    alerts = settings.alerts
    for name, file in ((alerts.url_env, alerts.url_file), (alerts.ping_env, alerts.ping_file)):
        found |= _after_host(variables.get(name, "") if name is not None else _read(file) if file is not None else "")
    secrets = [value for name, value in variables.items() if _SECRET_NAME.search(name)]
    for server in settings.stage2.all_servers:
        name, file = getattr(server, "key_env", None), getattr(server, "key_file", None)
        secrets += [variables[name]] if name is not None and name in variables else []
        secrets += [_read(file)] if file is not None else []
        secrets += _secrets_of(getattr(server, "options", {}))
    found |= {secret.strip(): HIDDEN for secret in secrets if len(secret.strip()) >= LEAST_SECRET}
    if len(home.parts) > 1:
        found.setdefault(str(home), "~")
    spelled = {spelling: instead for part, instead in found.items() for spelling in _spellings(part)}
    return Redaction({part: spelled[part] for part in sorted(spelled, key=len, reverse=True)})


def _spellings(text: str) -> set[str]:
    """A text as it is, as JSON and Python write it, also within JSON once more, and as addresses do."""
    found = {text, repr(text)[1:-1], quote(text), quote(text, safe="")}
    found |= {json.dumps(one, ensure_ascii=ascii_only)[1:-1] for one in set(found) for ascii_only in (True, False)}
    found |= {json.dumps(one)[1:-1] for one in set(found)}
    return found | {_PERCENT.sub(lambda match: match[0].lower(), one) for one in found}


def _after_host(address: str) -> dict[str, str]:
    """What stands for an address that holds a secret; nothing where it is a host alone."""
    address = address.strip()
    if "://" not in address or (named := endpoint_name(address)) == address:
        return {}
    # Some lines say a part of it alone.
    parts = _BETWEEN.split(address.removeprefix(named))
    secrets = {one for part in parts for one in (part, unquote(part)) if len(one) >= LEAST_SECRET}
    return {address: f"{named}/{HIDDEN}"} | dict.fromkeys(secrets, HIDDEN)


def _secrets_of(value: object, name: str = "") -> list[str]:
    """Texts anywhere in a value of JSON under a name that says that they are secret."""
    if isinstance(value, Mapping):
        return [one for key, part in value.items() for one in _secrets_of(part, f"{name} {key}")]
    if isinstance(value, list | tuple):
        return [one for part in value for one in _secrets_of(part, name)]
    return [value] if isinstance(value, str) and _SECRET_NAME.search(name) else []


def _of_wallet(wallet: WalletSettings) -> dict[str, str]:
    directory = expanded(wallet.path)
    found: dict[str, str] = {}
    for path in {str(wallet.path), str(directory)}:
        found |= {f"{path}/{wallet.name}": f"WALLETS/{HIDDEN}", path: "WALLETS"}
    # As messages and records name a hotkey.
    found |= {f"{wallet.name}/{wallet.hotkey}": f"{HIDDEN}/{wallet.hotkey}", f'"{wallet.name}"': f'"{HIDDEN}"'}
    found |= {f"'{wallet.name}'": f"'{HIDDEN}'"}
    try:
        told = json.loads(_read(directory / wallet.name / "coldkeypub.txt") or "{}")
    except ValueError:
        told = {}
    if isinstance(told, dict):
        names = ("ss58Address", "accountId", "publicKey")
        found |= {told[name]: HIDDEN for name in names if isinstance(told.get(name), str) and told[name]}
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
