"""`cascade simulate` as a process of its own: it starts a miner or asks one, with the real dendrite."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from engines.store.bundle import Provenance
from engines.store.store import Store
from miner.answering.journal import FILE
from miner.cli.main import app
from miner.cli.simulate import simulated, status_of
from miner.errors import StartError
from miner.settings import load_settings
from miner.simulation.endings import Ending
from miner.simulation.keys import throw_away_key, write_chain
from miner.simulation.processes import MinerProcess
from miner.simulation.result import SimulationResult
from miner.simulation.run import SimulationSettings, simulate
from miner.simulation.settings_file import write_settings
from stage1.errors import SettingsError
from tests.support.axon_peer import axon_peer
from tests.support.red_and_blue import red_and_blue
from tests.support.reward_oracle import rewards_of, score_of

LIMIT_S = 400.0
COLUMNS = "80"


@pytest.fixture
def home(tmp_path: Path, bundle_files: Path, provenance: Provenance) -> Path:
    """Settings with a bundle of the engine that sees red, and pictures in `roads` that it is right about."""
    store = Store(tmp_path / "engines")
    store.activate(store.publish(bundle_files, provenance), now=datetime(2026, 1, 1, tzinfo=UTC))
    write_settings(tmp_path / "cascade.toml", {"store": "engines", "state": "state"})
    roads = tmp_path / "roads"
    roads.mkdir()
    rows = red_and_blue(roads, 40, clear=True).rows
    lines = ["image,label,group", *(f"{row.image},{row.label},{row.group}" for row in rows)]
    (roads / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def key(home: Path) -> str:
    """An address for a miner that checks no signatures."""
    return throw_away_key(home / "keys", "miner")


def settings_of(home: Path, **changes: Any) -> SimulationSettings:
    asked = SimulationSettings(
        data=home / "roads",
        stream="challenges-2026-05",
        requests=12,
        seed=0,
        concurrency=1,
        per_s=1000.0,
        timeout_s=60.0,
        unseen=False,
    )
    return replace(asked, **changes)


def ask(
    home: Path, port: int, address: str | None, *, store: str = "engines", state: str = "state", **changes: Any
) -> SimulationResult:
    """In this process, a miner at a port of this machine."""
    asked = settings_of(home, **({"url": f"127.0.0.1:{port}", "hotkey": address} | changes))
    settings = load_settings(home / "cascade.toml", {"store": home / store, "state": home / state})
    return simulate(asked, settings, Console(file=io.StringIO()))


def begin(home: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "miner.cli", "simulate", "roads", "--json", "result.json", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CASCADE_")}
    environment |= {"COLUMNS": COLUMNS, "PYTHONPATH": str(Path(__file__).parents[3])}
    # What is left there, on purpose or by a kill, goes with the rest of the test.
    environment["TMPDIR"] = str(home.parent)
    return subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def check(result: SimulationResult) -> None:
    """What it says is paid is what a validator pays for the answers that it lists."""
    labels = [row.label for row in result.requests]
    answers = [-1.0 if row.prediction is None else row.prediction for row in result.requests]
    rewards = rewards_of(labels, answers)
    assert [row.reward for row in result.requests] == pytest.approx(rewards, abs=1e-12)
    assert result.paid.mean == pytest.approx(sum(rewards) / len(rewards), abs=1e-12)
    assert result.paid.last == pytest.approx(rewards[-1], abs=1e-12)
    assert result.paid.score == pytest.approx(score_of(labels, answers), abs=1e-12)


def test_the_miner_of_the_settings_is_started_asked_and_stopped(home: Path) -> None:
    child = begin(home, "--requests", "30", "--rate", "1000", "--concurrency", "4")
    told, errors = child.communicate(timeout=LIMIT_S)
    assert child.returncode == 0, errors
    result = SimulationResult.read(home / "result.json")
    check(result)
    assert result.failed == 0
    assert result.accuracy == 1
    assert result.paid == result.most
    assert len(result.requests) == 30
    assert {row.ending for row in result.requests} <= {Ending.STAGE1, Ending.NO_STAGE2}
    assert result.bundles == (next(iter(Store(home / "engines").bundles())).manifest.bundle_id,)
    assert f"{result.paid.mean:.3f} on average" in told
    assert "Stage-1 exit" in told
    assert max(map(len, told.splitlines())) <= int(COLUMNS)
    assert "ask: done" in errors
    # Neither the journal nor the keys of the settings were touched.
    assert sorted(path.name for path in home.iterdir()) == ["cascade.toml", "engines", "result.json", "roads"]


def test_of_several_hotkeys_the_simulated_miner_has_none(home: Path) -> None:
    """Keys of a person have no part in it."""
    write_settings(home / "cascade.toml", {"store": "engines", "state": "state", "hotkeys": ["one", "two"]})
    child = begin(home, "--requests", "2")
    _, errors = child.communicate(timeout=LIMIT_S)
    assert child.returncode == 0, errors


def test_the_seed_decides_what_is_asked_and_done_to_it(home: Path, key: str) -> None:
    drawn = []
    for seed in (1, 1, 2):
        with axon_peer(lambda _: (200, '{"prediction": 0.25}')) as peer:
            result = ask(home, peer.port, key, seed=seed, requests=6, stream="challenges-2026-01")
            drawn.append([row.sha256 for row in result.requests])
    assert drawn[0] == drawn[1] != drawn[2]
    assert status_of(result, None) == 0
    assert status_of(result, 0.99) == 1


@pytest.fixture
def running(home: Path) -> Iterator[Callable[..., tuple[MinerProcess, str, str]]]:
    """Starts a miner that admits the key in `validator`, or not; gives it, its address and that key."""
    begun: list[MinerProcess] = []

    def start(*, admitted: bool = True) -> tuple[MinerProcess, str, str]:
        ours, theirs = throw_away_key(home / "keys", "miner"), throw_away_key(home / "validator", "validator")
        write_chain(home / "chain.json", miner=ours, validator=throw_away_key(home / "other", "validator"))
        settings = {
            "store": home / "engines",
            "state": home / "state",
            "wallet.name": "miner",
            "wallet.path": home / "keys",
            "chain.kind": "offline",
            "chain.snapshot": home / "chain.json",
            "chain.publish_endpoint": False,
            "axon.host": "127.0.0.1",
            "axon.port": 0,
            "access.extra_hotkeys": [theirs] if admitted else [],
        }
        write_settings(home / "miner.toml", settings)
        miner = MinerProcess(home / "miner.toml", home / "miner.log")
        begun.append(miner)
        miner.wait_until_ready()
        return miner, ours, theirs

    yield start
    for miner in begun:
        miner.__exit__()


def test_a_running_miner_is_asked_and_its_journal_says_who_answered(
    home: Path, running: Callable[..., tuple[MinerProcess, str, str]]
) -> None:
    miner, address, _ = running()
    for seed in range(2):
        result = ask(home, miner.port, address, seed=seed, keys=home / "validator")
        check(result)
        assert result.failed == 0
        assert Ending.UNKNOWN not in {row.ending for row in result.requests}
    # From elsewhere nobody sees the journal, and that is said.
    result = ask(home, miner.port, address, keys=home / "validator", state="elsewhere")
    assert {row.ending for row in result.requests} == {Ending.UNKNOWN}
    assert any("which stage answered is not known" in note for note in result.notes)
    assert miner.problem is None


def test_a_miner_that_does_not_know_the_validator_is_told_from_one_that_is_not_there(
    home: Path, running: Callable[..., tuple[MinerProcess, str, str]]
) -> None:
    miner, address, validator = running(admitted=False)
    with pytest.raises(StartError, match=f"status 403.*Let the miner admit {validator}"):
        ask(home, miner.port, address, keys=home / "validator")
    miner.__exit__()
    with pytest.raises(StartError, match="nothing listens there"):
        ask(home, miner.port, address)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hotkey": None}, "needs --hotkey"),
        ({"url": "https://127.0.0.1:1"}, "http://HOST:PORT"),
        ({"url": None}, "give its --miner too"),
        ({"unseen": True}, "--unseen needs a live bundle"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_started(home: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        ask(home, 1, "5F", **changes)


def test_without_a_bundle_it_is_said_how_to_come_by_one(home: Path) -> None:
    with pytest.raises(StartError, match="cascade demo"):
        ask(home, 1, None, url=None, store="none")


def test_a_result_needs_a_directory_that_exists(home: Path) -> None:
    with pytest.raises(SettingsError, match="in a directory that exists"):
        simulated(settings_of(home), load_settings(home / "cascade.toml"), home / "nowhere" / "result.json")


def test_what_was_found_is_shown_even_if_its_file_cannot_be_written(
    home: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    # Nor does a narrow terminal cut anything off.
    monkeypatch.setenv("COLUMNS", "40")
    (home / "out").mkdir()

    def without_a_place(_: int) -> tuple[int, str]:
        shutil.rmtree(home / "out", ignore_errors=True)
        return 200, '{"prediction": 0.25}'

    with axon_peer(without_a_place) as peer:
        words = ["roads", "--miner", f"127.0.0.1:{peer.port}", "--hotkey", key, "--requests", "2"]
        done = CliRunner().invoke(app, ["simulate", *words, "--json", "out/result.json"])
    assert done.exit_code == 1
    assert "on average" in done.stdout
    assert "reward if these were right" in done.stdout
    assert "…" not in done.stdout
    assert "out/" in done.stderr.splitlines()[-1]


def test_ctrl_c_ends_it_and_what_was_answered_counts(home: Path, key: str) -> None:
    asked = 0

    def half(number: int) -> tuple[int, str]:
        nonlocal asked
        asked = number + 1
        return 200, json.dumps({"prediction": 0.25})

    with axon_peer(half) as peer:
        url = f"127.0.0.1:{peer.port}"
        child = begin(home, "--miner", url, "--hotkey", key, "--requests", "100000", "--rate", "50")
        deadline = time.monotonic() + LIMIT_S
        while asked < 15:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        told, errors = child.communicate(timeout=LIMIT_S)
    assert child.returncode == 130, errors
    result = SimulationResult.read(home / "result.json")
    check(result)
    assert (result.stopped, result.asked_for) == ("interrupted", 100_000)
    assert 14 <= len(result.requests) <= asked
    assert "interrupted" in told


def children_of(process: int) -> dict[str, int]:
    """Process ids of its children by the word of the command line that says what they are."""
    found: dict[str, int] = {}
    for task in Path(f"/proc/{process}/task").iterdir():
        # A thread or a process may end while it is looked at.
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
                found |= {word: int(child) for word in words if word in {"mine", "miner.simulation.validator"}}
    return found


def has_ended(process: int) -> bool:
    """Also if nobody has asked how."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_miner_that_dies_ends_it_and_what_was_answered_counts(home: Path) -> None:
    child = begin(home, "--requests", "100000", "--rate", "50")
    until(lambda: "miner.simulation.validator" in children_of(child.pid))
    miner = children_of(child.pid)["mine"]
    words = Path(f"/proc/{miner}/cmdline").read_text().split("\0")
    journal = Path(words[words.index("--config") + 1]).parent / "state" / FILE
    until(lambda: len(journal.read_bytes().splitlines()) > 5)
    os.kill(miner, signal.SIGKILL)
    told, errors = child.communicate(timeout=LIMIT_S)
    assert child.returncode == 1, errors
    result = SimulationResult.read(home / "result.json")
    check(result)
    assert result.stopped.startswith("the miner ended with status -9")
    assert "the miner ended with status -9" in " ".join(told.split())


