"""`cascade init`: a few questions, and a file that a miner reads."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from miner.cli.config.commented_file import SHOWN, commented_file
from miner.cli.config.descriptions import descriptions
from miner.cli.config.questions import answers, questions, wallets_here
from miner.cli.main import app
from miner.settings import MinerSettings, load_settings
from stage1.errors import SettingsError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def run(*arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, ["init", *arguments])
    assert done.exit_code == status, done.output
    return done.output


def wallet(home: Path, name: str, *hotkeys: str) -> None:
    directory = home / ".bittensor" / "wallets" / name / "hotkeys"
    directory.mkdir(parents=True)
    for hotkey in hotkeys:
        (directory / hotkey).write_text("{}")


def test_what_is_written_is_what_the_miner_reads(elsewhere: Path) -> None:
    (elsewhere / "roads").mkdir()
    (elsewhere / "roads" / "labels.csv").write_text("path,label\n")
    run("--yes", "--wallet", "miner", "--hotkey", "one", "--network", "test", "--port", "8099", "--data", "roads")
    settings = load_settings(Path("cascade.toml"))
    assert (settings.wallet.name, settings.wallet.hotkey, settings.axon.port) == ("miner", "one", 8099)
    assert (settings.chain.network, settings.chain.netuid, settings.chain.external_ip) == ("test", 323, "auto")
    assert (settings.retrain.enabled, settings.retrain.data, settings.admin.port) == (True, Path("roads"), 8092)


def test_what_was_not_given_stands_there_as_a_comment_that_can_be_taken_as_it_is(elsewhere: Path) -> None:
    text = commented_file(MinerSettings, {})
    taken = "\n".join(line.removeprefix("# ") if " = " in line else line for line in text.splitlines())
    (elsewhere / "all.toml").write_text(taken)
    home = load_settings(changes={"wallet.path": "~/.bittensor/wallets"})
    assert load_settings(elsewhere / "all.toml") == home
    for name in SHOWN:
        assert name.rpartition(".")[2] in text


def test_every_setting_of_the_file_is_explained() -> None:
    text = commented_file(MinerSettings, {})
    for name in SHOWN:
        parent, _, leaf = name.rpartition(".")
        section: Any = MinerSettings.model_fields[parent].annotation if parent else MinerSettings
        words = descriptions(section)[leaf].split()
        assert " ".join(words)[:40] in " ".join(text.replace("\n# ", " ").split())


def test_a_file_that_is_there_stays_unless_it_is_to_be_written_over(elsewhere: Path) -> None:
    (elsewhere / "cascade.toml").write_text("# mine\n")
    assert "cascade.toml: is there already; --force writes over it" in run("--yes", status=2)
    assert (elsewhere / "cascade.toml").read_text() == "# mine\n"
    run("--yes", "--force")
    assert tomllib.loads((elsewhere / "cascade.toml").read_text())["axon"] == {"port": 8091}


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--port", "seventy", "axon.port: Input should be a valid integer"),
        ("--port", "70000", "axon.port: Input should be less than or equal to 65535"),
        ("--port", "none", "axon.port: one is needed"),
        (
            "--external-ip",
            "miner.example",
            "chain.external_ip: Value error, 'miner.example' is no IPv4 or IPv6 address",
        ),
        ("--network", "http://node", "chain.network: Value error, an endpoint at http://node is neither"),
        ("--data", "nowhere", "retrain.data: there is no labels.csv in nowhere"),
        ("--stage2", "~no-such-user/engine", "no home directory is known for it"),
        ("--hotkey", "one,one", "a hotkey is given twice"),
        ("--admin-port", "8091.5", "admin.port: Input should be a valid integer"),
    ],
)
def test_an_answer_that_does_not_fit_is_told_and_nothing_is_written(
    elsewhere: Path, option: str, value: str, told: str
) -> None:
    before = sorted(elsewhere.iterdir())
    assert told in run("--yes", "--wallet", "miner", option, value, status=2).replace("\n", "")
    assert sorted(elsewhere.iterdir()) == before


def test_several_hotkeys_get_a_list(elsewhere: Path) -> None:
    run("--yes", "--wallet", "miner", "--hotkey", "one, two", "--external-ip", "none", "--admin-port", "none")
    settings = load_settings(elsewhere / "cascade.toml")
    assert [(one.wallet.hotkey, one.axon.port) for one in settings.served] == [("one", 8091), ("two", 8092)]
    assert (settings.chain.publish_endpoint, settings.admin.port) == (False, None)


def test_nobody_is_asked_where_nobody_can_answer() -> None:
    assert "standard input is no terminal" in run(status=2)


def test_a_person_is_asked_again_until_the_answer_fits(elsewhere: Path) -> None:
    wallet(elsewhere, "natix", "first")
    said = iter(["", "", "moon", "http://moon", "test", "", "zero", "8093", "", "", ""])
    heard: list[str] = []

    def ask(text: str, default: str) -> str:
        heard.append(text)
        return next(said) or default

    found = answers(questions(wallets_here(elsewhere / ".bittensor" / "wallets")), ask, {}, MinerSettings)
    assert (found["wallet.name"], found["wallet.hotkey"]) == ("natix", "first")
    assert "Wallets here: natix (first)." in heard[0]
    assert found["chain.network"] == "moon"
    assert any(text.startswith("chain.external_ip: Value error, 'http://moon' is no") for text in heard)
    assert any(text.startswith("axon.port: Input should be a valid integer") for text in heard)
    assert found["axon.port"] == 8093


def test_an_option_of_which_a_person_was_not_asked_ends_the_questions() -> None:
    with pytest.raises(SettingsError, match="one is needed"):
        answers(questions({}), lambda _text, default: default, {"wallet.name": "none"}, MinerSettings)


def test_the_port_for_status_is_none_of_the_axons(elsewhere: Path) -> None:
    del elsewhere
    run("--yes", "--hotkey", "one,two,three")
    settings = load_settings(Path("cascade.toml"))
    assert [one.axon.port for one in settings.served] == [8091, 8092, 8093]
    assert settings.admin.port == 8094
    run("--yes", "--force", "--port", "8092")
    assert load_settings(Path("cascade.toml")).admin.port == 8093
    told = run("--yes", "--force", "--hotkey", "one,two", "--admin-port", "8092", status=2)
    assert "admin.port is 8092, and so is the port of an axon: give each its own" in told


@pytest.mark.parametrize("keys", [",", " , ,", "one,one"])
def test_hotkeys_that_are_none_or_twice_there_are_asked_again(keys: str) -> None:
    given = {"wallet.hotkey": keys}
    with pytest.raises(SettingsError, match="hotkey"):
        answers(questions({}), lambda _, default: default, given, MinerSettings)
