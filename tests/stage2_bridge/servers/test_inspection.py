"""What is said of settings that do not fit the servers, before anybody's image goes there."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import ssl
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miner.settings import load_settings
from stage1.errors import SettingsError
from stage2_bridge.sample_image import black_image
from stage2_bridge.servers.inspection import Inspection, _of_its_key, inspected
from stage2_bridge.servers.open_server import servers_of
from stage2_bridge.settings import KserveServer, OpenAiServer, Stage2Settings
from tests.support.ports import free_port
from tests.support.stage2_servers import Asked, Fake, as_json, chat, classifier
from tests.support.unknown_hosts import unknown_hosts

KSERVE = {"kind": "kserve", "name": "one", "url": "http://127.0.0.1:9", "model": "roadwork"}


def of(*servers: dict[str, Any]) -> Stage2Settings:
    return load_settings(None, {"stage2.servers": list(servers)}).stage2


@pytest.mark.parametrize(
    ("servers", "problem"),
    [
        (
            [KSERVE | {"kind": "triton"}],
            r"stage2\.servers\.0.*'triton'.*'detector', 'openai', 'python'",
        ),
        ([{"name": "one"}], r"stage2\.servers\.0.*kind"),
        ([KSERVE, KSERVE], "two servers have the name 'one'"),
        ([KSERVE | {"kind": "openai", "key_env": "A", "key_file": "b"}], "key_env and key_file are both given"),
        ([KSERVE | {"ca_file": "ca.pem"}], "does not begin with https"),
        ([KSERVE | {"reads": "score"}], r"stage2\.servers\.0\.kserve\.reads: .*'probability', 'logit' or 'logits'"),
        ([KSERVE | {"kind": "detector"}], r"stage2\.servers\.0\.detector\.roadwork: Field required"),
        ([KSERVE | {"max_batch": 0}], r"stage2\.servers\.0\.kserve\.max_batch"),
    ],
    ids=["kind", "no kind", "names", "two keys", "no tls", "reads", "no classes", "batch"],
)
def test_settings_that_cannot_be_meant_are_refused_when_they_are_read(servers: list[Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        of(*servers)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"key_env": "STAGE2_KEY_THAT_IS_NOT_SET"}, "STAGE2_KEY_THAT_IS_NOT_SET is not set"),
        ({"key_file": "nothing"}, "key_file nothing cannot be read"),
        ({"url": "https://127.0.0.1:9", "ca_file": "nothing.pem"}, "ca_file nothing.pem cannot be read"),
    ],
)
def test_what_the_settings_name_and_is_not_there_ends_the_start_and_fails_the_check(
    changes: dict[str, Any], problem: str
) -> None:
    settings = of(KSERVE | changes)
    with pytest.raises(SettingsError, match=f"stage2 server one: .*{problem}"):
        servers_of(settings)
    [found] = asyncio.run(inspected(settings, black_image(), 5.0))
    assert found.failed
    assert problem in found.told


def test_a_key_that_stands_where_its_name_belongs_is_told_nowhere() -> None:
    with pytest.raises(SettingsError) as caught:
        servers_of(of(KSERVE | {"key_env": "sk-geheim"}))
    assert "geheim" not in str(caught.value)


async def both(settings: Stage2Settings) -> tuple[Inspection, str | Exception]:
    """What the check finds, and what a miner finds when it looks at its servers at its start."""
    [found] = await inspected(settings, black_image(), 5.0)
    servers = servers_of(settings)
    [told] = (await servers.check(5.0)).values()
    await servers.close()
    return found, told


def gives(*values: float) -> Any:
    return classifier(lambda _: {"probability": np.asarray(values, np.float32)})


def no_such_model(_: Asked) -> bytes:
    return as_json({"error": {"message": "The model `roadwork` does not exist."}}, 404)


def wrong_key(asked: Asked) -> bytes:
    return as_json({"error": {"message": f"Incorrect API key: {asked.headers.get('authorization')}"}}, 401)


LOGPROBS = {"The": math.log(0.9), "yes": math.log(0.06), "no": math.log(0.04)}
AT_THE_SERVER: dict[str, tuple[Any, dict[str, Any], str]] = {
    "another model": (gives(0.5), {"model": "street"}, "status 404"),
    "another model of a chat server": (no_such_model, {"kind": "openai"}, "does not exist"),
    "another version": (gives(0.5), {"version": "9"}, "status 404"),
    "no probability": (gives(3.2), {}, "is it a logit"),
    "nan": (gives(math.nan), {}, "no finite numbers"),
    "two numbers": (gives(0.2, 0.8), {}, "expected 1 of one image"),
    "another output": (gives(0.5), {"output": "score"}, "has no output 'score'; it has 'probability'"),
    "a wrong key": (wrong_key, {"kind": "openai", "key_env": "STAGE2_KEY"}, "status 401"),
    "no yes or no": (chat(None, "A street."), {"kind": "openai"}, "neither yes nor no"),
    "a constraint too late": (chat(LOGPROBS), {"kind": "openai", "constrained": True}, "processed_logprobs"),
    "no chat server": (gives(0.5), {"kind": "openai"}, "status 404"),
    "no inference server": (chat({"yes": 0.0}), {}, "status 404"),
}


@pytest.mark.parametrize("mistake", AT_THE_SERVER)
def test_what_does_not_fit_the_server_is_told_at_the_start_and_by_the_check(
    mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGE2_KEY", "geheim")
    handler, changes, problem = AT_THE_SERVER[mistake]

    async def run() -> tuple[Inspection, str | Exception]:
        async with Fake(handler).running() as fake:
            return await both(of(KSERVE | {"url": fake.url} | changes))

    found, told = asyncio.run(run())
    assert found.failed
    assert problem in found.told
    assert isinstance(told, Exception)
    assert problem in str(told)
    assert "geheim" not in found.told + str(told)


def test_a_host_that_is_not_there_is_told_at_the_start_and_by_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown_hosts(monkeypatch)
    for url in (f"http://127.0.0.1:{free_port()}", "http://no-such-host.invalid:8000"):
        found, told = asyncio.run(both(of(KSERVE | {"url": url})))
        assert found.failed
        assert "ClientConnector" in found.told
        assert isinstance(told, Exception)
        assert "ClientConnector" in str(told)


def test_the_check_tells_the_gap_between_the_two_orders() -> None:
    first, second = ({"yes": math.log(one), "no": math.log(1 - one)} for one in (0.8, 0.4))

    async def run() -> list[Inspection]:
        async with Fake(chat(first, turned=second)).running() as fake:
            one = OpenAiServer(name="vlm", url=fake.url, model="see")
            return await inspected(Stage2Settings(servers=(one,)), black_image(), 5.0)

    [found] = asyncio.run(run())
    assert (found.probability, found.turned) == pytest.approx((0.8, 0.4))
    assert "0.400 if asked for no or yes, a gap of 0.400" in found.in_words


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, with its key."""
    path = tmp_path / "server.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
    ]
    try:
        more = ["subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(tmp_path / "ca.pem")]
        subprocess.run([*command, *more], check=True, capture_output=True)
    except OSError:
        pytest.skip("there is no openssl")
    path.write_text(path.read_text() + (tmp_path / "ca.pem").read_text())
    return path


def test_an_authority_of_ones_own_is_trusted_where_it_is_named_and_nowhere_else(certificate: Path) -> None:
    async def run(**changes: Any) -> Inspection:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        async with Fake(gives(0.25)).running(tls) as fake:
            one = KserveServer(name="one", url=fake.url, model="roadwork", **changes)
            [found] = await inspected(Stage2Settings(servers=(one,)), black_image(), 5.0)
            return found

    found = asyncio.run(run())
    assert found.failed
    assert "its certificate is not accepted (self-signed certificate)" in found.told
    assert "name the authority" in found.told
    trusted = asyncio.run(run(ca_file=certificate.with_name("ca.pem")))
    assert trusted.probability == 0.25


def test_settings_in_json_are_read_as_those_of_the_file() -> None:
    assert of(*json.loads(json.dumps([KSERVE]))).servers[0].name == "one"


@pytest.mark.parametrize(
    ("url", "key", "warned"),
    [
        ("http://gpu-1:8000", "K", True),
        ("http://gpu-1:8000", None, False),
        ("https://gpu-1:8000", "K", False),
        ("http://127.0.0.1:8000", "K", False),
        ("http://[::1]:8000", "K", False),
    ],
)
def test_a_key_that_goes_over_the_network_unencrypted_is_told(url: str, key: str | None, warned: bool) -> None:
    one = KserveServer(name="one", url=url, model="roadwork", key_env=key)
    assert ("use https" in _of_its_key(one)) is warned


def test_a_key_is_in_no_log_however_much_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STAGE2_KEY", "geheim")
    caplog.set_level(logging.DEBUG)

    async def run() -> Inspection:
        async with Fake(gives(0.5)).running() as fake:
            one = KserveServer(name="one", url=fake.url, model="roadwork", key_env="STAGE2_KEY")
            [found] = await inspected(Stage2Settings(servers=(one,)), black_image(), 5.0)
            assert fake.asked[-1].headers["authorization"] == "Bearer geheim"
            return found

    found = asyncio.run(run())
    assert found.probability == 0.5
    assert caplog.records
    assert "geheim" not in caplog.text + repr(found) + repr([vars(record) for record in caplog.records])
