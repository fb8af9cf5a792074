"""The server's side of the Open Inference Protocol, asked by our client and by hand."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from engines.remote.http import Client
from engines.remote.inference_server import InferenceServer
from engines.remote.model_control import load_model
from engines.remote.tensors import pixels
from engines.store.store import Store
from tests.support.stage1_servers import Server, running

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)


@pytest.fixture
def server(store: Store, publish: Callable[..., str]) -> Iterator[Server]:
    made = Server()
    made.hold(store.path(publish("a")), version="5")
    with running(made) as [up]:
        made.url = up.url
        yield made


def asked(server: Server, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, content, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def image(data: Any, shape: tuple[int, ...] = (1, 3, 32, 32), **changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "datatype": "UINT8", "shape": list(shape), "data": data} | changes]}


@pytest.mark.parametrize("binary", [True, False])
def test_our_client_gets_what_the_engine_gives(server: Server, binary: bool) -> None:
    async def run() -> None:
        async with aclosing(Client(connections=1)) as http:
            one = InferenceServer(http, server.url, "stage1", "5", binary=binary)
            await one.check_ready(5.0)
            found = await one.metadata(5.0)
            assert (found.name, found.versions, found.platform) == ("stage1", ("5",), "test")
            reply = await one.infer([pixels("image", IMAGES)], ("logits", "select_score"), 5.0)
            expected = server.engines["5"].infer(IMAGES)
            assert reply.model_version == "5"
            np.testing.assert_allclose(reply.outputs["logits"], expected.logits, rtol=1e-6)
            np.testing.assert_allclose(reply.outputs["select_score"], expected.select_score, rtol=1e-6)
            await load_model(http, server.url, "stage1", 5.0)
            assert server.loads == 1

    asyncio.run(run())


def test_it_is_asked_for_its_extensions(server: Server) -> None:
    assert asked(server, "/v2")[1]["extensions"] == ["binary_tensor_data"]
    assert asked(server, "/v2/health/live")[0] == asked(server, "/v2/health/ready")[0] == 200


def test_no_version_means_the_latest(server: Server) -> None:
    status, reply = asked(server, "/v2/models/stage1/infer", image(IMAGES[0].tolist()))
    assert (status, reply["model_version"]) == (200, "5")
    assert [one["name"] for one in reply["outputs"]] == ["logits", "select_score"]


def test_a_server_that_has_no_version_is_not_ready(server: Server) -> None:
    server.engines.clear()
    assert asked(server, "/v2/health/ready")[0] == 404


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "no request of this protocol"),
        ({"inputs": []}, "0 inputs"),
        (image([0] * 3072, name="other"), "input other UINT8"),
        (image([0] * 3072, datatype="FP32"), "input image FP32"),
        (image([0] * 3072, shape=(1, 3, 64, 64)), "expected image UINT8"),
        (image([], shape=(0, 3, 32, 32)), "expected image UINT8"),
        (image([0], shape=(33, 3, 32, 32)), "at most 32 images"),
        (image([0] * 3071), "other numbers than it says"),
        (image([300] * 3072), "other numbers than it says"),
        (image(None, parameters={"binary_data_size": 3072}), "has 0 bytes, expected 3072"),
        (image([0] * 3072) | {"outputs": [{"name": "mask"}]}, "there is no output 'mask'"),
    ],
)
def test_what_is_no_request_is_refused_with_what_was_wrong(server: Server, body: Any, told: str) -> None:
    status, reply = asked(server, "/v2/models/stage1/infer", body)
    assert status == 400
    assert told in reply["error"]
    assert not server.calls


def test_a_length_of_the_json_that_is_none_is_refused(server: Server) -> None:
    for length in ("-1", "x", "99999"):
        headers = {"inference-header-content-length": length}
        assert asked(server, "/v2/models/stage1/infer", image([]), headers)[0] == 400


def test_a_version_that_is_not_there_is_not_found(server: Server) -> None:
    assert asked(server, "/v2/models/stage1/versions/6") == (404, {"error": "model stage1 has no version 6"})


def test_a_failure_of_the_engine_is_one_of_the_server(server: Server) -> None:
    server.fails = True
    assert asked(server, "/v2/models/stage1/infer", image(IMAGES[0].tolist())) == (500, {"error": "out of memory"})


def test_a_request_that_no_batch_fills_is_not_read_to_its_end(server: Server) -> None:
    status, told = asked(server, "/v2/models/stage1/infer", b" " * 2**21)
    assert status == 413
    assert "longer than" in told["error"]
