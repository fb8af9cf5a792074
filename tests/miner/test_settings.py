"""Settings: one object, with flags over environment over file over defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from miner.settings import load_settings
from stage1.errors import SettingsError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CASCADE_CONFIG", raising=False)


def written(text: str) -> Path:
    path = Path("cascade.toml")
    path.write_text(text)
    return path


def test_defaults_need_no_file() -> None:
    assert load_settings().axon.port == 8091


def test_a_file_in_the_working_directory_is_found() -> None:
    written("[axon]\nport = 9000\n")
    assert load_settings().axon.port == 9000


def test_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    written("[axon]\nport = 9000\n[wallet]\nname = 'file'\n")
    monkeypatch.setenv("CASCADE_AXON__PORT", "9001")
    settings = load_settings()
    assert (settings.axon.port, settings.wallet.name) == (9001, "file")


def test_flags_win_over_everything_and_leave_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    written("[axon]\nport = 9000\nhost = '127.0.0.1'\n")
    monkeypatch.setenv("CASCADE_AXON__PORT", "9001")
    settings = load_settings(None, {"axon.port": 9002})
    assert (settings.axon.port, settings.axon.host) == (9002, "127.0.0.1")


def test_an_unknown_key_is_refused_by_name() -> None:
    written("[axon]\nprot = 1\n")
    with pytest.raises(SettingsError, match=r"axon\.prot"):
        load_settings()


def test_a_file_that_was_named_must_exist() -> None:
    with pytest.raises(SettingsError, match="no such settings file"):
        load_settings(Path("elsewhere.toml"))


def test_broken_toml_names_the_file() -> None:
    with pytest.raises(SettingsError, match=r"cascade\.toml: not valid TOML"):
        load_settings(written("[axon\n"))


def test_an_offline_chain_needs_its_file() -> None:
    with pytest.raises(SettingsError, match="snapshot"):
        load_settings(None, {"chain.kind": "offline"})


def test_a_nightly_job_needs_data() -> None:
    with pytest.raises(SettingsError, match="data"):
        load_settings(None, {"retrain.enabled": True})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"access.extra_hotkeys": ["5abc"]}, "access.extra_hotkeys.*'5abc' is no ss58 address"),
        ({"chain.external_ip": "0.0.0.0"}, "chain.external_ip.*address of no machine"),
        ({"stage2.engine": "larger", "stage2.reserve_s": 7.0}, "stage2.reserve_s is 7 .* no time is left"),
        ({"retrain.cron": "0 3 31 4 *"}, "retrain.cron.*never comes"),
    ],
)
def test_settings_with_which_something_would_silently_never_happen_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(None, changes)


def test_no_setting_can_loosen_a_threshold() -> None:
    """Thresholds live in a bundle with their certificate; no setting can loosen them."""
    with pytest.raises(SettingsError, match="t0"):
        load_settings(None, {"engine.t0": 0.0})


def test_the_night_has_a_table_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "cascade.toml"
    file.write_text(
        '[night]\nseed = 3\n"model.backbone" = { kind = "random" }\n\n[night.train_supervised]\nepochs = 20\n'
    )
    night = load_settings(file).night
    assert night == {"seed": 3, "model.backbone": {"kind": "random"}, "train_supervised": {"epochs": 20}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[wallet]\nname = 'Jörg'\n".encode("latin-1"), r"cascade\.toml, line 2: byte 0xf6 is not UTF-8"),
        ("[axon]\nport = 9000\n".encode("utf-16"), r"cascade\.toml: is UTF-16, and TOML is UTF-8: save it as UTF-8"),
    ],
)
def test_a_file_in_another_encoding_says_how_to_save_it(content: bytes, message: str) -> None:
    Path("cascade.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        load_settings()


def test_a_file_may_begin_with_the_mark_of_editors_on_windows() -> None:
    Path("cascade.toml").write_bytes("\ufeff[axon]\r\nport = 9000\r\n".encode())
    assert load_settings().axon.port == 9000


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CASCADE_AXN__PORT", "CASCADE_AXON__PORT"),
        ("CASCADE_AXON_PORT", "CASCADE_AXON__PORT"),
        ("CASCADE_STORES", "CASCADE_STORE"),
        ("cascade_axn__port", "CASCADE_AXON__port"),
    ],
)
def test_a_variable_that_names_no_setting_is_refused_with_what_may_be_meant(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "9001")
    with pytest.raises(SettingsError, match=f"the variable {name} names no setting, perhaps {meant} is meant: rename"):
        load_settings()


def test_a_variable_that_looks_like_none_is_refused_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_QQQ", "1")
    with pytest.raises(SettingsError, match="the variable CASCADE_QQQ names no setting: rename it or unset it"):
        load_settings()


@pytest.mark.parametrize(
    "name",
    [
        "CASCADE_PORT",
        "CASCADE_SERVICE_HOST",
        "CASCADE_SERVICE_PORT_AXON",
        "CASCADE_PORT_8091_TCP_ADDR",
        "CASCADE_MINER_SERVICE_PORT",
    ],
)
def test_variables_of_a_service_of_that_name_are_passed_over(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Kubernetes puts them into every pod, and nobody can unset them there."""
    monkeypatch.setenv(name, "tcp://10.0.0.1:8091")
    load_settings()


