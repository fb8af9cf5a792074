"""Several miners under load, while the servers that compute for them are swapped, killed and brought back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.remote_engines.servers import RayServer, Server
from benchmarks.serving.callers import body_of
from benchmarks.serving.client import Reply, closed_loop
from benchmarks.serving.miner import UNLIMITED, Home, Miner, photograph, text_of, wait_until
from benchmarks.stage2_servers.traffic import answers, journal

FOLLOW_S, WRITE_S = 90.0, 20.0
PICTURES = 64


@dataclass
class Load:
    """What became of it.

    Attributes:
        replies: of all miners.
        results: of the journals of all miners.
        swaps: times that all miners went to another bundle.
        kills: times that a server was killed and brought back.
        own_batches: batches that a miner computed itself.
        seconds: that it took.
    """

    replies: list[Reply] = field(default_factory=list)
    results: Counter[str] = field(default_factory=Counter)
    swaps: int = 0
    kills: int = 0
    seconds: float = 0.0

    @property
    def why(self) -> str:
        """What became of those that failed: HTTP status and what the body said, and results of the journal."""
        wrong = Counter(
            f"{reply.status} {reply.body[:120].decode(errors='replace')}"
            for reply in self.replies
            if not (reply.status == 200 and answers(reply))
        )
        rest = {name: count for name, count in self.results.items() if name != "answered"}
        return f"{dict(wrong.most_common(3))}, journals {rest}"

    @property
    def failed(self) -> int:
        """Requests without a probability of Stage-1."""
        wrong = sum(not (reply.status == 200 and answers(reply)) for reply in self.replies)
        return max(wrong, len(self.replies) - self.results["answered"])


def under_load(
    home: Home,
    bundles: Sequence[str],
    servers: Sequence[Server],
    *,
    miners: int,
    clients: int,
    requests: int,
    until: float,
    repository: Path | None,
) -> Load:
    """Ask until so many requests were answered, or time is up; swaps and kills go on all the while.

    Args:
        home: with the store.
        bundles: two, of which the first is current.
        servers: run.
        miners: how many.
        clients: at each miner.
        requests: of all miners together.
        until: monotonic time at which no further request is sent.
        repository: of models that the miners keep; None where the servers read the store.
    """
    settings = UNLIMITED | {
        "engine.remote": f"[{', '.join(repr(one.url) for one in servers)}]".replace("'", '"'),
        "engine.servers.last_resort": "never",
        "engine.servers.look_s": 1.0,
        "engine.servers.timeout_s": 3.0,
        "engine.swap.standby": "false",
        "engine.swap.canary.enabled": "false",
    }
    if repository is not None:
        settings["engine.servers.repository"] = repository
    found, begun = Load(), time.monotonic()
    with ExitStack() as stack:
        up = [stack.enter_context(home.miner(f"load-{number}", settings)) for number in range(miners)]
        left = _Budget(requests, until)
        threads = [threading.Thread(target=_ask, args=(home, one, clients, left, found)) for one in up]
        for thread in threads:
            thread.start()
        try:
            while not left.spent:
                _cycle(home, bundles, servers, up, left, found)
        finally:
            left.end()
            for thread in threads:
                thread.join()
        found.seconds = time.monotonic() - begun
        wait_until(
            lambda: sum(len(journal(one)) for one in up) >= len(found.replies), WRITE_S, "the journals are not whole"
        )
        for one in up:
            found.results.update(str(record["result"]) for record in journal(one))
    return found


class _Budget:
    """Requests that are left, for several threads."""

    def __init__(self, requests: int, until: float) -> None:
        self._left, self._until = requests, until
        self._lock = threading.Lock()

    @property
    def spent(self) -> bool:
        return self._left <= 0 or time.monotonic() >= self._until

    def take(self) -> bool:
        with self._lock:
            if self.spent:
                return False
            self._left -= 1
            return True

    def end(self) -> None:
        with self._lock:
            self._left = 0


def _ask(home: Home, miner: Miner, clients: int, left: _Budget, found: Load) -> None:
    texts = [text_of(photograph(seed)) for seed in range(PICTURES)]
    [caller] = home.callers

    def requests() -> Iterator[bytes]:
        number = 0
        while left.take():
            number += 1
            yield caller.request(body_of(texts[number % PICTURES]))

    found.replies.extend(asyncio.run(closed_loop(miner.port, requests(), clients)))


def _cycle(
    home: Home, bundles: Sequence[str], servers: Sequence[Server], miners: Sequence[Miner], left: _Budget, found: Load
) -> None:
    """One swap, and each server killed and brought back, as far as there are requests for it."""
    wanted = bundles[(found.swaps + 1) % len(bundles)]
    home.store.activate(wanted, now=datetime.now(UTC))
    done = [len(miner.events("bundle_live")) for miner in miners]

    def followed() -> bool:
        return all(len(miner.events("bundle_live")) > before for miner, before in zip(miners, done, strict=True))

    if not _in_time(followed, left):
        return
    found.swaps += 1
    for server in servers:
        if left.spent:
            return
        before = [_ups(miner, server) for miner in miners]
        server.strike()
        time.sleep(2.0)
        server.revive()

        def back(server: Server = server, before: Sequence[int] = before) -> bool:
            # A server of several replicas may have lost one that nobody was waiting for.
            several = isinstance(server, RayServer)
            return all(several or _ups(miner, server) > one for miner, one in zip(miners, before, strict=True))

        if not _in_time(back, left):
            return
        found.kills += 1


def _ups(miner: Miner, server: Server) -> int:
    return sum(event["server"] == server.url for event in miner.events("stage1_server_up"))


def _in_time(condition: Callable[[], bool], left: _Budget) -> bool:
    """Whether it came true before the requests were spent."""
    until = time.monotonic() + FOLLOW_S
    while not condition():
        if left.spent:
            return False
        if time.monotonic() > until:
            raise SystemExit(f"the miners do not follow within {FOLLOW_S:.0f} s")
        time.sleep(0.2)
    return True
