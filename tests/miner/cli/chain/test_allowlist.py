"""`cascade chain allowlist`: addresses of those who may ask, for what stands in front of the axon."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from typer.testing import CliRunner

from miner.axon.settings import AccessSettings
from miner.chain.offline import ChainFile
from miner.chain.port import AxonAddress, Neuron
from miner.cli.chain.allowlist import ListFormat, allowlist, written
from miner.cli.main import app
from stage1.errors import SettingsError

EXTRA = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
NEURONS = {
    "large": Neuron(uid=0, validator_permit=True, stake=90_000, axon=AxonAddress("8.8.4.4", 9000)),
    "again": Neuron(uid=1, validator_permit=True, stake=80_000, axon=AxonAddress("8.8.4.4", 9001)),
    "six": Neuron(uid=2, validator_permit=True, stake=70_000, axon=AxonAddress("2001:4860:4860::8888", 9000)),
    "home": Neuron(uid=3, validator_permit=True, stake=60_000, axon=AxonAddress("192.168.0.7", 9000)),
    "silent": Neuron(uid=4, validator_permit=True, stake=50_000),
    "small": Neuron(uid=5, validator_permit=True, stake=1, axon=AxonAddress("1.1.1.1", 9000)),
    "miner": Neuron(uid=6, stake=99_000, axon=AxonAddress("9.9.9.9", 9000)),
}
ACCESS = AccessSettings(min_stake=20_000)


def test_it_holds_whoever_the_axon_would_let_in_and_says_who_is_missing() -> None:
    found = allowlist(NEURONS, ACCESS)
    assert list(map(str, found.networks)) == ["8.8.4.4/32", "2001:4860:4860::8888/128"]
    assert (found.admitted, found.silent) == (5, 2)


def test_an_extra_hotkey_and_further_networks_are_in_it() -> None:
    access = AccessSettings(min_stake=20_000, extra_hotkeys=(EXTRA,))
    found = allowlist({**NEURONS, EXTRA: NEURONS["miner"]}, access, ["203.0.113.9/24"])
    assert {"9.9.9.9/32", "203.0.113.0/24"} <= set(map(str, found.networks))


@pytest.mark.parametrize("wrong", ["validator.example", "8.8.8.8/40", ""])
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match=r"--also .*give an address or a network"):
        allowlist(NEURONS, ACCESS, [wrong])


def test_each_form_is_what_its_reader_takes() -> None:
    found = allowlist(NEURONS, ACCESS)
    lines = {form: written(found, form, 7).splitlines()[1:] for form in ListFormat}
    assert [ip_network(line) for line in lines[ListFormat.TEXT]] == list(found.networks)
    assert lines[ListFormat.NGINX] == ["8.8.4.4/32 0;", "2001:4860:4860::8888/128 0;"]
    assert lines[ListFormat.NFTABLES] == [
        "flush set inet cascade validators",
        "add element inet cascade validators { 8.8.4.4/32 }",
        "flush set inet cascade validators6",
        "add element inet cascade validators6 { 2001:4860:4860::8888/128 }",
    ]


def test_a_set_that_lost_all_its_members_is_emptied() -> None:
    assert written(allowlist({}, ACCESS), ListFormat.NFTABLES, 1).count("add element") == 0


def test_the_command_reads_the_chain_and_writes_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ChainFile(block=12, neurons=NEURONS).write(tmp_path / "chain.json")
    chain = ["--set", "chain.kind=offline", "--set", "chain.snapshot=chain.json", "--set", "access.min_stake=20000"]
    printed = CliRunner().invoke(app, ["chain", "allowlist", *chain, "--format", "nginx"])
    assert printed.exit_code == 0, printed.output
    assert "5 hotkeys may ask at block 12; 2 of them publish no address" in printed.stdout
    done = CliRunner().invoke(app, ["chain", "allowlist", *chain, "--format", "nginx", "--output", "list.conf"])
    assert done.stdout.strip() == "list.conf: 2 addresses; 5 hotkeys may ask, 2 of them publish no address"
    assert (tmp_path / "list.conf").read_text().strip() == printed.stdout.strip()


def test_a_chain_that_cannot_be_read_leaves_the_old_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.conf").write_text("8.8.8.8 0;\n")
    for content in ("{}", '{"schema_version": 1, "block": 1, "neurons": {}}'):
        (tmp_path / "chain.json").write_text(content)
        chain = ["--set", "chain.kind=offline", "--set", "chain.snapshot=chain.json"]
        done = CliRunner().invoke(app, ["chain", "allowlist", *chain, "--output", "list.conf"])
        assert done.exit_code != 0
        assert (tmp_path / "list.conf").read_text() == "8.8.8.8 0;\n"
