"""Settings: one object, with flags over environment over file over defaults."""

from __future__ import annotations

from pathlib import Path

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
