"""`cascade mine` as a process of its own: asked by a real dendrite, swapped while it runs, stopped cleanly."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from bittensor_wallet import Wallet
from PIL import Image
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families
from structlog.testing import capture_logs

from engines.errors import StoreError
from engines.store.bundle import Provenance
from engines.store.file_names import MANIFEST
from engines.store.store import Store
from miner.answering.journal import read_journal
from miner.chain.adapter import first_snapshot
from miner.chain.offline import ChainFile, OfflineChain
from miner.chain.port import Neuron
from miner.cli.doctor.examination import examine
from miner.cli.doctor.state_and_ports import where
from miner.errors import NotRegistered, StartError
from miner.process import _drained, _serve
from miner.settings import load_settings
from stage1.artifacts import sha256_file
from tests.support.ports import free_port
from tests.support.stage2_servers import Fake, classifier, served

PEER = Path(__file__).parent / "axon" / "wires" / "dendrite_peer.py"
OLD_SDK = os.environ.get("BITTENSOR9_PYTHON", "")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT_S = 240.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def offline_settings(home: Path, port: int) -> dict[str, object]:
    """Settings of a miner on the offline chain, which it reads every second."""
    return {
        "store": home / "store",
        "state": home / "state",
        "wallet.name": "miner",
        "wallet.path": home,
        "chain.kind": "offline",
        "chain.snapshot": home / "chain.json",
        "chain.refresh_s": 1,
        "chain.publish_endpoint": "false",
        "axon.host": "127.0.0.1",
        "axon.port": port,
        "log.json_lines": "true",
        "admin.port": 0,
    }


@dataclass
class Miner:
    """A running `cascade mine`."""

    process: subprocess.Popen[bytes]
    home: Path
    port: int
    hotkey: str
    store: Store

    def settings(self) -> dict[str, object]:
        """Those of the miner, with the port of the administrator's endpoint."""
        [listening] = [event for event in self.events("listening") if event["server"] == "admin"]
        return offline_settings(self.home, self.port) | {"admin.port": listening["port"]}

    def events(self, name: str) -> list[dict[str, Any]]:
        # The last line may be written just now.
        lines = (self.home / "log").read_text().rpartition("\n")[0].splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in events if event.get("event") == name]

    def saw(self, name: str, **fields: object) -> bool:
        assert self.process.poll() is None, (self.home / "log").read_text()
        return any(fields.items() <= event.items() for event in self.events(name))

    def admin(self, path: str, accept: str = "") -> tuple[int, str, str]:
        """Status, content type and body of what the administrator's endpoint says."""
        [listening] = [event for event in self.events("listening") if event["server"] == "admin"]
        connection = http.client.HTTPConnection("127.0.0.1", listening["port"], timeout=LIMIT_S)
        connection.request("GET", path, headers={"accept": accept})
        reply = connection.getresponse()
        told = reply.status, reply.headers["content-type"], reply.read().decode()
        connection.close()
        return told

    def post(self, headers: dict[str, str], body: bytes, route: str = "/ImageSynapse") -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        connection.request("POST", route, body, headers | {"Content-Type": "application/json"})
        reply = connection.getresponse()
        content = json.loads(reply.read())
        connection.close()
        return reply.status, content

    def ask(self, *images: Path, wallet: str = "validator", python: str = sys.executable) -> list[dict[str, Any]]:
        """What a real dendrite gets for these images, in their order."""
        command = [python, str(PEER), "--port", str(self.port), "--axon-hotkey", self.hotkey]
        command += ["--wallet-path", str(self.home), "--wallet-name", wallet, "--wallet-hotkey", "default"]
        done = subprocess.run([*command, *map(str, images)], stdout=subprocess.PIPE, check=True, timeout=LIMIT_S)
        records = {record["image"]: record for record in map(json.loads, done.stdout.splitlines())}
        return [records[str(image)] for image in images]


