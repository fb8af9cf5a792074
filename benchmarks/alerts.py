"""Provokes what a miner tells from afar, and shows what a receiver got: each condition once when it begins, once after.

    python -m benchmarks.alerts
    python -m benchmarks.alerts --json alerts.json

A real `cascade mine` with its chain in a file, and a receiver of webhooks on this machine. Each fault is made, mended
and waited for; conditions settle for a minute before they are told, so it takes about seven minutes. Ends with status 1
if one is missing, comes twice, or does not end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.made_bundles import SIZE_PX, linear, publish
from benchmarks.serving.callers import Caller, body_of
from benchmarks.serving.client import closed_loop
from benchmarks.serving.miner import Home, Miner, photograph, text_of, wait_until
from miner.chain.offline import ChainFile

SETTLES_S, SLACK_S = 60.0, 60.0


@dataclass
class Receiver:
    """Keeps every message.

    Attributes:
        got: the bodies, in order.
    """

    got: list[dict[str, Any]] = field(default_factory=list)

    def of(self, condition: str, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.got if one["kind"] == kind and one["details"].get("condition", "") == condition]


@contextmanager
def receiver() -> Iterator[tuple[Receiver, str]]:
    """A receiver of webhooks, and its address."""
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield kept, f"http://127.0.0.1:{server.server_port}/hook"
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True)
class Row:
    """What became of one event.

    Attributes:
        event: its name.
        times: how often it was told.
        over: how often its end was told.
        text: of the first message.
        as_expected: once each, or once where it has no end.
    """

    event: str
    times: int
    over: int
    text: str
    as_expected: bool


def chain(home: Home, **changes: Any) -> None:
    """Write another chain: its hotkeys, or how their emission is spread."""
    file = home.path / "chain.json"
    content = ChainFile.read(file)
    neurons = {
        name: neuron.model_copy(update=changes.get(name, {}))
        for name, neuron in content.neurons.items()
        if changes.get(name) != "gone"
    }
    ChainFile(block=content.block + 1, neurons=neurons).write(file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the messages are written")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, receiver() as (kept, url):
        rows = provoked(Path(place), kept, url)
    for row in rows:
        print(f"{'ok' if row.as_expected else 'WRONG':<6}{row.event:<24}told {row.times}, over {row.over}  {row.text}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(kept.got, indent=2) + "\n")
    wrong = sum(not row.as_expected for row in rows)
    print(f"{wrong} of {len(rows)} events are not as expected; {len(kept.got)} messages")
    return int(wrong > 0)


def provoked(place: Path, kept: Receiver, url: str) -> list[Row]:
    """Make every fault, mend it, and say what was told of it."""
    home = Home.make(place)
    engine, note = linear(place / "engine.onnx", SIZE_PX), place / "note.txt"
    # Another file makes another bundle of the same engine.
    note.write_text("the second")
    first = publish(home.store, engine, place / "first")
    second = publish(home.store, engine, place / "second", note)
    home.activate(first)
    ours = next(name for name, neuron in ChainFile.read(place / "chain.json").neurons.items() if neuron.uid == 0)
    os.environ["BENCHMARK_HOOK"] = url
    settings: Mapping[str, Any] = {
        "alerts.url_env": "BENCHMARK_HOOK",
        "alerts.silent_h": 30 / 3600,
        "chain.refresh_s": 5,
        "chain.deadline_s": 5,
    }
    with home.miner("told", settings) as miner:
        names = _one_after_another(home, miner, kept, ours, second)
    return [_row(kept, name, has_end) for name, has_end in names.items()]


def _row(kept: Receiver, name: str, has_end: bool) -> Row:
    begun = kept.of(name, "condition_begins") if has_end else [one for one in kept.got if one["kind"] == name]
    over = kept.of(name, "condition_over")
    as_expected = len(begun) == 1 and len(over) == int(has_end)
    return Row(name.split(maxsplit=1)[0], len(begun), len(over), begun[0]["text"] if begun else "", as_expected)


def _one_after_another(home: Home, miner: Miner, kept: Receiver, ours: str, second: str) -> dict[str, bool]:
    """Names of what was provoked, and whether it has an end."""
    body = body_of(text_of(photograph(0, SIZE_PX, SIZE_PX)))

    def ask(caller: Caller, times: int = 1) -> None:
        asyncio.run(closed_loop(miner.port, [caller.request(body) for _ in range(times)], 1))

    def until(condition: str, kind: str, keep_asking: bool = False) -> None:
        deadline = time.monotonic() + SETTLES_S + SLACK_S
        while not kept.of(condition, kind) and time.monotonic() < deadline:
            if keep_asking:
                ask(home.callers[0])
            time.sleep(1.0)

    # Nobody asks, while strangers do, from the start on.
    until_silent = time.monotonic() + 35
    while time.monotonic() < until_silent:
        ask(home.stranger, 3)
        time.sleep(2.0)
    until("silent", "condition_begins")
    until("all_refused", "condition_begins")
    until("silent", "condition_over", keep_asking=True)
    until("all_refused", "condition_over", keep_asking=True)
    # The subnet burns its emission, and our hotkey is gone; then all is as before.
    whole = (home.path / "chain.json").read_bytes()
    chain(home, **{home.callers[0].hotkey: {"incentive": 1.0}, ours: "gone"})
    until("emission_burned", "condition_begins", keep_asking=True)
    until(f"deregistered {ours}", "condition_begins", keep_asking=True)
    (home.path / "chain.json").write_bytes(whole)
    until("emission_burned", "condition_over", keep_asking=True)
    until(f"deregistered {ours}", "condition_over", keep_asking=True)
    # The chain cannot be read.
    (home.path / "chain.json").write_bytes(b"{")
    until("chain_stale", "condition_begins", keep_asking=True)
    (home.path / "chain.json").write_bytes(whole)
    until("chain_stale", "condition_over", keep_asking=True)
    home.activate(second)
    wait_until(lambda: any(one["kind"] == "bundle_live" for one in kept.got), SLACK_S, "no new bundle was told")
    conditions = ("silent", "all_refused", "emission_burned", f"deregistered {ours}", "chain_stale")
    return {**dict.fromkeys(conditions, True), "bundle_live": False}


if __name__ == "__main__":
    raise SystemExit(main())
