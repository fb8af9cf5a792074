"""Settings that are written are read back as they were."""

from __future__ import annotations

from pathlib import Path

from miner.settings import load_settings
from miner.simulation.settings_file import write_settings
from stage1.settings import dotted


def test_every_kind_of_value_comes_back(tmp_path: Path) -> None:
    changes = {
        "store": tmp_path / 'a "store" with é, \\, \x7f and 🚧',
        "engine.threads": 3,
        "engine.batch.max_delay_s": 1e-5,
        "engine.formats": ["PNG"],
        "access.extra_hotkeys": [],
        "log.json_lines": True,
        "engine.serve_with": None,
    }
    write_settings(tmp_path / "cascade.toml", changes)
    assert load_settings(tmp_path / "cascade.toml") == load_settings(None, changes)


def test_stage_2_servers_come_back(tmp_path: Path) -> None:
    servers = [
        {"kind": "detector", "name": "yolo", "url": "http://127.0.0.1:1", "model": "yolo", "roadwork": [3, 7]},
        {"kind": "openai", "name": "vlm", "url": "http://127.0.0.1:2", "model": "vlm", "key_env": "KEY"},
    ]
    settings = load_settings(None, {"stage2.servers": servers})
    whole = settings.model_dump(mode="json", exclude={"night", "wallet"}, exclude_none=True)
    write_settings(tmp_path / "cascade.toml", dotted(whole))
    assert load_settings(tmp_path / "cascade.toml") == settings


def test_all_defaults_come_back(tmp_path: Path) -> None:
    settings = load_settings()
    # The default of the wallets' directory is written with `~`, and read as what that stands for.
    whole = settings.model_dump(mode="json", exclude={"night", "wallet"}, exclude_none=True)
    write_settings(tmp_path / "cascade.toml", dotted(whole))
    assert load_settings(tmp_path / "cascade.toml") == settings
