"""A server of the operator's own in one file."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stage1.errors import SettingsError
from stage2_bridge.client import Stage2Error
from stage2_bridge.sample_image import black_image
from stage2_bridge.servers.inspection import inspected
from stage2_bridge.servers.open_server import client_of, servers_of
from stage2_bridge.settings import PythonServer, Stage2Settings

EXAMPLE = Path(__file__).parents[3] / "examples" / "custom_stage2.py"
FAILS = """
class Server:
    async def ask(self, content, timeout_s):
        raise KeyError("no such street")
    async def close(self):
        pass
"""
SPEAKS = """
from dataclasses import dataclass
from stage2_bridge.client import ServerIdentity

@dataclass
class Server:
    version: str = "1"
    async def ask(self, content, timeout_s):
        return 0.25
    async def check(self, timeout_s):
        return "always ready"
    async def identity(self, timeout_s):
        return ServerIdentity.made("mine", "mine", "constant", self.version)
    async def close(self):
        pass
"""


def orange() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (240, 106, 20)).save(file, "PNG")
    return file.getvalue()


def mine(tmp_path: Path, text: str, **changes: Any) -> PythonServer:
    (tmp_path / "mine.py").write_text(text)
    return PythonServer(**({"name": "mine", "file": tmp_path / "mine.py", "factory": "Server"} | changes))


def test_the_example_of_the_documentation_is_asked_like_any_other() -> None:
    one = PythonServer(name="orange", file=EXAMPLE, factory="OrangeServer", options={"takes_s": 0.0})

    async def run() -> float:
        servers = servers_of(Stage2Settings(servers=(one,)))
        try:
            return await servers.ask(orange(), 5.0)
        finally:
            await servers.close()

    assert asyncio.run(run()) == 1.0
    [found] = asyncio.run(inspected(Stage2Settings(servers=(one,)), black_image(), 5.0))
    assert (found.failed, found.probability) == (False, 0.0)


def test_it_may_say_itself_how_it_is_and_who_it_is(tmp_path: Path) -> None:
    async def run() -> tuple[str, str]:
        client = client_of(mine(tmp_path, SPEAKS, options={"version": "7"}))
        return await client.check(5.0), (await client.identity(5.0)).version

    assert asyncio.run(run()) == ("always ready", "7")


def test_otherwise_its_file_and_its_options_are_who_it_is(tmp_path: Path) -> None:
    def identity(text: str, **options: str) -> Any:
        async def run() -> Any:
            return await client_of(mine(tmp_path, text, options=options)).identity(5.0)

        return asyncio.run(run())

    plain = SPEAKS.replace("async def identity", "async def other")
    prints = {identity(plain).fingerprint, identity(plain + "#").fingerprint, identity(plain, version="2").fingerprint}
    assert len(prints) == 3


def test_whatever_it_raises_is_an_error_that_the_check_tells(tmp_path: Path) -> None:
    one = mine(tmp_path, FAILS)
    with pytest.raises(Stage2Error, match="KeyError: 'no such street'"):
        asyncio.run(client_of(one).ask(b"", 5.0))
    [found] = asyncio.run(inspected(Stage2Settings(servers=(one,)), black_image(), 5.0))
    assert found.failed
    assert "no such street" in found.told


@pytest.mark.parametrize(
    ("text", "changes", "problem"),
    [
        ("import nothing_of_this_name", {}, "ModuleNotFoundError"),
        ("class Server:\n  async def close(self): pass", {}, "Server has no ask"),
        ("x = 1", {}, "has no Server"),
        (SPEAKS, {"options": {"colour": "red"}}, "unexpected keyword argument 'colour'"),
        ("", {"file": "nowhere.py"}, "is no Python file"),
    ],
)
def test_a_file_that_makes_no_server_is_told_at_the_start(
    tmp_path: Path, text: str, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SettingsError, match=problem):
        client_of(mine(tmp_path, text, **changes))