@pytest.mark.skipif(sys.platform != "linux", reason="children end with their parent on Linux alone")
def test_nothing_is_left_running_by_a_simulation_that_is_killed(home: Path, key: str) -> None:
    with axon_peer(lambda _: (200, '{"prediction": 0.25}')) as peer:
        child = begin(home, "--miner", f"127.0.0.1:{peer.port}", "--hotkey", key, "--requests", "100000")
        until(lambda: len(peer.images) > 2)
        [validator] = children_of(child.pid).values()
        child.kill()
        child.communicate(timeout=LIMIT_S)
        until(lambda: has_ended(validator))


REPLIES: list[tuple[tuple[int, str] | None, Ending]] = [
    ((200, '{"prediction": 0.9}'), Ending.UNKNOWN),
    ((200, '{"prediction": -1.0}'), Ending.REFUSED),
    ((200, '{"prediction": NaN}'), Ending.INVALID),
    ((200, '{"prediction": 1.25}'), Ending.INVALID),
    ((200, "{}"), Ending.REFUSED),
    ((429, '{"message": "too fast"}'), Ending.REFUSED),
    ((500, '{"message": "broken"}'), Ending.REFUSED),
    ((200, "no JSON"), Ending.LATE),
    ((200, '{"prediction": "none"}'), Ending.REFUSED),
    ((200, '{"prediction": 0.5}'), Ending.UNKNOWN),
    ((408, '{"message": "too late"}'), Ending.LATE),
    (None, Ending.LATE),
]


def test_every_way_not_to_answer_is_told_apart(home: Path, key: str) -> None:
    with axon_peer(lambda number: REPLIES[number][0]) as peer:
        result = ask(home, peer.port, key, requests=len(REPLIES))
    assert [row.ending for row in result.requests] == [ending for _, ending in REPLIES]
    # While NaN is in a window the validator has no metrics, so nothing is paid after the first.
    assert [row.reward for row in result.requests] == [0.125 * (result.requests[0].label == 1), *[0.0] * 11]
    assert result.failed == 10
    assert status_of(result, None) == 1


def test_a_miner_that_takes_too_long_has_not_answered(home: Path, key: str) -> None:
    end = threading.Event()

    def never(_: int) -> None:
        end.wait()

    with axon_peer(never) as peer:
        try:
            result = ask(home, peer.port, key, requests=2, timeout_s=0.5)
        finally:
            end.set()
    assert {(row.status, row.ending) for row in result.requests} == {(408, Ending.LATE)}
    assert (result.accuracy, result.latency.p50, result.paid.mean) == (None, None, 0)
