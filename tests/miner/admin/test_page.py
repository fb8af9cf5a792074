"""The status page in a real browser: what a person sees, and that nothing in it is taken for markup."""

from __future__ import annotations

import asyncio
import http.client
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from engines.machine.nvml.health import GpuHealth, GpuState
from engines.store.store import Store
from tests.miner.admin.browser import Page, opened
from tests.miner.admin.test_api import Endpoint, Publish, endpoint

PAGE = Path(__file__).parents[3] / "miner" / "admin" / "page"


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
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


SHOWN = "(document.getElementById('ready') ?? { textContent: '…' }).textContent !== '…'"
TEXT = "document.body.innerText"


def test_a_browser_shows_what_is_live_and_what_is_wrong(store: Store, publish: Publish, tmp_path: Path) -> None:
    async def scenario() -> None:
        bundle = publish("a")
        async with endpoint(store) as served:
            served.parts.accepting = False
            served.parts.gpus = GpuHealth(
                driver="580.65.06", gpus=(GpuState(index=0, name="NVIDIA L4", ecc_uncorrected=2),)
            )
            told: Any = {"<img src=x onerror=alert(1)>": 7}
            served.miner.tallies["refused"].counts.update(told)
            async with opened(tmp_path, f"http://127.0.0.1:{served.port}/", 390, 844) as page:
                await page.until(SHOWN)
                text = await page.value(TEXT)
                for part in (bundle, "not ready", "Not ready: axon:", "<img src=x onerror=alert(1)>", "NVIDIA L4"):
                    assert part in text
                assert "2 memory errors of GPU 0 (NVIDIA L4)" in text
                assert await page.value("document.images.length") == 0
                # Nothing of it stands beyond the edge of a phone.
                assert await page.value("document.documentElement.scrollWidth") <= 390
                light = await page.value("getComputedStyle(document.body).backgroundColor")
                dark = [{"name": "prefers-color-scheme", "value": "dark"}]
                await page.call("Emulation.setEmulatedMedia", features=dark)
                # It is loaded anew, because the curves are drawn in other colours.
                await page.until(f"{SHOWN} && getComputedStyle(document.body).backgroundColor !== '{light}'")

    asyncio.run(scenario())


@asynccontextmanager
async def on_a_desktop(store: Store, home: Path) -> AsyncIterator[tuple[Endpoint, Page]]:
    """The endpoint of a miner, and its page once it shows something."""
    async with (
        endpoint(store) as served,
        opened(home, f"http://127.0.0.1:{served.port}/", 1300, 900) as page,
    ):
        await page.until(SHOWN)
        yield served, page


def test_the_buttons_reload_and_roll_back(store: Store, publish: Publish, tmp_path: Path) -> None:
    async def scenario() -> None:
        first = publish("a")
        async with on_a_desktop(store, tmp_path) as (served, page):
            # None stands by to roll back to.
            assert await page.value("document.getElementById('rollback').disabled")
            second = publish("b")
            await page.value("document.getElementById('reload').click()")
            await page.until("document.getElementById('done').textContent === 'done'")
            assert served.miner.follower.live_id == second
            # The page looks once more after that.
            await page.until("!document.getElementById('rollback').disabled")
            await page.value("window.confirm = () => false; document.getElementById('rollback').click()")
            assert served.miner.follower.live_id == second
            # A call that is under way would have taken the word away.
            assert await page.value("document.getElementById('done').textContent") == "done"
            await page.value("window.confirm = () => true; document.getElementById('rollback').click()")
            # The bundle is the first of the facts; the one that stands by is told there as well.
            await page.until(f"document.querySelector('#live dd').textContent === '{first}'")
            assert served.miner.follower.live_id == first
            await page.until(
                "document.getElementById('live').innerText.includes('the bundle after it was rolled back')"
            )

    asyncio.run(scenario())


SLOW_LOOK = """(() => {
  const real = window.fetch.bind(window);
  const held = new Promise((resolve) => (window.go = resolve));
  window.arrived = false;
  window.fetch = async (path) => {
    const reply = await real(path);
    if (path !== "status.json") return reply;
    const told = await reply.json();
    window.arrived = true;
    await held;
    return { json: () => told };
  };
  window.slow = look();
  window.fetch = real;
})()"""


def test_a_reply_that_was_overtaken_by_another_is_not_shown(store: Store, publish: Publish, tmp_path: Path) -> None:
    async def scenario() -> None:
        first = publish("a")
        async with on_a_desktop(store, tmp_path) as (served, page):
            live = "document.querySelector('#live dd').textContent"
            await page.value(SLOW_LOOK)
            await page.until("window.arrived")
            assert await page.value(live) == first
            second = publish("b")
            assert await served.miner.follower.refresh()
            await page.value("look()")
            assert await page.value(live) == second
            await page.value("(window.go(), window.slow)")
            assert await page.value(live) == second

    asyncio.run(scenario())
