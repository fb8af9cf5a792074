"""A real MLServer, with a classifier and with YOLOX-Nano: see `scripts/stage2_servers`."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from benchmarks.stage2_servers.running import CONE_LIKE, mlserver
from stage2_bridge.client import Stage2Error
from stage2_bridge.servers.inspection import inspected
from stage2_bridge.servers.open_server import servers_of
from stage2_bridge.settings import DetectorServer, KserveServer, Stage2Settings

pytestmark = pytest.mark.stage2_servers


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server that runs."""
    with mlserver(tmp_path_factory.mktemp("mlserver")) as url:
        yield url


def grey(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def settings(url: str, *names: str) -> Stage2Settings:
    known = {
        "brightness": KserveServer(name="brightness", url=url, model="brightness"),
        "yolox": DetectorServer(name="yolox", url=url, model="yolox", roadwork=(CONE_LIKE,), timeout_s=20),
    }
    return Stage2Settings(servers=tuple(known[name] for name in names))


def test_two_hundred_images_are_answered_each_with_its_own_probability(url: str) -> None:
    async def run() -> list[float]:
        servers = servers_of(settings(url, "brightness"))
        try:
            some = asyncio.Semaphore(16)

            async def one(value: int) -> float:
                async with some:
                    return await servers.ask(grey(value), 30.0)

            return await asyncio.gather(*(one(value) for value in range(200)))
        finally:
            await servers.close()

    assert np.allclose(asyncio.run(run()), np.arange(200) / 255, atol=1e-6)


def test_images_that_it_fails_on_keep_no_others_from_it(url: str) -> None:
    async def run() -> list[float]:
        servers = servers_of(settings(url, "brightness"))
        found: list[float] = []
        try:
            for value in range(20):
                found.append(await servers.ask(grey(value), 30.0))
                for _ in range(2):
                    with pytest.raises(Stage2Error, match="status 500"):
                        await servers.ask(b"no image", 30.0)
            return found
        finally:
            await servers.close()

    assert np.allclose(asyncio.run(run()), np.arange(20) / 255, atol=1e-6)


def test_both_are_ready_and_answer_the_check(url: str) -> None:
    for one in asyncio.run(inspected(settings(url, "brightness", "yolox"), grey(128), 30.0)):
        assert not one.failed, one.told
        assert one.probability is not None
        assert 0 <= one.probability <= 1


@pytest.mark.parametrize(("model", "problem"), [("nothing", "status 404"), ("yolox", "no output 'probability'")])
def test_a_model_that_is_another_is_told_by_the_check(url: str, model: str, problem: str) -> None:
    wrong = Stage2Settings(servers=(KserveServer(name="one", url=url, model=model),))
    [found] = asyncio.run(inspected(wrong, grey(128), 30.0))
    assert found.failed
    assert problem in found.told
