"""The status page in a real browser: what a person sees, and that nothing in it is taken for markup."""

from __future__ import annotations

import asyncio
import http.client
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engines.store.store import Store
from tests.miner.admin.test_api import Publish, endpoint

PAGE = Path(__file__).parents[3] / "miner" / "admin" / "page"


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"host": f"{host}:{port}"})
    reply = connection.getresponse()
    found = reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    connection.close()
    return found


def test_it_is_served_with_all_that_it_needs_and_nothing_from_elsewhere(store: Store, publish: Publish) -> None:
    async def scenario() -> None:
        publish("a")
        async with endpoint(store) as opened:
            status, headers, page = await asyncio.to_thread(get, opened.port, "/")
            assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert "default-src 'self'" in headers["content-security-policy"]
            named = re.findall(rb'(?:src|href)="(page/[^"]+)"', page)
            assert len(named) == 4
            for name in named:
                assert (await asyncio.to_thread(get, opened.port, f"/{name.decode()}"))[0] == 200
            for other in ("/page/../api.py", "/page/%2e%2e/api.py", "/page/UPLOT_LICENSE", "/page/none.js"):
                assert (await asyncio.to_thread(get, opened.port, other))[0] == 404
            assert (await asyncio.to_thread(get, opened.port, "/", "miner.example"))[0] == 403
            assert (await asyncio.to_thread(get, opened.port, "/history.json"))[0] == 200

    asyncio.run(scenario())
    for file in PAGE.glob("status.*"):
        assert "http" not in file.read_text().replace("https://github.com/leeoniya", "")


def test_a_text_is_never_written_as_markup() -> None:
    script = (PAGE / "status.js").read_text()
    for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert danger not in script


@pytest.mark.parametrize("width", [1300, 390])
def test_a_browser_shows_what_is_live_and_what_is_wrong(
    store: Store, publish: Publish, tmp_path: Path, width: int
) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser is installed")

    def dump(port: int) -> str:
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
        options += [f"--window-size={width},2000", "--virtual-time-budget=4000", "--dump-dom"]
        command = [str(browser), *options, f"http://127.0.0.1:{port}/"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    async def scenario() -> tuple[str, str]:
        bundle = publish("a")
        async with endpoint(store) as opened:
            opened.parts.accepting = False
            told: Any = {"<img src=x onerror=alert(1)>": 7}
            opened.miner.tallies["refused"].counts.update(told)
            return bundle, await asyncio.to_thread(dump, opened.port)

    bundle, page = asyncio.run(scenario())
    assert '<p id="ready" class="badge bad">not ready</p>' in page
    assert f"<dd>{bundle}</dd>" in page
    assert "Not ready: axon:" in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<img" not in page
