"""What the operator is told, or not, and how the miner stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.faults.asking import ask, ask_many, picture
from benchmarks.faults.row import Row
from benchmarks.faults.running import STUCK, Miner, Tree, flags_of, free_port, mining, offline, until, write_tiny


def deregistration(tree: Tree) -> list[Row]:
    with mining(tree, chain__refresh_s=0.5) as miner:
        miner.write_chain({})
        time.sleep(3)
        empty = ask(miner).status
        before = miner.log_size()
        miner.write_chain(tree.neurons("miner"))
        time.sleep(3)
        told = [event for event in miner.warnings(before) if "regist" in str(event.get("event"))]
        before = miner.log_size()
        miner.write_chain(tree.neurons())
        time.sleep(3)
        again = [event for event in miner.events(since=before) if "regist" in str(event.get("event"))]
    return [
        Row("8 an empty metagraph", "status of a valid request", str(empty), "200", empty != 200),
        Row("8 deregistration", "log lines that say so", str(len(told)), "1 or more", not told),
        Row("8 registration again", "log lines that say so", str(len(again)), "1 or more", not again),
    ]


def absent_chain(tree: Tree) -> list[Row]:
    more: dict[str, Any] = {"chain__give_up_s": 4} if tree.has("give_up_s", "miner/chain/settings.py") else {}
    with mining(tree, chain__refresh_s=0.5, **more) as miner:
        (miner.home / "chain.json").unlink()
        started = time.monotonic()
        until(lambda: miner.process.poll() is not None, 12)
        status, seconds = miner.process.poll(), time.monotonic() - started
        aged = any("age_s" in event for event in miner.events("metagraph_stale"))
    value = f"exit {status} after {seconds:.0f} s" if status is not None else f"runs on after {seconds:.0f} s"
    return [
        Row(
            "9 a chain that stays away, limit 4 s",
            "end; whether the age is told",
            f"{value}; {'yes' if aged else 'no'}",
            "an exit status that is not 0; yes",
            not status or not aged,
        )
    ]


def fallback(tree: Tree) -> list[Row]:
    with mining(tree, requests__deadline_s=0.001) as miner:
        before = miner.log_size()
        replies = [ask(miner) for _ in range(20)]
        answered = sum(reply.status == 200 and not reply.is_answer for reply in replies)
        lines = [event for event in miner.events("request", since=before) if event.get("answer") == 0.5]
        healthy = sum(not event.get("degraded") for event in lines)
        told = len(miner.warnings(before))
    return [
        Row(
            "10 the fallback 0.5",
            "answers; of them logged as healthy; warnings",
            f"{answered}; {healthy}; {told}",
            "20; 0; 1 to 3",
            healthy > 0 or not 1 <= told <= 3,
        )
    ]


def doctor(tree: Tree) -> list[Row]:
    """`mine` and `doctor` with the same settings."""
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        home = Path(directory)
        (home / "chain.json").write_text(json.dumps({"schema_version": 1, "neurons": tree.neurons()}))
        (home / "file").write_text("")
        base = offline(tree, home)
        cases = {
            "no external_ip": {"chain.publish_endpoint": "true"},
            "a state that cannot be written": {"state": home / "file" / "state"},
            "no Stage-2 engine": {"stage2.engine": home / "absent"},
            "no data": {"retrain.enabled": "true", "retrain.data": home / "absent", "retrain.preset": "unknown"},
        }

        def both(item: tuple[str, dict[str, object]]) -> Row:
            name, changed = item
            flags = flags_of(base | {"axon.port": free_port()} | changed)
            mine = tree.run("mine", *flags, home=home, limit_s=20)
            found = tree.run("doctor", *flags, home=home, limit_s=25)
            return Row(
                f"11 doctor: {name}",
                "exit status of mine; of doctor",
                f"{'runs' if mine.status is None else mine.status}; {found.status}",
                "not 0; not 0",
                bool(mine.status) and found.status == 0,
            )

        with ThreadPoolExecutor(3) as pool:
            rows = list(pool.map(both, cases.items()))
        with socket.create_server(("127.0.0.1", 0)) as other:
            flags = flags_of(base | {"axon.port": other.getsockname()[1]})
            found = tree.run("doctor", *flags, home=home)
        taken = found.status == 0
        rows.append(
            Row("11 doctor: another program on the port", "exit status", str(found.status), "not 0", taken),
        )
    return rows


def stuck_night(tree: Tree) -> list[Row]:
    today = datetime.now(UTC)

    def prepare(miner: Miner) -> None:
        bin_, data = miner.home / "bin", miner.home / "data"
        bin_.mkdir()
        data.mkdir()
        (data / "labels.csv").write_text("image,label\n")
        (bin_ / "nice").write_text(STUCK)
        (bin_ / "nice").chmod(0o755)
        miner.state.mkdir()
        yesterday = (today - timedelta(days=1)).replace(hour=23, minute=0)
        stamp = {"schema_version": 1, "started_at": yesterday.isoformat()}
        (miner.state / "last_retrain.json").write_text(json.dumps(stamp))
        cron = f"0 0 * * {today.isoweekday() % 7}"
        miner.settings |= {"retrain.enabled": "true", "retrain.data": data, "retrain.cron": cron}
        miner.settings |= {"retrain.preset": "tiny", "retrain.workspace": miner.home / "workspace"}

    def jobs(miner: Miner) -> list[int]:
        return [pid for pid in tree.left() if b"bin/nice" in _command(pid)]

    rows = []
    # The miner's working directory is its home.
    path = {"PATH": f"bin:{os.environ['PATH']}"}
    with mining(tree, "--retrain-now", env=path, prepare=prepare) as miner:
        missed = bool(miner.events("retrain_missed"))
        until(lambda: jobs(miner), 10)
        started = time.monotonic()
        miner.process.send_signal(signal.SIGTERM)
        closed = until(lambda: _refuses(miner.port), 25)
        deaf_s = time.monotonic() - started
        until(lambda: miner.process.poll() is not None, 35 - deaf_s)
        stopped_s, status = time.monotonic() - started, miner.process.poll()
        rows += [
            Row(
                "12 SIGTERM with a stuck nightly job",
                "accepts nothing more after; ends after; status",
                f"{deaf_s:.1f} s{'' if closed else ' and more'}; {stopped_s:.1f} s; {status}",
                "< 2 s; < 9 s; 0",
                deaf_s >= 2 or stopped_s >= 9 or status != 0,
            ),
            Row(
                "15 weekday numbers of cron: a night was due today",
                "whether it is begun",
                "yes" if missed else "no",
                "yes",
                not missed,
            ),
        ]
    with mining(tree, "--retrain-now", env=path, prepare=prepare) as miner:
        until(lambda: jobs(miner), 10)
        there = len(jobs(miner))
        miner.end(signal.SIGKILL)
        until(lambda: not jobs(miner), 4)
        left = len(jobs(miner))
    rows.append(
        Row(
            "17 a miner that is killed",
            "nightly jobs before; 4 s after",
            f"{there}; {left}",
            "1; 0",
            there < 1 or left > 0,
        )
    )
    return rows


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _refuses(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def crowded_stage2(tree: Tree) -> list[Row]:
    def prepare(miner: Miner) -> None:
        larger = miner.home / "stage2"
        larger.mkdir()
        write_tiny(larger / "model.onnx", work=384)
        for name in ("preprocess.json", "calibrator.json"):
            (larger / name).write_bytes((tree.home / "files" / name).read_bytes())
        miner.settings |= {"stage2.engine": larger, "stage2.threads": 1, "stage2.max_in_flight": 4}

    black = picture((0, 0, 0))
    with mining(tree, prepare=prepare) as miner:
        ask(miner, content=black)
        before = len(miner.journal())
        ask_many(miner, "validator", black, 63)
        records = miner.journal()[before:]
    deferred = [record for record in records if str(record.get("action")).lower() == "defer"]
    busy = sum(str(record.get("stage2")).lower() == "busy" for record in deferred)
    return [
        Row(
            "13 63 images that are deferred at once",
            "deferred; of them told busy",
            f"{len(deferred)}; {busy}",
            "63; 0",
            busy > 0 or len(deferred) < 63,
        )
    ]


def full_disk(tree: Tree) -> list[Row]:
    def prepare(miner: Miner) -> None:
        miner.state.mkdir()
        (miner.state / "journal.jsonl").symlink_to("/dev/full")

    with mining(tree, prepare=prepare) as miner:
        before = miner.log_size()
        replies = ask_many(miner, "validator", picture(), 100, at_once=4)
        answered = sum(reply.status == 200 for reply in replies)
        status, _ = miner.end()
        lines = miner.log.read_bytes()[before:].splitlines()
        foreign = sum(not line.startswith(b"{") for line in lines)
    return [
        Row(
            "14 a full disk under the journal, 100 requests",
            "answered; log lines that are no JSON; status at the end",
            f"{answered}; {foreign:,}; {status}",
            "100; 0; 0",
            answered < 100 or foreign > 0 or status != 0,
        )
    ]


def mistakes(tree: Tree) -> list[Row]:
    """Settings that cannot be meant."""
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        home = Path(directory)
        (home / "chain.json").write_text(json.dumps({"schema_version": 1, "neurons": tree.neurons()}))
        (home / "latin.toml").write_bytes('state = "caf\u00e9"\n'.encode("latin-1"))
        flags = flags_of(offline(tree, home, **{"axon.port": free_port()}))
        cases: dict[str, tuple[list[str], dict[str, str]]] = {
            "a toml that is not UTF-8": ([*flags, "--config", str(home / "latin.toml")], {}),
            "malformed JSON in the environment": (flags, {"CASCADE_AXON": "{port: 1}"}),
            "--set that cross": ([*flags, "--set", "engine.workers.x=3", "--set", "engine.workers=2"], {}),
            "a bad cron": ([*flags, "--set", "retrain.cron=61 3 * * *"], {}),
            "a misspelt section in the environment": (flags, {"CASCADE_AXXON__PORT": "1"}),
            "a host name as external_ip": (
                [
                    *flags_of(offline(tree, home, **{"axon.port": 0, "chain.publish_endpoint": "true"})),
                    *("--set", "chain.external_ip=miner.example.com"),
                ],
                {},
            ),
        }

        def made(item: tuple[str, tuple[list[str], dict[str, str]]]) -> Row:
            name, (arguments, env) = item
            done = tree.run("mine", *arguments, home=home, env=env, limit_s=20)
            lines = [line for line in done.told.splitlines() if line.strip()]
            traceback = "Traceback" in done.told
            value = "runs" if done.status is None else str(done.status)
            return Row(
                f"15 {name}",
                "exit status; lines; traceback",
                f"{value}; {len(lines)}; {'yes' if traceback else 'no'}",
                "2; 1; no",
                done.status != 2 or traceback or len(lines) > 2,
            )

        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(made, cases.items()))


def early_sighup(tree: Tree) -> list[Row]:
    with mining(tree, ready=False) as miner:
        until(lambda: miner.log_size() > 0 or miner.process.poll() is not None, 30)
        miner.process.send_signal(signal.SIGHUP)
        until(lambda: miner.events("ready") or miner.process.poll() is not None, 30)
        status = miner.process.poll()
    return [
        Row(
            "17 SIGHUP before ready",
            "what becomes of the miner",
            "it runs" if status is None else f"exit {status}",
            "it runs",
            status is not None,
        )
    ]


def sighup(tree: Tree) -> list[Row]:
    def prepare(miner: Miner) -> None:
        (miner.home / "cascade.toml").write_text("[access]\nrequests_per_s = 20\n")

    with mining(tree, prepare=prepare) as miner:
        address = tree.address("stranger")
        (miner.home / "cascade.toml").write_text(f'[access]\nextra_hotkeys = ["{address}"]\n')
        miner.process.send_signal(signal.SIGHUP)
        time.sleep(2)
        status = ask(miner, "stranger").status
    return [
        Row(
            "17 SIGHUP after access.extra_hotkeys is changed",
            "status of the added hotkey",
            str(status),
            "200",
            status != 200,
        )
    ]


def torn_journal(tree: Tree) -> list[Row]:
    def prepare(miner: Miner) -> None:
        miner.state.mkdir()
        (miner.state / "journal.jsonl").write_text('{"schema_version": 1, "request_id": "cut sh')

    with mining(tree, prepare=prepare) as miner:
        ask(miner)
        found = len(miner.journal())
    return [
        Row(
            "17 a torn last line of the journal", "records that can be read after one more", str(found), "1", found != 1
        )
    ]


def two_miners(tree: Tree) -> list[Row]:
    with mining(tree) as miner:
        settings = miner.settings | {"axon.port": free_port()}
        done = tree.run("mine", *flags_of(settings), home=miner.home, limit_s=20)
        value = "runs" if done.status is None else f"exit {done.status}"
        tree_left = miner.process.poll() is None
    return [
        Row("17 a second miner on one state", "what becomes of it", value, "exit 4", done.status != 4 or not tree_left)
    ]