def picture(path: Path, colour: tuple[int, int, int]) -> Path:
    Image.new("RGB", (32, 32), colour).save(path, "JPEG", quality=75)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Wallets of a miner, a validator and a stranger, and a chain that knows the first two."""
    addresses = {}
    for name in ("miner", "validator", "stranger"):
        wallet = Wallet(name=name, hotkey="default", path=str(tmp_path))
        wallet.create_new_coldkey(use_password=False, overwrite=True, suppress=True)
        wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
        # Where a miner runs it has no business.
        (tmp_path / name / "coldkey").unlink()
        addresses[name] = wallet.hotkey.ss58_address
    neurons = {
        addresses["miner"]: Neuron(uid=0),
        addresses["validator"]: Neuron(uid=1, validator_permit=True, stake=1e5),
    }
    ChainFile(neurons=neurons).write(tmp_path / "chain.json")
    (tmp_path / "address").write_text(addresses["miner"])
    return tmp_path


@contextmanager
def started(
    home: Path, port: int, words: list[str], program: tuple[str, ...] = ("-m", "miner.cli", "mine")
) -> Iterator[Miner]:
    """`cascade mine` with these words, from when it is ready."""
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *program, *words], stderr=log, cwd=home)
    miner = Miner(process, home, port, (home / "address").read_text(), Store(home / "store"))
    try:
        until(lambda: miner.saw("ready"))
        yield miner
    finally:
        process.kill()
        process.wait()


@contextmanager
def running(home: Path, **changes: object) -> Iterator[Miner]:
    """`cascade mine` with the store, the wallets and the chain of `home`, once it is ready."""
    port = free_port()
    published = {"chain.publish_endpoint": "true", "chain.external_ip": "192.0.2.7"}
    settings = offline_settings(home, port) | published | changes
    flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]
    with started(home, port, flags) as miner:
        yield miner


@pytest.fixture
def stocked(home: Path, bundle_files: Path, provenance: Provenance) -> Path:
    """`home` with a live bundle."""
    store = Store(home / "store")
    store.activate(store.publish(bundle_files, provenance), now=NOW)
    return home


@pytest.fixture
def miner(stocked: Path) -> Iterator[Miner]:
    with running(stocked) as started:
        yield started


@pytest.fixture(params=[sys.executable, pytest.param(OLD_SDK, marks=pytest.mark.interop)], ids=["10.5", "9.9"])
def python(request: pytest.FixtureRequest) -> str:
    """The interpreter whose bittensor asks."""
    if not request.param:
        pytest.skip("BITTENSOR9_PYTHON does not name an interpreter with bittensor 9.9")
    return str(request.param)


def test_a_validators_dendrite_is_answered_and_others_are_refused(miner: Miner, python: str) -> None:
    roadwork = picture(miner.home / "roadwork.jpg", (255, 255, 0))
    road = picture(miner.home / "road.jpg", (0, 255, 255))
    text = miner.home / "text.txt"
    text.write_text("this is no image")
    first, second, third = miner.ask(roadwork, road, text, python=python)
    assert [record["status_code"] for record in (first, second, third)] == [200, 200, 200]
    assert first["prediction"] > 0.5 > second["prediction"] >= 0
    assert third["prediction"] == -1.0
    [stranger] = miner.ask(roadwork, wallet="stranger", python=python)
    assert (stranger["status_code"], stranger["prediction"]) == (403, -1.0)
    assert [record.result for record in read_journal(miner.home / "state")].count("answered") == 2


def test_it_answers_where_it_is_started_as_the_reference_miner_is(
    home: Path, bundle_files: Path, provenance: Provenance
) -> None:
    store, port = Store(home / "store"), free_port()
    store.activate(store.publish(bundle_files, provenance), now=NOW)
    # No chain can be reached from here; the rest is what the reference miner has.
    chain = f"chain.kind = 'offline'\nchain.snapshot = '{home / 'chain.json'}'\naxon.host = '127.0.0.1'\n"
    chain += "log.json_lines = true\n"
    (home / "cascade.toml").write_text(f"store = '{store.root}'\nstate = '{home / 'state'}'\n{chain}")
    (home / "miner.env").write_text(
        f"IMAGE_DETECTOR=ViT   # Options: ROADWORK, ViT\nNETUID=323\nSUBTENSOR_NETWORK=test\nWALLET_NAME=miner\n"
        f"WALLET_HOTKEY=default\nMINER_AXON_PORT={port}\nBLACKLIST_FORCE_VALIDATOR_PERMIT=False\nMODEL_URL=\n"
    )
    words = ["--env-file", "miner.env", "--wallet.path", str(home), "--model_url", "--logging.debug"]
    with started(home, port, words) as miner:
        roadwork = picture(home / "roadwork.jpg", (255, 255, 0))
        [answer] = miner.ask(roadwork)
        assert answer["status_code"] == 200
        assert answer["prediction"] > 0.5
        assert miner.ask(roadwork, wallet="stranger")[0]["status_code"] == 403
        told = {event["name"]: event["consequence"] for event in miner.events("reference_miner_setting")}
    assert "no effect" in told["IMAGE_DETECTOR"]
    assert "a validator permit is required" in told["BLACKLIST_FORCE_VALIDATOR_PERMIT"]


def test_abuse_is_refused_as_documented_and_the_miner_keeps_answering(miner: Miner) -> None:
    address = Wallet(name="validator", hotkey="default", path=str(miner.home)).hotkey.ss58_address
    unsigned = {"name": "ImageSynapse", "timeout": "9.0", "bt_header_dendrite_hotkey": address}
    status, reply = miner.post(unsigned, b'{"image": ""}')
    assert status == 401
    assert "message" in reply
    status, _ = miner.post(unsigned, b"x" * 50_000_000)
    assert status == 413
    status, reply = miner.post(unsigned, b"{}", route="/OtherSynapse")
    assert status == 404
    assert "ImageSynapse" in reply["message"]
    [record] = miner.ask(picture(miner.home / "road.jpg", (0, 255, 255)))
    assert record["status_code"] == 200


def test_a_running_miner_follows_the_store(
    miner: Miner, tiny_engine: Path, write_bundle_files: Callable[..., Path], provenance: Provenance
) -> None:
    files = write_bundle_files(miner.home / "second", engine=tiny_engine, note="second night")
    second = miner.store.publish(files, provenance)
    first = miner.store.activate(second, now=NOW).previous
    until(lambda: miner.saw("bundle_live", bundle=second, generation=2, replaced=first))
    road = picture(miner.home / "road.jpg", (0, 255, 255))
    miner.ask(road)
    miner.store.rollback(now=NOW)
    until(lambda: miner.saw("bundle_live", bundle=first, generation=3))
    miner.ask(road)
    assert [record.generation for record in read_journal(miner.home / "state")] == [2, 3]


def test_a_damaged_bundle_is_refused_and_the_live_one_stays(
    miner: Miner, tiny_engine: Path, write_bundle_files: Callable[..., Path], provenance: Provenance
) -> None:
    files = write_bundle_files(miner.home / "second", engine=tiny_engine, note="second night")
    second = miner.store.publish(files, provenance)
    miner.store.activate(second, now=NOW)
    until(lambda: miner.saw("bundle_live", bundle=second))
    current = miner.store.current()
    assert current is not None
    files = write_bundle_files(miner.home / "third", engine=tiny_engine, note="third night")
    damaged = miner.store.path(miner.store.publish(files, provenance))
    manifest = (damaged / MANIFEST).read_bytes()
    (damaged / "metrics.csv").write_text("changed after it was published")
    # Activation itself checks; a pointer that moves all the same is what a crash or a careless hand would leave.
    pointer = current.model_copy(update={"bundle": damaged.name, "sequence": current.sequence + 1})
    pointer.write(miner.store.pointer_path)
    until(lambda: bool(miner.events("bundle_refused")))
    assert "metrics.csv is changed" in miner.events("bundle_refused")[0]["reason"]
    assert manifest == (damaged / MANIFEST).read_bytes()
    [record] = miner.ask(picture(miner.home / "road.jpg", (0, 255, 255)))
    assert record["status_code"] == 200
    assert [r.bundle for r in read_journal(miner.home / "state")] == [second]


def test_the_address_of_the_axon_is_published(miner: Miner) -> None:
    address = f"192.0.2.7:{miner.port}"
    until(lambda: miner.saw("announced", hotkey=miner.hotkey, address=address))


def test_a_miner_starts_with_those_of_its_hotkeys_that_are_registered() -> None:
    chain = OfflineChain({"5Ours": Neuron(uid=3)})
    assert asyncio.run(first_snapshot(chain, ["5Gone", "5Ours"])).neuron("5Ours").uid == 3
    with pytest.raises(NotRegistered, match="5Gone"):
        asyncio.run(first_snapshot(chain, ["5Gone"]))


def test_two_miners_do_not_share_a_state_directory(miner: Miner) -> None:
    """Two journals in one file would tear each other's lines."""
    offline = {"chain.kind": "offline", "chain.snapshot": miner.home / "chain.json", "chain.publish_endpoint": "false"}
    done = mine(miner.home, **offline, **{"axon.port": 0, "axon.host": "127.0.0.1", "state": miner.home / "state"})
    assert done.returncode == 4
    assert "another miner uses this directory" in " ".join(done.stderr.split())
    assert miner.process.poll() is None