@pytest.mark.parametrize(
    ("name", "value"), [("CASCADE_AXON", "{port: 9001}"), ("CASCADE_ACCESS__EXTRA_HOTKEYS", "5abc, 5def")]
)
def test_a_variable_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"the value of {name} is not valid JSON") as error:
        load_settings()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["nan", "inf", "Infinity"])
def test_a_variable_is_a_finite_number(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CASCADE_RETRAIN__TIMEOUT_H", value)
    with pytest.raises(SettingsError, match=r"retrain\.timeout_h: Input should be a finite number"):
        load_settings()


def test_paths_of_file_and_environment_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CASCADE_CONFIG", "~/of-home.toml")
    monkeypatch.setenv("CASCADE_STORE", "~/engines")
    monkeypatch.setenv("CASCADE_RETRAIN__DATA", "~/roads")
    (tmp_path / "of-home.toml").write_text("state = '~/state'\n[stage2]\nengine = '~/stage2'\n")
    settings = load_settings()
    assert (settings.store, settings.state) == (tmp_path / "engines", tmp_path / "state")
    assert (settings.retrain.data, settings.stage2.engine) == (tmp_path / "roads", tmp_path / "stage2")


HOTKEYS = """
hotkeys = ["one", {hotkey = "two", port = 9005, external_port = 80}, {hotkey = "one", wallet = "other"}]

[wallet]
name = "miner"

[axon]
port = 9000
"""


def test_each_of_several_hotkeys_has_a_port_of_its_own() -> None:
    written(HOTKEYS)
    served = [(one.wallet.name, one.wallet.hotkey, one.axon.port, one.external_port) for one in load_settings().served]
    assert served == [("miner", "one", 9000, None), ("miner", "two", 9005, 80), ("other", "one", 9002, None)]


def test_without_a_list_there_is_the_wallets_hotkey() -> None:
    [served] = load_settings(None, {"wallet.hotkey": "one", "chain.external_port": 80}).served
    assert (served.wallet.hotkey, served.axon.port, served.external_port) == ("one", 8091, 80)


def test_hotkeys_can_be_given_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_HOTKEYS", '["one", "two"]')
    assert [one.axon.port for one in load_settings().served] == [8091, 8092]


def test_free_ports_are_taken_one_by_one() -> None:
    assert [one.axon.port for one in load_settings(None, {"hotkeys": ["a", "b"], "axon.port": 0}).served] == [0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hotkeys": ["one", "one"]}, "the hotkey default/one is given twice"),
        ({"hotkeys": ["one", {"hotkey": "two", "port": 8091}]}, "the port 8091 is given twice"),
        (
            {"hotkeys": [{"hotkey": "one", "external_port": 80}, {"hotkey": "two", "external_port": 80}]},
            "the external port 80 is given twice",
        ),
        ({"hotkeys": ["one", "two"], "axon.port": 65535}, "port 65536 is above 65535"),
        ({"hotkeys": ["one"], "wallet.hotkey": "two"}, "give one of them"),
        ({"hotkeys": ["one"], "chain.external_port": 80}, "set external_port for each of hotkeys"),
        ({"hotkeys": [{"port": 80}]}, r"hotkeys\.0\.hotkey: Field required"),
        ({"hotkeys": [{"hotkey": "one", "prot": 80}]}, r"hotkeys\.0\.prot"),
        ({"hotkeys": [""]}, r"hotkeys\.0\.hotkey"),
    ],
)
def test_hotkeys_that_collide_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(None, changes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("max_age_s = 300", r"max_age_s \+ max_skew_s is 302 s, longer than nonces are remembered"),
        ("timeout_cap_s = 200", "past_grace_s .* is 219 s, .* which is 120, to 219 or more"),
        ("nonce_retention_s = 10", "nonce_retention_s"),
        ('btauth_path = "roads"', "wire.btauth_path"),
        ('btauth_path = "/roads?x"', "wire.btauth_path"),
        ('btauth_path = "/roads%20x"', "wire.btauth_path"),
        ('btauth_body = "xml"', "wire.btauth_body"),
    ],
)
def test_a_wire_that_would_fail_is_refused_at_the_start(given: str, message: str) -> None:
    written(f"[wire]\n{given}\n")
    with pytest.raises(SettingsError, match=message):
        load_settings()


def test_a_long_window_needs_a_long_memory() -> None:
    written("[wire]\nmax_age_s = 300\nnonce_retention_s = 360\n")
    assert load_settings().wire.max_age_s == 300
