"""Settings that change while the miner runs."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from miner.reload import SettingsReload
from miner.settings import MinerSettings, load_settings
from miner.signals import stop_or_reload
from stage1.errors import SettingsError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Access:
    """Takes changes of `access` and `requests`."""

    def __init__(self) -> None:
        self.taken: list[MinerSettings] = []

    async def take(self, settings: MinerSettings) -> None:
        if settings.access.min_stake == 13:
            raise SettingsError("thirteen brings bad luck")
        self.taken.append(settings)


def reloaded(*texts: str) -> tuple[list[MinerSettings], list[list[str]], list[dict[str, object]]]:
    """What was taken over, the sections of each reading, and the log, for one settings file after the other."""
    file = Path("cascade.toml")
    file.write_text(texts[0])
    access = Access()
    reload = SettingsReload(load_settings(file), lambda: load_settings(file), {("access", "requests"): access.take})
    sections = []
    with capture_logs() as logs:
        for text in texts[1:]:
            file.write_text(text)
            sections.append(asyncio.run(reload.again()))
    return access.taken, sections, [dict(entry) for entry in logs]


def test_what_needs_no_restart_is_taken_over() -> None:
    taken, sections, logs = reloaded("", "[access]\nmin_stake = 5\n", "[access]\nmin_stake = 5\n")
    assert [settings.access.min_stake for settings in taken] == [5]
    assert sections == [["access"], []]
    assert [entry["event"] for entry in logs] == ["settings_taken"]


def test_a_section_that_names_files_is_handed_on_though_it_is_the_same() -> None:
    taken: list[str] = []

    def taker(name: str) -> Any:
        async def take(settings: MinerSettings) -> None:  # noqa: ARG001
            taken.append(name)
            if len(taken) > 1:
                raise SettingsError("the key is empty")

        return take

    takers: dict[tuple[str, ...], Any] = {("access",): taker("access"), ("stage2",): taker("stage2")}
    reload = SettingsReload(MinerSettings(), MinerSettings, takers, names_files=frozenset({"stage2"}))
    with capture_logs() as logs:
        assert asyncio.run(reload.again()) == []
        assert asyncio.run(reload.again()) == []
    assert taken == ["stage2", "stage2"]
    assert [(one["event"], one["sections"]) for one in logs] == [("settings_not_taken", ["stage2"])]


def test_what_needs_one_is_named_until_it_comes() -> None:
    changed = "[axon]\nport = 9000\n[access]\nmin_stake = 5\n"
    taken, sections, logs = reloaded("", changed, changed)
    assert sections == [["access"], []]
    # The port in force is the one that is open.
    assert taken[0].axon.port == 8091
    told = [entry for entry in logs if entry["event"] == "settings_need_restart"]
    assert [entry["sections"] for entry in told] == [["axon"], ["axon"]]


def test_settings_that_do_not_fit_change_nothing() -> None:
    taken, sections, logs = reloaded("[access]\nmin_stake = 5\n", "[acess]\nmin_stake = 6\n", "[access\n")
    assert (taken, sections) == ([], [[], []])
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("settings_not_read", "error")] * 2
    assert "acess" in str(logs[0]["reason"])


def test_a_change_that_is_refused_leaves_the_old_ones_in_force() -> None:
    taken, sections, logs = reloaded("", "[access]\nmin_stake = 13\n", "[access]\nmin_stake = 5\n")
    # A restart would be refused as well, so that nothing says that one is needed.
    assert [entry["event"] for entry in logs] == ["settings_not_taken", "settings_taken"]
    assert sections == [[], ["access"]]
    assert len(taken) == 1


def test_a_part_that_does_not_fit_what_needs_a_restart_waits_for_it() -> None:
    before = "[stage2]\nengine = 'stage2'\nreserve_s = 4\n"
    taken, sections, logs = reloaded(before, before.replace("4", "1") + "[requests]\ndeadline_s = 3\n")
    # With the reserve in force there would be no time for Stage-2.
    assert (taken, sections) == ([], [[]])
    assert [entry["event"] for entry in logs] == ["settings_not_taken", "settings_need_restart"]
    assert "no time is left for Stage-2" in str(logs[0]["reason"])
    assert logs[1]["sections"] == ["requests", "stage2"]


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    reload = SettingsReload(load_settings(), load_settings, {})
    (tmp_path / "cascade.toml").mkdir()
    with capture_logs() as logs:
        assert asyncio.run(reload.again()) == []
    assert [entry["event"] for entry in logs] == ["settings_not_read"]
    assert "cascade.toml: cannot be read (Is a directory)" in logs[0]["reason"]


def test_many_signals_at_once_are_two_readings() -> None:
    class Settings:
        readings = 0

        async def again(self) -> list[str]:
            self.readings += 1
            await go_on.wait()
            return []

    class Follower:
        async def reload(self) -> bool:
            """A bundle is compiled, which takes minutes."""
            return await asyncio.Event().wait()

    settings: Any = Settings()
    follower: Any = Follower()

    async def signalled() -> int:
        stop_or_reload(asyncio.Event(), follower, settings)
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0)
        while not settings.readings:
            await asyncio.sleep(0)
        go_on.set()
        for _ in range(1000):
            await asyncio.sleep(0)
        return int(settings.readings)

    go_on = asyncio.Event()
    assert asyncio.run(signalled()) == 2