def test_sigterm_ends_the_miner_with_status_0_and_frees_the_port(miner: Miner) -> None:
    miner.process.send_signal(signal.SIGTERM)
    assert miner.process.wait(LIMIT_S) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", miner.port)) != 0


HANGING = """
import sys, threading
from engines.live.load.background_loader import BundleLoader
from miner.answering.journal import JournalFile
from miner.cli.main import app

async def close(self):
    import asyncio
    await asyncio.to_thread(threading.Event().wait)

BundleLoader.close = close
JournalFile.close = lambda self: threading.Event().wait()
app(["mine", *sys.argv[1:]])
"""


def test_a_stop_is_as_long_as_told_also_where_what_is_closed_never_comes_back(stocked: Path) -> None:
    """A disk that hangs, or native code that does: only for those who were let in it is waited."""
    port = free_port()
    flags = [flag for key, value in offline_settings(stocked, port).items() for flag in ("--set", f"{key}={value}")]
    with started(stocked, port, flags, ("-c", HANGING)) as miner:
        miner.process.send_signal(signal.SIGTERM)
        assert miner.process.wait(LIMIT_S) == 0
        (told,) = miner.events("stop_cut_short")
        assert any("disk" in name or "asyncio" in name for name in told["threads"])


def test_a_stop_while_stage2_is_silent_is_quick_and_blames_nobody(stocked: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        servers = json.dumps([{"kind": "kserve", "name": "mute", "url": url, "model": "roadwork"}])
        with running(stocked, **{"stage2.servers": servers}) as miner:
            asked, _ = silent.accept()
            with asked:
                assert asked.recv(8) == b"GET /v2/"
                miner.process.send_signal(signal.SIGTERM)
                assert miner.process.wait(LIMIT_S) == 0
            assert not miner.events("stage2_server_fails")


def stage2_says(probability: float, **more: Any) -> Fake:
    return Fake(classifier(lambda _: {"probability": np.array([probability], np.float32)}), only="/infer", **more)


def stage2_table(**servers: Fake) -> str:
    """Settings of these servers, in their order, each for one image at a time."""
    table = '[[stage2.servers]]\nkind = "kserve"\nname = "{}"\nurl = "{}"\nmodel = "roadwork"\nconnections = 1\n'
    return "".join(table.format(name, server.url) for name, server in servers.items())


def infers(server: Fake) -> int:
    """How often it was asked about one of its images; a miner asks about some of its own."""
    return sum(any(image in asked.body for image in server.images) for asked in server.asked)


def test_sighup_changes_the_stage2_servers_and_a_stop_answers_what_is_under_way(stocked: Path) -> None:
    images = [stocked / f"{side}.jpg" for side in (32, 40, 48)]
    for image in images:
        # Of neither class, and each with bytes of its own.
        Image.new("RGB", (int(image.stem), 32), (0, 255, 0)).save(image, "JPEG", quality=75)
    ours = tuple(image.read_bytes() for image in images)
    first = stage2_says(0.9)
    slow, hung = stage2_says(0.2, before_s=1.5, images=ours), stage2_says(0.4, before_s=60.0, images=ours)
    with served(first, slow, hung), ThreadPoolExecutor() as pool:
        file = stocked / "cascade.toml"
        file.write_text(stage2_table(first=first))
        with running(stocked, **{"requests.deadline_s": 4}) as miner:
            assert miner.ask(images[0])[0]["prediction"] == pytest.approx(0.9)
            file.write_text(stage2_table(slow=slow, hung=hung) + "[stage2]\nbudget = {calls = 100}\n")
            miner.process.send_signal(signal.SIGHUP)
            until(lambda: miner.saw("settings_taken", sections=["stage2"]))
            asking = [pool.submit(miner.ask, image) for image in images[1:]]
            until(lambda: infers(slow) == infers(hung) == 1)
            miner.process.send_signal(signal.SIGTERM)
            answers = {reply["image"]: reply for [reply] in (asked.result() for asked in asking)}
            assert miner.process.wait(LIMIT_S) == 0
    records = {record.image_sha256: record for record in read_journal(stocked / "state")}
    before, *during = (records[sha256_file(image)] for image in images)
    assert before.stage2_server == "first"
    [early] = [record for record in during if record.degraded is None]
    [late] = [record for record in during if record.degraded is not None]
    assert early.stage2_server == "slow"
    assert early.answer == pytest.approx(0.2)
    assert late.degraded == "stage2_timeout"
    assert late.stage2_reason
    assert late.answer == late.stage1_probability
    assert {reply["status_code"] for reply in answers.values()} == {200}
    assert {reply["prediction"] for reply in answers.values()} == {early.answer, late.answer}


def test_a_miner_that_is_told_again_and_again_to_end_does_so_with_status_0(miner: Miner) -> None:
    while miner.process.poll() is None:
        miner.process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    assert miner.process.returncode == 0


def test_a_miner_that_fails_does_not_wait_for_native_work_that_hangs(tmp_path: Path) -> None:
    hangs = "import threading; threading.Thread(target=threading.Event().wait, name='stage1_0').start()"
    words = ["mine", "--set", f"wallet.path={tmp_path}", "--set", "chain.publish_endpoint=false"]
    code = f"{hangs}; from miner.cli.main import app; app({words!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, cwd=tmp_path, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "there is no such hotkey" in " ".join(done.stderr.split())


@pytest.mark.parametrize(("deadline_s", "grace_s"), [(3.0, 7.0), (8.5, 8.5)])
def test_a_stop_waits_as_long_as_an_answer_may_take(deadline_s: float, grace_s: float) -> None:
    class Server:
        async def stop(self, grace_s: float) -> None:
            graces.append(grace_s)

    graces: list[float] = []
    identity: Any = SimpleNamespace(server=Server(), app=SimpleNamespace(deadline_s=deadline_s))
    asyncio.run(_drained(identity))
    assert graces == [grace_s]


def test_sigterm_ends_a_start_that_waits_for_a_mute_chain(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, (home / "log").open("wb") as log:
        mute.settimeout(LIMIT_S)
        settings = {
            "wallet.name": "miner",
            "wallet.path": home,
            "state": home / "state",
            "chain.endpoint": f"ws://127.0.0.1:{mute.getsockname()[1]}",
            "chain.deadline_s": 3 * LIMIT_S,
            "chain.publish_endpoint": "false",
        }
        flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]
        process = subprocess.Popen([sys.executable, "-m", "miner.cli", "mine", *flags], stderr=log, cwd=home)
        try:
            with mute.accept()[0] as asked:
                asked.settimeout(LIMIT_S)
                process.send_signal(signal.SIGTERM)
                assert process.wait(LIMIT_S) == 0
                # The process that asks the chain has ended as well.
                while asked.recv(1024):
                    pass
        finally:
            process.kill()
            process.wait()
    assert "stopped_before_ready" in (home / "log").read_text()


def hotkey_of(home: Path, name: str) -> str:
    wallet = Wallet(name="miner", hotkey=name, path=str(home))
    wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
    return str(wallet.hotkey.ss58_address)


def test_several_hotkeys_share_one_cascade_and_one_that_is_gone_stops_nobody(stocked: Path) -> None:
    chain = ChainFile.read(stocked / "chain.json")
    first, second = (stocked / "address").read_text(), hotkey_of(stocked, "second")
    gone = hotkey_of(stocked, "gone")
    chain.model_copy(update={"neurons": {**chain.neurons, second: Neuron(uid=2)}}).write(stocked / "chain.json")
    ports = [free_port() for _ in range(3)]
    names = zip(("default", "second", "gone"), ports, strict=True)
    entries = [{"hotkey": name, "port": port} for name, port in names]
    road = picture(stocked / "road.jpg", (0, 255, 255))
    with running(stocked, hotkeys=json.dumps(entries), **{"admin.port": (admin := free_port())}) as miner:
        until(lambda: len(miner.events("ready")) == 3)
        # With the first look at the subnet, and again with every other one.
        until(lambda: {event["hotkey"] for event in miner.events("not_registered")} == {gone})
        for hotkey, port in zip((first, second), ports, strict=False):
            [record] = replace(miner, hotkey=hotkey, port=port).ask(road)
            assert record["status_code"] == 200
        # A request for one is no request for another.
        [record] = replace(miner, hotkey=first, port=ports[1]).ask(road)
        assert record["status_code"] == 401
        with urlopen(f"http://127.0.0.1:{admin}/status", timeout=LIMIT_S) as reply:
            status = json.load(reply)
        assert status["chain"]["registered"] == {first: True, second: True, gone: False}
        assert status["replies"] == {first: {"200": 1}, second: {"200": 1, "401": 1}}
        assert [record.receiver for record in read_journal(stocked / "state")] == [first, second]
        miner.process.send_signal(signal.SIGTERM)
        assert miner.process.wait(LIMIT_S) == 0


def test_sighup_reads_the_settings_again(stocked: Path) -> None:
    file = stocked / "cascade.toml"
    road = picture(stocked / "road.jpg", (0, 255, 255))
    with running(stocked, **{"chain.refresh_s": 3600}) as miner:
        assert [record["status_code"] for record in miner.ask(road)] == [200]
        file.write_text("[access]\nmin_stake = 1e6\n\n[engine]\nworkers = 7\n")
        miner.process.send_signal(signal.SIGHUP)
        until(lambda: miner.saw("settings_taken", sections=["access"]))
        until(lambda: miner.saw("settings_need_restart", sections=["engine"]))
        # At once, and not with the next reading of the chain.
        assert miner.saw("no_validator_admitted", consequence="every request is refused")
        assert [record["status_code"] for record in miner.ask(road)] == [403]
        file.write_text("[access")
        miner.process.send_signal(signal.SIGHUP)
        until(lambda: miner.saw("settings_not_read"))
        file.write_text("")
        miner.process.send_signal(signal.SIGHUP)
        until(lambda: len(miner.events("settings_taken")) == 2)
        assert [record["status_code"] for record in miner.ask(road)] == [200]
        file.write_text(
            "[harvest]\nenabled = true\nrandom_share = 1\n[live_risk]\nreaction = 'observe'\n"
            "[alerts]\nurl_env = 'NOBODY_SET_IT'\n"
        )
        miner.process.send_signal(signal.SIGHUP)
        until(lambda: miner.saw("settings_taken", sections=["live_risk", "harvest"]))
        assert "the variable NOBODY_SET_IT" in str(miner.events("settings_not_taken"))
        miner.ask(road)
        until(lambda: any((stocked / "state" / "harvest" / "images").glob("*/*.jpg")))


def test_a_running_miner_is_ready_and_measures_what_it_answers(miner: Miner) -> None:
    road = picture(miner.home / "road.jpg", (0, 255, 255))
    text = miner.home / "text.txt"
    text.write_text("this is no image")
    miner.ask(road, text)
    miner.ask(road, wallet="stranger")
    assert json.loads(miner.admin("/healthz")[2]) == {"alive": True, "state": str(miner.home / "state")}
    code, _, body = miner.admin("/readyz")
    assert (code, [each["holds"] for each in json.loads(body)["conditions"]]) == (200, [True] * 6), body
    replies = json.loads(miner.admin("/status.json")[2])["replies"]
    assert replies == {miner.hotkey: {"200": 2, "403": 1}}
    for accept, parse in (("text/plain", text_families), ("application/openmetrics-text", openmetrics_families)):
        code, kind, body = miner.admin("/metrics", accept)
        assert (code, kind.partition(";")[0]) == (200, accept)
        samples = {
            (s.name, *map(s.labels.get, sorted(s.labels))): s.value for family in parse(body) for s in family.samples
        }
        assert samples["cascade_requests_total", miner.hotkey, "200"] == 2
        assert samples["cascade_requests_total", miner.hotkey, "403"] == 1
        assert samples["cascade_answers_total", "", "", "not_an_image", ""] == 1
        assert samples["cascade_request_duration_seconds_count", miner.hotkey] == 2
        assert samples["cascade_batch_size_count",] == 1
        assert samples["cascade_hotkey_registered", miner.hotkey] == 1
        assert samples["cascade_refusals_total", "not_permitted"] == 1
        assert samples["process_open_fds",] > 0
        validator = Wallet(name="validator", hotkey="default", path=str(miner.home)).hotkey.ss58_address
        # Whoever asks would be a label without end.
        assert miner.hotkey in body
        assert validator not in body


def test_the_doctor_asks_the_running_miner_whether_it_is_ready(miner: Miner, home: Path) -> None:
    def examined(**changes: object) -> dict[str, tuple[str, str]]:
        asked = load_settings(None, miner.settings() | changes)
        return {found.check: (found.verdict, found.detail) for found in where(asked)}

    assert examined() == {
        "state": ("ok", f"{home / 'state'}: a miner uses it"),
        "port": ("ok", f"{miner.port}: the miner's"),
        "ready": ("ok", "it says so itself"),
    }
    verdict, detail = examined(**{"axon.port": free_port()})["port"]
    assert (verdict, f"the miner listens on {miner.port}" in detail) == ("warning", True)
    verdict, detail = examined(**{"admin.port": free_port()})["ready"]
    assert (verdict, "another admin.port" in detail) == ("warning", True)
    # Another miner, on ports that this one has.
    found = examined(state=home / "other state")
    assert {check: verdict for check, (verdict, _) in found.items()} == {
        "state": "ok",
        "port": "error",
        "admin": "error",
    }
    ChainFile(neurons={}).write(home / "chain.json")
    current = miner.store.current()
    assert current is not None
    ChainFile(neurons={"5Other": Neuron(uid=0)}).write(home / "chain.json")
    until(lambda: not all(each["holds"] for each in json.loads(miner.admin("/readyz")[2])["conditions"]))
    verdict, detail = examined()["ready"]
    assert (verdict, detail) == ("error", "registered: 0 of 1 hotkeys are on the subnet")
    assert miner.admin("/readyz")[0] == 503


def test_what_the_doctor_finds_stands_alone_on_standard_output(stocked: Path) -> None:
    settings = offline_settings(stocked, 0) | {"chain.kind": "bittensor"}
    settings["chain.endpoint"] = f"ws://127.0.0.1:{free_port()}"
    flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "miner.cli", "doctor", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, cwd=stocked, check=False)
    assert done.returncode == 1
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok", "warning", "error"}
    assert "chain_endpoint_failed" in done.stderr


