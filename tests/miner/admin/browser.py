"""A headless browser that a test can look at and click in, through its debugging protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.asyncio.client import ClientConnection, connect


class Page:
    """One page of the browser.

    Args:
        socket: its debugging connection.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol."""
        self._number += 1
        await self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            told = json.loads(await self._socket.recv())
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]

    async def value(self, expression: str) -> Any:
        """The value of an expression of JavaScript."""
        told = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(60):
            # While another page is loaded there is none to ask.
            while not await self._true(expression):
                await asyncio.sleep(0.05)

    async def _true(self, expression: str) -> bool:
        try:
            return bool(await self.value(expression))
        except AssertionError:
            return False


@asynccontextmanager
async def opened(home: Path, url: str, width: int, height: int, *, dark: bool = False) -> AsyncIterator[Page]:
    """A page in a browser of its own; the test is skipped where there is none.

    Args:
        home: where the browser keeps its files.
        url: of the page.
        width: of the window, in CSS pixels.
        height: of the window.
        dark: whether the person likes it dark.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser is installed")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-port=0",
        f"--user-data-dir={home}",
    ]
    process = await asyncio.create_subprocess_exec(
        browser, *options, "about:blank", stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
    )
    try:
        target = await _target(await _port(home / "DevToolsActivePort"))
        async with connect(target, max_size=None) as socket:
            page = Page(socket)
            phone = width < 600
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
            await page.call("Emulation.setDeviceMetricsOverride", **metrics)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            await page.call("Emulation.setEmulatedMedia", features=[scheme])
            await page.call("Page.navigate", url=url)
            yield page
    finally:
        with contextlib.suppress(ProcessLookupError):
            # It has processes of its own.
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        socket_file = home / "SingletonSocket"
        if socket_file.is_symlink():
            # It is kept elsewhere, where paths are short.
            shutil.rmtree(socket_file.readlink().parent, ignore_errors=True)


async def _port(file: Path) -> int:
    async with asyncio.timeout(60):
        # Its first line, once it is whole.
        while not (told := _read(file)).count("\n"):
            await asyncio.sleep(0.02)
    return int(told.split()[0])


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


async def _target(port: int) -> str:
    async with asyncio.timeout(60):
        # It listens before it has a page.
        while not (found := await asyncio.to_thread(_pages, port)):
            await asyncio.sleep(0.02)
    return found[0]


def _pages(port: int) -> list[str]:
    with urlopen(f"http://127.0.0.1:{port}/json", timeout=60) as told:
        return [str(one["webSocketDebuggerUrl"]) for one in json.load(told) if one["type"] == "page"]
