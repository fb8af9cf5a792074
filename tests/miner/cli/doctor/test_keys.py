"""Wallet files: who can read them, and whether a coldkey lies beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from bittensor_wallet import Wallet

from miner.cli.doctor.diagnosis import Finding
from miner.cli.doctor.keys import alerts, keys
from miner.settings import load_settings

NewWallet = Callable[[str], Wallet]


def found(home: Path) -> dict[str, Finding]:
    return {one.check: one for one in keys(load_settings(None, {"wallet.path": home, "wallet.name": "one"}))}


@pytest.fixture
def directory(tmp_path: Path, new_wallet: NewWallet) -> Path:
    new_wallet("one")
    (tmp_path / "one" / "coldkey").unlink()
    return tmp_path / "one"


def test_a_hotkey_alone_that_only_its_owner_reads_is_well(directory: Path) -> None:
    (directory / "hotkeys" / "default").chmod(0o600)
    told = found(directory.parent)
    assert {name: one.verdict for name, one in told.items()} == {"hotkey": "ok", "wallet files": "ok", "coldkey": "ok"}
    assert "only its public half" in told["coldkey"].detail


@pytest.mark.parametrize(("mode", "who"), [(0o640, "its group"), (0o644, "everybody"), (0o602, "everybody")])
def test_a_key_that_others_can_read_or_change_is_told_with_the_command(directory: Path, mode: int, who: str) -> None:
    file = directory / "hotkeys" / "default"
    file.chmod(mode)
    told = found(directory.parent)["wallet files"]
    assert (told.verdict, who in told.detail, told.todo) == ("warning", True, f"chmod 600 {file}")


def test_a_directory_in_which_everybody_writes_is_told(directory: Path) -> None:
    (directory / "hotkeys").chmod(0o777)
    told = found(directory.parent)["wallet files"]
    assert (told.verdict, told.todo) == ("warning", f"chmod o-w {directory / 'hotkeys'}")


def test_hotkeys_of_one_name_in_two_wallets_are_both_looked_at(tmp_path: Path, new_wallet: NewWallet) -> None:
    for name, mode in (("one", 0o644), ("two", 0o600)):
        new_wallet(name)
        (tmp_path / name / "hotkeys" / "default").chmod(mode)
    hotkeys = [{"hotkey": "default", "wallet": name} for name in ("one", "two")]
    told = keys(load_settings(None, {"wallet.path": tmp_path, "hotkeys": hotkeys}))
    files = [one for one in told if one.check == "wallet files"]
    assert [one.verdict for one in files] == ["warning", "ok"]
    assert str(tmp_path / "one") in files[0].detail


@pytest.mark.parametrize(
    ("content", "verdict"),
    [
        (b"$NACL\x01\x02", "warning"),
        (b"$ANSIBLE_VAULT;1.1;AES256", "warning"),
        (b"gAAAAABk", "warning"),
        (b'{"accountId": "0x12"}', "error"),
    ],
)
def test_a_coldkey_does_not_belong_here(directory: Path, content: bytes, verdict: str) -> None:
    (directory / "coldkey").write_bytes(content)
    told = found(directory.parent)["coldkey"]
    assert told.verdict == verdict
    assert f"shred -u {directory / 'coldkey'}" in told.todo


def test_a_coldkey_that_the_wallet_library_wrote_without_a_password_is_an_error(
    tmp_path: Path, new_wallet: NewWallet
) -> None:
    new_wallet("one")
    assert found(tmp_path)["coldkey"].verdict == "error"


def test_a_hotkey_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    told = found(tmp_path)
    assert (told["hotkey"].verdict, "wallet files" in told, told["coldkey"].verdict) == ("error", False, "ok")


def test_an_address_of_alerts_that_keeps_a_miner_from_starting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = load_settings(None, {"alerts.url_env": "RECEIVER"})
    monkeypatch.delenv("RECEIVER", raising=False)
    [lacking] = alerts(wanted)
    assert (lacking.check, lacking.verdict, "RECEIVER" in lacking.detail) == ("alerts", "error", True)
    monkeypatch.setenv("RECEIVER", "https://example.com/secret")
    [found] = alerts(wanted)
    assert (found.verdict, "messages" in found.detail, "secret" in found.detail) == ("ok", True, False)
    assert alerts(load_settings(None, {})) == []