def mine(home: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run `cascade mine` until it gives up."""
    settings = {
        "store": home / "store",
        "state": home / "state",
        "wallet.path": home,
        "wallet.name": "miner",
    } | settings
    flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "miner.cli", "mine", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, cwd=home, check=False)


BROKEN: dict[str, tuple[dict[str, object], str]] = {
    "address": ({"chain.publish_endpoint": "true"}, "endpoint"),
    "state": ({"state": "chain.json/state"}, "state"),
    "stage2": ({"stage2.engine": "none"}, "stage2"),
    "night": ({"retrain.data": ".", "retrain.preset": "tiny", "night.train_supervised.epoch": 3}, "night"),
    "night without data": ({"night.train_supervised.epochs": 3}, "night"),
    "wallet": ({"wallet.hotkey": "none"}, "hotkey"),
    "stranger": ({"wallet.name": "stranger"}, "registered"),
    "chain": ({"chain.snapshot": "none.json"}, "chain"),
    "store": ({"store": "none"}, "bundle"),
    "host": ({"axon.host": "192.0.2.1"}, "port"),
}


@pytest.mark.parametrize(("changes", "check"), BROKEN.values(), ids=BROKEN)
def test_where_mine_does_not_start_the_doctor_is_not_green(
    home: Path,
    bundle_files: Path,
    provenance: Provenance,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    check: str,
) -> None:
    monkeypatch.chdir(home)
    store = Store(home / "store")
    store.activate(store.publish(bundle_files, provenance), now=NOW)
    settings = offline_settings(home, 0)
    sound = {found.check for found in asyncio.run(examine(load_settings(None, settings))) if found.failed}
    assert not sound
    done = mine(home, **settings | changes)
    assert done.returncode in {2, 3, 4}, done.stderr
    failed = {found.check for found in asyncio.run(examine(load_settings(None, settings | changes))) if found.failed}
    assert check in failed


def test_without_a_reachable_chain_it_says_so_and_ends_within_its_deadline(home: Path) -> None:
    endpoint = f"ws://127.0.0.1:{free_port()}"
    started = time.monotonic()
    done = mine(home, **{"chain.endpoint": endpoint, "chain.deadline_s": 15, "chain.publish_endpoint": "false"})
    assert done.returncode == 4
    assert endpoint in done.stderr.replace("\n", "")
    assert time.monotonic() - started < 15 + LIMIT_S / 2


def test_an_unregistered_hotkey_cannot_mine(home: Path) -> None:
    offline = {"chain.kind": "offline", "chain.snapshot": home / "chain.json", "chain.publish_endpoint": "false"}
    done = mine(home, **offline, **{"wallet.name": "stranger"})
    assert done.returncode == 4
    assert "register" in done.stderr


def test_without_a_bundle_it_names_the_command_that_makes_one(home: Path) -> None:
    offline = {"chain.kind": "offline", "chain.snapshot": home / "chain.json", "chain.publish_endpoint": "false"}
    done = mine(home, **offline)
    assert done.returncode == 4
    assert "cascade retrain" in done.stderr


def test_a_taken_port_is_named(home: Path, bundle_files: Path, provenance: Provenance) -> None:
    store = Store(home / "store")
    store.activate(store.publish(bundle_files, provenance), now=NOW)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        offline = {"chain.kind": "offline", "chain.snapshot": home / "chain.json", "chain.publish_endpoint": "false"}
        done = mine(home, **offline, **{"axon.port": port, "axon.host": "127.0.0.1"})
    assert done.returncode == 4
    assert str(port) in done.stderr


def test_a_night_that_could_not_run_keeps_the_miner_from_starting(
    home: Path, bundle_files: Path, provenance: Provenance
) -> None:
    store = Store(home / "store")
    store.activate(store.publish(bundle_files, provenance), now=NOW)
    (home / "cascade.toml").write_text(
        f'[retrain]\ndata = "{home}"\npreset = "tiny"\n\n[night.train_supervised]\nepoch = 20\n'
    )
    offline = {"chain.kind": "offline", "chain.snapshot": home / "chain.json", "chain.publish_endpoint": "false"}
    done = mine(home, **offline, **{"axon.port": 0, "axon.host": "127.0.0.1"})
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "the nightly job could not run with these settings ([retrain], [night]): train_supervised" in said
    assert "train_supervised.epoch: Extra inputs are not permitted" in said


@pytest.mark.parametrize(("error", "told"), [(RuntimeError("a fault"), 1), (StoreError("no store"), 0)])
def test_a_task_that_ends_by_a_fault_of_the_program_is_in_the_log_once(error: Exception, told: int) -> None:
    class Follower:
        async def run(self, _: asyncio.Event) -> None:
            raise error

    async def serve() -> None:
        class Watch:
            async def run(self) -> None:
                await asyncio.Event().wait()

        follower: Any = Follower()
        watch: Any = Watch()
        load: Any = Watch()
        await _serve(watch, [], follower, load, asyncio.Event())

    with capture_logs() as logs, pytest.raises(StartError, match="'follow the store' ended") as caught:
        asyncio.run(serve())
    assert caught.value.__cause__ is error
    assert [(entry["event"], entry["exc_info"]) for entry in logs] == [("task_ended", error)] * told
