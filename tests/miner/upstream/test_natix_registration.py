"""The registration with NATIX, against an HTTP server that plays the registry."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from bittensor_wallet import Keypair, Wallet
from typer.testing import CliRunner

from miner.cli.main import app
from miner.errors import RegistrationError, RegistrationPending
from miner.upstream.natix_registration import EVERY_S, LONGEST_S, Registration, register, signed
from stage1.errors import SettingsError
from tests.support.http_server import serve_beside

NOW_S = 1_795_387_000.9
Reply = tuple[int, bytes] | None
PENDING = (200, b'{"status": "pending"}')


class Registry:
    """Plays the registry: what it answers to the request, and then one by one to the questions after it."""

    def __init__(self) -> None:
        self.first: Reply = (200, b'{"detail": "queued for validation"}')
        self.then: list[Reply] = [(200, b'{"status": "succeeded"}')]
        self.asked: list[tuple[str, str, str | None, Any]] = []
        self.silent = threading.Event()
        self.drip_s = 0.0
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                registry.asked.append(("POST", self.path, self.headers["content-type"], json.loads(body)))
                self.reply(registry.first)

            def do_GET(self) -> None:
                registry.asked.append(("GET", self.path, None, None))
                self.reply(registry.then[0] if len(registry.then) == 1 else registry.then.pop(0))

            def reply(self, reply: Reply) -> None:
                if reply is None:
                    registry.silent.wait(60)
                    return
                status, content = reply
                if registry.drip_s:
                    self.drip(time.monotonic() + registry.drip_s)
                    return
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def drip(self, until: float) -> None:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
                while time.monotonic() < until and not registry.silent.wait(0.1):
                    self.wfile.write(b"x")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # Whoever gave up on an answer leaves before it comes.
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("no_proxy", "*")
    playing = Registry()
    serve_beside(playing.server)
    yield playing
    playing.silent.set()
    playing.server.shutdown()
    playing.server.server_close()


@pytest.fixture(scope="module")
def key() -> Keypair:
    return Keypair.create_from_mnemonic(Keypair.generate_mnemonic())


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def sent(registration: Registration, clock: Time, told: list[str] | None = None, **limits: float) -> str:
    said = [] if told is None else told
    return register(registration, clock=lambda: clock.now, sleep=clock.sleep, tell=said.append, **limits)


@pytest.fixture
def registration(registry: Registry, key: Keypair) -> Registration:
    return signed(10, "user/repo", key, now_s=NOW_S, base_url=f"{registry.url}/")


def test_the_request_is_that_of_register_sh(registry: Registry, registration: Registration, key: Keypair) -> None:
    assert sent(registration, Time()) == "succeeded"
    [(_, path, content_type, body), (_, asked, _, _)] = registry.asked
    assert (path, content_type) == ("/participants/register", "application/json")
    assert asked == "/participants/registration-status/10"
    signature = body.pop("natix_signature")
    assert body == {
        "uid": "10",
        "message": "1795387000",
        "natix_public_key": key.ss58_address,
        "type": "miner",
        "model_repo": "user/repo",
    }
    assert len(signature) == 128
    assert key.verify(b"1795387000", bytes.fromhex(signature))


def test_it_waits_three_seconds_between_two_questions(registry: Registry, registration: Registration) -> None:
    states = ("pending", "Queued", "processing", "success")
    registry.then = [(200, json.dumps({"status": state}).encode()) for state in states]
    clock, told = Time(), list[str]()
    sent(registration, clock, told)
    assert clock.slept == [EVERY_S] * 3
    assert told == ["sent: queued for validation", "waiting: pending", "waiting: Queued", "waiting: processing"]


@pytest.mark.parametrize("state", ["failed", "error"])
def test_a_refusal_says_why(registry: Registry, registration: Registration, state: str) -> None:
    said = {"status": state, "error_message": "model_card.json\x1b[2J\nmissing"}
    registry.then = [(200, json.dumps(said).encode())]
    with pytest.raises(RegistrationError, match=r"refused the registration: model_card\.json \[2J missing$"):
        sent(registration, Time())


def test_what_is_not_decided_in_time_is_pending(registry: Registry, registration: Registration) -> None:
    registry.then = [PENDING]
    clock = Time()
    with pytest.raises(RegistrationPending, match=r"within 180 s; it said last: pending; see http"):
        sent(registration, clock)
    assert clock.now <= LONGEST_S
    assert len(clock.slept) == LONGEST_S / EVERY_S
    assert RegistrationPending.exit_status == 75


@pytest.mark.parametrize(
    "bad",
    [
        (500, b"oops"),
        (502, b""),
        (404, b'{"detail": "unknown uid"}'),
        (200, b"<html>"),
        (200, b"[1]"),
        (200, b"\xff\xfe"),
        (200, b"[" * 100_000),
        (200, b"x" * (2 << 20)),
        (302, b""),
        (200, b'{"status": null}'),
    ],
    ids=str,
)
def test_an_answer_that_cannot_be_used_is_passed_over_while_it_waits(
    registry: Registry, registration: Registration, bad: Reply
) -> None:
    registry.then = [bad, (200, b'{"status": "succeeded"}')]
    clock = Time()
    assert sent(registration, clock) == "succeeded"
    assert clock.slept == [EVERY_S]


def test_a_question_that_is_never_answered_is_given_up(registry: Registry, registration: Registration) -> None:
    registry.first = (200, b"{}")
    registry.then = [None, (200, b'{"status": "succeeded"}')]
    assert sent(registration, Time(), call_s=5.0) == "succeeded"


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ((400, b'{"detail": "uid 10 is not yours"}'), "status 400: uid 10 is not yours"),
        ((422, b'{"detail": [{"loc": ["uid"]}]}'), r'status 422: \[\{"loc": \["uid"\]\}\]'),
        ((500, b"oops"), "status 500: oops"),
        ((307, b""), "status 307"),
        ((200, b"not json"), "the answer is no JSON object: not json"),
        (None, "cannot be asked: .*timed out"),
    ],
)
def test_a_request_that_is_not_taken_says_why_and_asks_no_further(
    registry: Registry, registration: Registration, first: Reply, why: str
) -> None:
    registry.first = first
    with pytest.raises(RegistrationError, match=why):
        sent(registration, Time(), call_s=60.0 if first else 3.0)
    assert [method for method, *_ in registry.asked] == ["POST"]


def test_a_header_that_comes_byte_by_byte_is_not_waited_for(registry: Registry, registration: Registration) -> None:
    """No wait of the socket is long, and all of them together are."""
    registry.drip_s = 8.0
    with pytest.raises(RegistrationError, match="takes too long"):
        sent(registration, Time(), call_s=1.0)


def test_a_registry_whose_name_is_none_is_told(key: Keypair) -> None:
    nowhere = signed(10, "user/repo", key, now_s=NOW_S, base_url=f"https://{'a' * 70}.invalid")
    with pytest.raises(RegistrationError, match="cannot be asked"):
        sent(nowhere, Time())


def test_a_registry_that_is_not_there_is_told(key: Keypair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    nowhere = signed(10, "user/repo", key, now_s=NOW_S, base_url="http://127.0.0.1:9")
    with pytest.raises(RegistrationError, match=r"127\.0\.0\.1:9/participants/register: cannot be asked: .*refused"):
        sent(nowhere, Time())


@pytest.mark.parametrize(
    "repository", ["user", "a/b/c", "https://huggingface.co/a/b", "user/ repo", "../x", "a/b\n", ""]
)
def test_a_repository_has_a_user_and_a_name(key: Keypair, repository: str) -> None:
    with pytest.raises(SettingsError, match="it must be user/repo"):
        signed(10, repository, key, now_s=NOW_S)


@pytest.mark.parametrize(
    "url", ["x.example", "ftp://x.example", "http://x.example", "https://", "https://[x", "https://a:b@x.example"]
)
def test_a_registry_is_asked_over_https_or_on_this_machine(key: Keypair, url: str) -> None:
    with pytest.raises(SettingsError, match="--base-url is"):
        signed(10, "user/repo", key, now_s=NOW_S, base_url=url)


class TestCommand:
    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    @pytest.fixture
    def run(self, tmp_path: Path, registry: Registry) -> Callable[..., Any]:
        def invoke(*words: str) -> Any:
            wallet = ["--wallet", "miner", "--hotkey", "default", "--set", f"wallet.path={tmp_path}"]
            common = ["register-natix", "10", "--model-repo", "user/repo", "--base-url", registry.url]
            return CliRunner().invoke(app, [*common, *wallet, *words])

        return invoke

    def test_a_dry_run_prints_the_signed_request_and_sends_nothing(
        self, registry: Registry, new_wallet: Callable[[str], Wallet], run: Callable[..., Any]
    ) -> None:
        hotkey = new_wallet("miner").hotkey
        before = int(time.time())
        result = run("--dry-run")
        assert result.exit_code == 0
        head, body = result.stdout.split("\n\n")
        assert head == f"POST {registry.url}/participants/register\nContent-Type: application/json"
        told = json.loads(body)
        assert before <= int(told["message"]) <= time.time()
        assert hotkey.verify(told["message"].encode(), bytes.fromhex(told["natix_signature"]))
        assert registry.asked == []

    def test_it_succeeds(self, new_wallet: Callable[[str], Wallet], run: Callable[..., Any]) -> None:
        new_wallet("miner")
        result = run()
        assert (result.exit_code, result.stdout) == (0, "uid 10 is registered with NATIX for user/repo\n")
        assert result.stderr == "sent: queued for validation\n"

    def test_it_fails_in_one_line(
        self, registry: Registry, new_wallet: Callable[[str], Wallet], run: Callable[..., Any]
    ) -> None:
        new_wallet("miner")
        registry.then = [(200, b'{"status": "failed", "error_message": "no such model"}')]
        result = run()
        assert (result.exit_code, result.stdout) == (1, "")
        assert "cascade: NATIX refused the registration: no such model" in result.stderr

    def test_without_a_wallet_nothing_is_sent(self, registry: Registry, run: Callable[..., Any]) -> None:
        assert run().exit_code == 3
        assert registry.asked == []

    def test_the_wallet_may_come_from_miner_env(self, tmp_path: Path, new_wallet: Callable[[str], Wallet]) -> None:
        new_wallet("theirs")
        (tmp_path / "miner.env").write_text("WALLET_NAME=theirs  # mine\nWALLET_HOTKEY=default\n")
        words = ["register-natix", "10", "--model-repo", "user/repo", "--dry-run", "--env-file", "miner.env"]
        result = CliRunner().invoke(app, [*words, "--wallet.path", str(tmp_path)])
        assert result.exit_code == 0, result.output
