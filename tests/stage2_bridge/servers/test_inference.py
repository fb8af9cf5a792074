"""Classifiers and detectors behind the Open Inference Protocol, asked over a real socket."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.errors import RemoteError
from engines.remote import http as remote
from stage1.preprocess import PreprocessSettings, preprocess
from stage2_bridge.client import Stage2Error
from stage2_bridge.sample_image import black_image
from stage2_bridge.servers.inspection import inspected
from stage2_bridge.servers.open_server import client_of
from stage2_bridge.servers.outputs import box_score, probability_of
from stage2_bridge.settings import DetectorServer, KserveServer, Stage2Settings
from tests.support.stage2_servers import Fake, classifier, http

IMAGE = black_image()


def f32(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


def i64(values: Any) -> NDArray[np.int64]:
    return np.asarray(values, np.int64)


def asked(fake: Fake, do: Callable[[Any], Any], kind: type = KserveServer, **changes: Any) -> Any:
    async def run() -> Any:
        async with fake.running():
            client = client_of(kind(**({"name": "one", "url": fake.url, "model": "roadwork"} | changes)))
            try:
                return await do(client)
            finally:
                await client.close()

    return asyncio.run(run())


def gives(**outputs: Any) -> Callable[[bytes], dict[str, np.ndarray]]:
    return lambda _content: {name: np.asarray(values) for name, values in outputs.items()}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("reads", "values", "expected"),
    [
        ("probability", [[0.25]], 0.25),
        ("logit", [1.5], 1 / (1 + math.exp(-1.5))),
        ("logits", [[2.0, -1.0]], 1 / (1 + math.exp(3))),
    ],
)
def test_a_classifier_gives_the_probability_of_what_its_output_is(
    binary: bool, reads: str, values: Any, expected: float
) -> None:
    fake = Fake(classifier(gives(probability=f32(values)), binary=binary))
    found = asked(fake, lambda client: client.ask(IMAGE, 5.0), reads=reads)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("binary", [True, False])
def test_the_file_arrives_as_it_came(binary: bool) -> None:
    seen: list[bytes] = []

    def give(content: bytes) -> dict[str, np.ndarray]:
        seen.extend([content] if content else [])
        return {"probability": f32([0.5])}

    asked(Fake(classifier(give, binary=binary)), lambda client: client.ask(IMAGE, 5.0))
    assert seen == [IMAGE]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("channels", ["first", "last"])
def test_pixels_arrive_as_every_engine_sees_them(channels: str, binary: bool) -> None:
    seen: list[bytes] = []
    settings = PreprocessSettings(size_px=32)

    def give(content: bytes) -> dict[str, np.ndarray]:
        seen.extend([content] if content else [])
        return {"probability": f32([0.5])}

    fake = Fake(classifier(give, kind="UINT8", binary=binary))
    asked(fake, lambda client: client.ask(IMAGE, 5.0), image="pixels", preprocess=settings, channels=channels)
    pixels = preprocess(IMAGE, settings)
    assert seen == [(pixels if channels == "first" else pixels.transpose(1, 2, 0)).tobytes()]


def test_a_pinned_version_is_the_one_that_is_asked() -> None:
    fake = Fake(classifier(gives(probability=f32([0.5])), version="7"))
    asked(fake, lambda client: client.ask(IMAGE, 5.0), version="7")
    assert fake.asked[-1].path == "/v2/models/roadwork/versions/7/infer"
    with pytest.raises(RemoteError, match="status 404"):
        asked(fake, lambda client: client.ask(IMAGE, 5.0), version="8")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": "another"}, "status 404"),
        ({"input": "picture"}, "has no input 'picture'; it has 'image'"),
        ({"output": "score"}, "has no output 'score'; it has 'probability'"),
        ({"image": "pixels"}, "takes BYTES, and image = 'pixels' sends UINT8"),
        ({"version": "3"}, "status 404"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_told_by_the_check(changes: dict[str, Any], problem: str) -> None:
    fake = Fake(classifier(gives(probability=f32([0.5]))))
    with pytest.raises(RemoteError, match=problem):
        asked(fake, lambda client: client.check(5.0), **changes)


def test_the_check_names_what_it_found() -> None:
    fake = Fake(classifier(gives(probability=f32([0.5]))))
    assert asked(fake, lambda client: client.check(5.0)) == "model roadwork, versions 1"


@pytest.mark.parametrize(
    ("values", "reads", "problem"),
    [
        ([1.2], "probability", "no probability; is it a logit"),
        ([math.nan], "logit", "no finite numbers"),
        ([0.1, 0.2], "probability", "expected 1 of one image"),
        ([0.1], "logits", "expected 2 of one image"),
        ([], "logit", "expected 1"),
    ],
)
def test_what_is_no_probability_is_an_error(values: list[float], reads: str, problem: str) -> None:
    with pytest.raises(Stage2Error, match=problem):
        probability_of(f32(values), reads)


def test_boxes_of_other_classes_do_not_count() -> None:
    scores, classes = f32([[0.9, 0.4, 0.5]]), i64([[3, 9, 11]])
    assert box_score(scores, classes, (9, 11), "max") == pytest.approx(0.5)
    assert box_score(scores, classes, (9, 11), "noisy_or") == pytest.approx(1 - 0.6 * 0.5)
    assert box_score(scores.T, classes.T, (9, 11), "max") == pytest.approx(0.5)
    assert box_score(scores, classes, (7,), "max") == 0.0
    assert box_score(f32([]), i64([]), (7,), "noisy_or") == 0.0
    assert box_score(f32([1.0]), i64([7]), (7,), "noisy_or") == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("scores", "classes"),
    [([0.5, 0.5], [9]), ([1.5], [9]), ([math.nan], [9]), ([[0.1, 0.2], [0.3, 0.4]], [[9, 9], [9, 9]])],
)
def test_boxes_that_are_none_are_an_error(scores: Any, classes: Any) -> None:
    with pytest.raises(Stage2Error):
        box_score(f32(scores), i64(classes), (9,), "max")


def test_a_detector_gives_one_score() -> None:
    fake = Fake(classifier(gives(scores=f32([0.2, 0.7]), classes=i64([9, 9]))))
    found = asked(fake, lambda client: client.ask(IMAGE, 5.0), DetectorServer, roadwork=(9,), combine="noisy_or")
    assert found == pytest.approx(1 - 0.8 * 0.3, abs=1e-6)


def replies(body: bytes, status: int = 200, **headers: str) -> Fake:
    return Fake(lambda _: http(status, body, {name.replace("_", "-"): value for name, value in headers.items()}))


LIE = b'{"outputs":[{"name":"probability","datatype":"FP32","shape":[1,999999999],"data":[0.5]}]}'
UNDECLARED = b"HTTP/1.1 200 .\r\nconnection: close\r\n\r\n" + bytes(17 * 2**20)
FAULTS: dict[str, tuple[Fake, str]] = {
    "slow": (Fake(classifier(gives(probability=f32([0.5]))), before_s=3.0), "no reply within"),
    "slow loris": (Fake(classifier(gives(probability=f32([0.5]))), bytes_a_second=20), "no reply within"),
    "cut off": (Fake(classifier(gives(probability=f32([0.5]))), cut=90), "ClientPayloadError"),
    "reset": (Fake(lambda _: None), "ServerDisconnectedError"),
    "503": (replies(b"busy", 503), "status 503: busy"),
    "no HTTP": (Fake(lambda _: b"\x00\x01\x02\x03\r\n\r\n"), "ClientResponseError"),
    "no JSON": (replies(b"[]"), "none of the Open Inference Protocol"),
    "huge": (replies(b" " * 17 * 2**20), "longer than"),
    "huge, undeclared": (Fake(lambda _: UNDECLARED), "longer than"),
    "other output": (Fake(classifier(gives(score=f32([0.5])))), "no output 'probability'; it has 'score'"),
    "wrong length": (replies(b"{}", inference_header_content_length="50"), "says that its JSON has 50"),
    "no length": (replies(b"{}", inference_header_content_length="-1"), "the header"),
    "lies about its size": (replies(LIE), "has the shape"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_a_server_does_is_an_error_that_says_so_in_time(fault: str) -> None:
    fake, problem = FAULTS[fault]
    # Only what waits is cut short.
    timeout_s = 0.5 if problem == "no reply within" else 60.0
    with pytest.raises(RemoteError, match=problem):
        asked(fake, lambda client: client.ask(IMAGE, timeout_s), binary=True, timeout_s=60)


def test_the_question_for_the_extension_and_the_image_have_one_time_together(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(classifier(gives(probability=f32([0.5]))), before_s=0.2)
    given: list[float] = []
    ask = remote.ask

    async def noted(*place: Any, timeout_s: float, **more: Any) -> Any:
        given.append(timeout_s)
        return await ask(*place, timeout_s=timeout_s, **more)

    monkeypatch.setattr(remote, "ask", noted)
    assert asked(fake, lambda client: client.ask(IMAGE, 60.0), timeout_s=60) == 0.5
    assert [one.path for one in fake.asked] == ["/v2", "/v2/models/roadwork/infer"]
    assert given[1] < given[0] - 0.19
    with pytest.raises(RemoteError, match="no reply within"):
        asked(Fake(fake.answer, before_s=0.3), lambda client: client.check(0.5))


def test_an_inspection_takes_no_longer_than_it_may() -> None:
    fake = Fake(classifier(gives(probability=f32([0.5]))), before_s=0.2)

    async def run() -> Any:
        async with fake.running():
            one = KserveServer(name="one", url=fake.url, model="roadwork")
            return await inspected(Stage2Settings(servers=(one,)), IMAGE, 0.5)

    [found] = asyncio.run(run())
    assert found.failed
    assert "within" in found.told


def test_an_address_that_answers_nothing_leaves_time_for_another_server() -> None:
    async def run() -> None:
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            port = deaf.getsockname()[1]
            # The queue of the socket is full, and the next one is not answered.
            waiting = [socket.socket() for _ in range(3)]
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
            client = client_of(KserveServer(name="one", url=f"http://127.0.0.1:{port}", model="roadwork"))
            with pytest.raises(RemoteError, match="ConnectionTimeoutError") as caught:
                await client.ask(IMAGE, 5.0)
            assert caught.value.passing
            await client.close()
            for one in waiting:
                one.close()

    asyncio.run(run())


@pytest.mark.parametrize("binary", [True, False])
def test_a_large_image_and_a_large_reply_arrive_whole(binary: bool) -> None:
    seen: list[bytes] = []

    def give(content: bytes) -> dict[str, np.ndarray]:
        seen.append(content)
        return {"more": np.zeros(40_000, np.float32), "probability": f32([0.25])}

    content = IMAGE + bytes(3 * 2**20)
    assert asked(Fake(classifier(give, binary=binary)), lambda client: client.ask(content, 9.0)) == 0.25
    assert seen[-1] == content


def test_a_kept_connection_that_the_server_has_done_with_is_no_failure_of_the_next_request() -> None:
    knows = classifier(gives(probability=f32([0.5])))
    fake = Fake(lambda one: None if len(fake.asked) == 2 else knows(one))

    async def run(client: Any) -> float:
        assert await client.ask(IMAGE, 5.0) == 0.5
        with pytest.raises(RemoteError) as caught:
            await client.ask(IMAGE, 5.0)
        assert caught.value.passing
        assert caught.value.stale
        return float(await client.ask(IMAGE, 5.0))

    assert asked(fake, run, binary=True) == 0.5


def test_a_new_connection_that_is_cut_is_not_asked_again() -> None:
    fake = Fake(lambda _: None)
    with pytest.raises(RemoteError) as caught:
        asked(fake, lambda client: client.ask(IMAGE, 5.0), binary=True)
    assert not caught.value.passing


def test_many_that_are_given_up_leave_no_connection_taken() -> None:
    fake = Fake(classifier(gives(probability=f32([0.5]))), before_s=0.05)

    async def run(client: Any) -> list[float]:
        for round_ in range(10):
            tasks = [asyncio.ensure_future(client.ask(IMAGE, 5.0)) for _ in range(8)]
            await asyncio.sleep(0.01 * round_)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return list(await asyncio.gather(*(client.ask(IMAGE, 5.0) for _ in range(8))))

    assert asked(fake, run, connections=2) == [0.5] * 8


def test_a_server_that_is_not_there_may_be_asked_again() -> None:
    async def run() -> None:
        client = client_of(KserveServer(name="one", url="http://127.0.0.1:9", model="roadwork"))
        with pytest.raises(RemoteError, match="ClientConnectorError") as caught:
            await client.ask(IMAGE, 5.0)
        assert caught.value.passing
        await client.close()

    asyncio.run(run())


def test_a_server_without_tls_is_an_error_where_tls_is_asked_for() -> None:
    fake = Fake(classifier(gives(probability=f32([0.5]))))

    async def run() -> None:
        async with fake.running():
            client = client_of(KserveServer(name="one", url=fake.url.replace("http:", "https:"), model="roadwork"))
            with pytest.raises(RemoteError, match="ClientConnectorError"):
                await client.ask(IMAGE, 5.0)
            await client.close()

    asyncio.run(run())


def test_a_key_goes_along_and_into_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = Fake(lambda _: b"HTTP/1.1 401 .\r\ncontent-length: 2\r\n\r\nno")
    monkeypatch.setenv("STAGE2_KEY", "geheim")
    with pytest.raises(RemoteError) as caught:
        asked(fake, lambda client: client.ask(IMAGE, 5.0), key_env="STAGE2_KEY")
    assert fake.asked[-1].headers["authorization"] == "Bearer geheim"
    assert "geheim" not in str(caught.value)
    fake.answer = lambda asked: http(401, b"\x1b[2J\nwrong key: " + asked.headers["authorization"].encode())
    with pytest.raises(RemoteError, match=r"status 401: \[2J wrong key: Bearer \*\*\*$"):
        asked(fake, lambda client: client.ask(IMAGE, 5.0), key_env="STAGE2_KEY")
    (tmp_path / "key").write_text("geheimer\n")
    with pytest.raises(RemoteError):
        asked(fake, lambda client: client.ask(IMAGE, 5.0), key_file=tmp_path / "key")
    assert fake.asked[-1].headers["authorization"] == "Bearer geheimer"


def bright(content: bytes) -> dict[str, NDArray[np.float32]]:
    """The first byte of a file, as a share."""
    return {"probability": f32([(content or b"\0")[0] / 255])}


@pytest.mark.parametrize("binary", [True, False])
def test_images_that_wait_go_in_one_call_and_get_their_own_answers(binary: bool) -> None:
    fake = Fake(classifier(bright, binary=binary), before_s=0.05)

    async def run(client: Any) -> list[float]:
        return list(await asyncio.gather(*(client.ask(bytes([value]), 5.0) for value in range(40))))

    found = asked(fake, run, binary=binary, connections=2, max_batch=16)
    assert found == pytest.approx([value / 255 for value in range(40)])
    assert sum(one.path.endswith("/infer") for one in fake.asked) <= 5


def test_pixels_that_wait_go_in_one_call() -> None:
    fake = Fake(classifier(bright, kind="UINT8"), before_s=0.05)

    async def run(client: Any) -> list[float]:
        return list(await asyncio.gather(*(client.ask(IMAGE, 5.0) for _ in range(9))))

    settings = PreprocessSettings(size_px=16)
    found = asked(fake, run, image="pixels", preprocess=settings, channels="last", connections=1, max_batch=8)
    assert found == [0.0] * 9
    assert sum(one.path.endswith("/infer") for one in fake.asked) <= 3


@pytest.mark.parametrize("status", [400, 500])
def test_an_image_that_a_call_fails_on_keeps_its_company_from_nothing(status: int) -> None:
    knows = classifier(bright)
    fake = Fake(lambda one: http(status, b"cannot decode") if b"bad" in one.body else knows(one), before_s=0.02)

    async def run(client: Any) -> list[Any]:
        contents = [b"\x10", b"bad", b"\x20", b"\x30"]
        return list(await asyncio.gather(*(client.ask(one, 5.0) for one in contents), return_exceptions=True))

    found = asked(fake, run, binary=True, connections=1, max_batch=4)
    assert [found[0], *found[2:]] == pytest.approx([0x10 / 255, 0x20 / 255, 0x30 / 255])
    assert isinstance(found[1], RemoteError)
    assert found[1].status == status


def test_a_model_that_takes_one_image_a_call_is_told_by_the_check() -> None:
    knows = classifier(bright)
    one = Fake(classifier(gives(probability=f32([0.5])), shape=(1,)))
    assert "up to 4 images in a call" in asked(one, lambda client: client.check(5.0), max_batch=4)

    def answer(asked: Any) -> bytes | None:
        mixed = b'"shape": [2]' in asked.body
        return classifier(gives(probability=f32([0.9])))(asked) if mixed else knows(asked)

    with pytest.raises(Stage2Error, match="set max_batch = 1"):
        asked(Fake(answer), lambda client: client.check(5.0), max_batch=4)
    lonely = classifier(gives(probability=f32([0.5])), binary=False)

    def only_one(asked: Any) -> bytes | None:
        if not asked.path.endswith("/infer"):
            return lonely(asked)
        head = b'{"outputs":[{"name":"probability","datatype":"FP32","shape":[1],"data":[0.5]}]}'
        return http(200, head)

    with pytest.raises(Stage2Error, match=r"2 images were sent in one call, and the output 'probability' has"):
        asked(Fake(only_one), lambda client: client.check(5.0), max_batch=4)


def test_files_go_in_the_shape_that_the_model_wants() -> None:
    knows = classifier(bright, shape=(-1, 1))
    fake = Fake(lambda one: http(400, b"unexpected shape") if b'"shape": [1]' in one.body else knows(one))

    async def twice(client: Any) -> list[float]:
        return [await client.ask(b"\x33", 5.0), await client.ask(b"\x66", 5.0)]

    assert asked(fake, twice, binary=True) == pytest.approx([0.2, 0.4])
    assert [one.path.rsplit("/", 1)[1] for one in fake.asked] == ["infer", "roadwork", "infer", "infer"]


def test_another_version_than_the_pinned_one_is_an_error() -> None:
    old = classifier(gives(probability=f32([0.5])), version="7")

    def answer(asked: Any) -> bytes | None:
        reply = old(asked)
        assert reply is not None
        return reply.replace(b'"model_version": "7"', b'"model_version": "8"')

    with pytest.raises(RemoteError, match="version 8 answered, asked for 7"):
        asked(Fake(answer), lambda client: client.ask(IMAGE, 5.0), version="7")


def test_a_logit_that_looks_like_a_probability_for_a_black_image_is_told_by_the_check() -> None:
    black = IMAGE

    def give(content: bytes) -> dict[str, NDArray[np.float32]]:
        return {"probability": f32([0.3 if content == black else -2.5])}

    with pytest.raises(Stage2Error, match="is it a logit"):
        asked(Fake(classifier(give)), lambda client: client.check(5.0))


def test_who_answers_is_told_by_the_server_and_its_address_is_not_in_the_fingerprint() -> None:
    def identity(version: str = "1", kind: type = KserveServer, **changes: Any) -> Any:
        outputs = {"probability": f32([0.5]), "other": f32([0.5]), "scores": f32([]), "classes": i64([])}
        fake = Fake(classifier(gives(**outputs), version=version))
        return asked(fake, lambda client: client.identity(5.0), kind, **changes)

    one = identity()
    assert (one.kind, one.name, one.model, one.version) == ("kserve", "one", "roadwork", "1")
    assert {identity(name="two").fingerprint, identity(timeout_s=1.0).fingerprint} == {one.fingerprint}
    others = {
        identity(version="2").fingerprint,
        identity(output="other").fingerprint,
        identity(reads="logit").fingerprint,
        identity(kind=DetectorServer, roadwork=(3,)).fingerprint,
        identity(kind=DetectorServer, roadwork=(3, 4)).fingerprint,
    }
    assert len(others | {one.fingerprint}) == 6
