"""Wallet files: who can read them, and whether a coldkey lies beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from bittensor_wallet import Wallet

from miner.cli.doctor.diagnosis import Finding
from miner.cli.doctor.keys import alerts, draw_keys, keys
from miner.harvest.kept_image import draw_name
from miner.live_risk.audit_events import Drawn, Said, audit_name
from miner.settings import load_settings
from stage1.monitor.audit import drawn_number
from tests.miner.harvest.test_harvest import NOON, content_of, random_one, store_in

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


class TestDrawKeys:
    def told(self, state: Path, **changes: object) -> dict[str, Finding]:
        settings = {"state": state, "harvest.enabled": True, "harvest.random_share": 0.05, **changes}
        return {Path(one.detail.partition(":")[0]).parent.name: one for one in draw_keys(load_settings(None, settings))}

    @pytest.fixture
    def state(self, tmp_path: Path) -> Path:
        """A state directory with keys, an audit and random draws that were made with them."""
        audits, harvest = tmp_path / "live_risk", tmp_path / "harvest"
        for home in (audits, harvest):
            home.mkdir()
            (home / "secret.key").write_bytes(home.name.encode().ljust(32, b"."))
            (home / "secret.key").chmod(0o600)
        stream = audits / "streams" / "0123"
        stream.mkdir(parents=True)
        number = drawn_number((audits / "secret.key").read_bytes(), audit_name(NOON, "request", "f" * 64))
        drawn = Drawn(
            number=1,
            at=NOON,
            request_id="request",
            hotkey="5F",
            image_sha256="f" * 64,
            picture=None,
            site=0,
            exit_label=0,
            score=-2.0,
            select_score=0.0,
            probability=0.1,
            share=1.0,
            drawn=number,
            label_share=0.0,
            label_drawn=False,
            theta=0.0,
            bundle="0123",
        )
        said = Said(number=1, at=NOON, server="one", probability=0.1)
        (stream / "audits.jsonl").write_text(f"{drawn.model_dump_json()}\n{said.model_dump_json()}\n")
        store, secret = store_in(harvest), (harvest / "secret.key").read_bytes()
        for one in map(random_one, range(400)):
            if drawn_number(secret, draw_name(one.at, one.request_id, one.sha256)) < 0.05:
                store.keep(one, content_of(1))
        assert store.images
        return tmp_path

    def test_those_of_the_state_that_only_their_owner_reads_are_well(self, state: Path) -> None:
        told = self.told(state)
        assert {name: one.verdict for name, one in told.items()} == {"live_risk": "ok", "harvest": "ok"}
        assert all("that of the draws" in one.detail for one in told.values())

    @pytest.mark.parametrize("home", ["live_risk", "harvest"])
    def test_another_key_than_that_of_the_draws_is_told(self, state: Path, home: str) -> None:
        # Not by chance: of some twenty numbers of another key one is above a half.
        (state / home / "secret.key").write_bytes(bytes(range(32)))
        told = self.told(state)
        assert (told[home].verdict, "another key" in told[home].detail) == ("warning", True)

    @pytest.mark.parametrize("home", ["live_risk", "harvest"])
    def test_a_key_of_another_length_keeps_a_miner_from_starting(self, state: Path, home: str) -> None:
        (state / home / "secret.key").write_bytes(b"short")
        assert (self.told(state)[home].verdict, "5 bytes" in self.told(state)[home].detail) == ("error", True)

    @pytest.mark.parametrize("home", ["live_risk", "harvest"])
    def test_a_key_that_others_can_read_is_told_with_the_command(self, state: Path, home: str) -> None:
        (state / home / "secret.key").chmod(0o644)
        told = self.told(state)[home]
        assert (told.verdict, told.todo) == ("warning", f"chmod 600 {state / home / 'secret.key'}")

    @pytest.mark.parametrize("home", ["live_risk", "harvest"])
    def test_a_key_that_is_gone_is_an_error_where_draws_were_made_with_it(self, state: Path, home: str) -> None:
        (state / home / "secret.key").unlink()
        assert (self.told(state)[home].verdict, "is not there" in self.told(state)[home].detail) == ("error", True)

    def test_draws_that_cannot_be_read_are_told_and_end_nothing(self, state: Path) -> None:
        log = state / "live_risk" / "streams" / "0123" / "audits.jsonl"
        log.unlink()
        log.mkdir()
        found = draw_keys(load_settings(None, {"state": state, "harvest.enabled": True}))
        assert [one.verdict for one in found] == ["error", "ok"]
        assert str(log) in found[0].detail

    def test_before_the_first_start_there_is_none(self, tmp_path: Path) -> None:
        assert {one.verdict for one in self.told(tmp_path / "state").values()} == {"ok"}
        assert not (tmp_path / "state").exists()

    def test_what_draws_nothing_needs_none(self, tmp_path: Path) -> None:
        assert self.told(tmp_path, **{"harvest.enabled": False, "live_risk.enabled": False}) == {}
