"""A real Triton Inference Server, from the wheel nvidia-pytriton: see `scripts/stage2_servers`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from benchmarks.stage2_servers.running import triton
from benchmarks.stage2_servers.traffic import pictures
from engines.errors import RemoteError
from stage2_bridge.servers.inspection import inspected
from stage2_bridge.servers.open_server import client_of
from stage2_bridge.settings import KserveServer, Stage2Settings

pytestmark = [
    pytest.mark.stage2_servers,
    pytest.mark.skipif("TRITON_PYTHON" not in os.environ, reason="TRITON_PYTHON is not set"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server that runs."""
    with triton(tmp_path_factory.mktemp("triton")) as url:
        yield url


def greys(count: int) -> list[bytes]:
    return [pictures((5 * number, 5 * number, 5 * number), 1)[0] for number in range(count)]


def found(url: str, images: list[bytes], **settings: Any) -> list[Any]:
    async def run() -> list[Any]:
        client = client_of(KserveServer(name="triton", url=url, model="brightness", **settings))
        try:
            return await asyncio.gather(*(client.ask(one, 30.0) for one in images), return_exceptions=True)
        finally:
            await client.close()

    return asyncio.run(run())


def test_each_image_has_its_own_answer_alone_and_in_company(url: str) -> None:
    images = greys(40)
    alone = found(url, images, version="1")
    together = found(url, images, version="1", connections=1, max_batch=8)
    assert np.allclose(alone, together, atol=1e-6)
    assert (np.diff(alone) > 0).all()


def test_an_image_that_cannot_be_read_keeps_its_company_from_nothing(url: str) -> None:
    images = greys(8)
    images[3] = b"no image"
    answers = found(url, images, connections=1, max_batch=8)
    assert isinstance(answers.pop(3), RemoteError)
    assert np.isfinite(answers).all()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, "model brightness, versions 1, python"),
        ({"max_batch": 8}, "up to 8 images in a call"),
        ({"model": "nothing"}, "status 40"),
        ({"version": "7"}, "status 40"),
        ({"input": "picture"}, "has no input 'picture'; it has 'image'"),
        ({"output": "score"}, "has no output 'score'; it has 'probability'"),
        ({"image": "pixels"}, "takes BYTES"),
    ],
)
def test_the_check_says_what_fits_and_what_does_not(url: str, changes: dict[str, Any], problem: str) -> None:
    one = KserveServer(**({"name": "one", "url": url, "model": "brightness"} | changes))
    [told] = asyncio.run(inspected(Stage2Settings(servers=(one,)), greys(1)[0], 30.0))
    assert problem in told.told
    assert told.failed is ("status" in problem or "has no" in problem or "takes" in problem)
