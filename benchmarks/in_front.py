"""A real nginx, and a real firewall, in front of a real miner: who gets through, and who is held back.

    python -m benchmarks.in_front

As root, with nginx, nft and iproute2. It works in a network of its own, so that no rule touches this machine, with the
files of deploy/nginx and deploy/nftables as they are, and lists that `cascade chain allowlist` writes. Two addresses
ask: one is on the list, the other is not. Ends with status 1 if one of them is treated as the other should be.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.made_bundles import SIZE_PX, linear, publish
from benchmarks.serving.callers import Caller, body_of
from benchmarks.serving.client import Connection
from benchmarks.serving.miner import Home, photograph, text_of, wait_until

DEPLOY = Path(__file__).parents[1] / "deploy"
LISTED, UNLISTED = "127.0.0.2", "127.0.0.3"
PROXY, AXON = 8091, 8191
REQUESTS, CONNECTIONS = 100, 100
# The files let so many of a stranger's pass at once; a few more pass while the others are on their way.
BURST_OF_REQUESTS, BURST_OF_CONNECTIONS, MORE = 21, 60, 15
STRANGER_S, PATIENCE_S = 0.3, 10.0
TOO_LARGE = 17 * 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    if not parser.parse_args().inside:
        again = [sys.executable, "-m", "benchmarks.in_front", "--inside"]
        os.execvp("unshare", ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', *again])
    with tempfile.TemporaryDirectory(prefix="cascade-front-") as place:
        # The workers of nginx run as another user.
        Path(place).chmod(0o755)
        home = Home.make(Path(place))
        home.activate(publish(home.store, linear(home.path / "engine.onnx", SIZE_PX), home.path / "bundle"))
        settings = {
            "axon.port": AXON,
            "chain.external_port": PROXY,
            "axon.max_connections_per_address": 1024,
        }
        with home.miner("behind", settings), nginx(home):
            as_expected = [*proxied(home), *filtered(home)]
    return int(not all(as_expected))


def listed(home: Home, form: str, path: Path) -> None:
    """Have `cascade` write the list; the address of a test host is no public one, so it is named."""
    command = [sys.executable, "-m", "miner.cli", "chain", "allowlist", "--format", form, "--output", str(path)]
    subprocess.run([*command, "--also", LISTED, *home.flags("behind", {})], check=True)


@contextmanager
def nginx(home: Home) -> Iterator[None]:
    """nginx with the file of this repository, until the block ends."""
    named = home.path / "cascade-validators.conf"
    listed(home, "nginx", named)
    text = (DEPLOY / "nginx" / "cascade.conf").read_text()
    (home.path / "cascade.conf").write_text(text.replace("/etc/nginx/cascade-validators.conf", str(named)))
    lines = "daemon off;\nerror_log stderr error;\npid nginx.pid;\nevents {}\nhttp { include cascade.conf; }\n"
    (home.path / "nginx.conf").write_text(lines)
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin") or "nginx"
    process = subprocess.Popen([program, "-p", str(home.path), "-c", "nginx.conf", "-e", "stderr"])
    try:
        wait_until(lambda: connects(LISTED), PATIENCE_S, "nginx did not listen")
        yield
    finally:
        process.terminate()
        process.wait()


def proxied(home: Home) -> Iterator[bool]:
    """What nginx does with requests of both addresses, and of one that is too large."""
    caller, body = home.callers[0], body_of(text_of(photograph(0, SIZE_PX, SIZE_PX)))
    known = asked(caller, body, LISTED)
    yield said(f"nginx, a validator from {LISTED}, which is listed", known, known == {200: REQUESTS})
    other = asked(caller, body, UNLISTED)
    few = BURST_OF_REQUESTS <= other[200] <= BURST_OF_REQUESTS + MORE and other[200] + other[429] == REQUESTS
    yield said(f"nginx, the same validator from {UNLISTED}, which is not", other, few)
    strange = asked(home.stranger, body, LISTED, 5)
    yield said(f"nginx, a hotkey that may not ask, from {LISTED}", strange, strange == {403: 5})
    large = asked(caller, b"{" + b" " * TOO_LARGE, LISTED, 1)
    yield said("nginx, a body of 17 MiB", large, set(large) <= {0, 413})


def filtered(home: Home) -> Iterator[bool]:
    """What the firewall does with connections of both addresses."""
    named = home.path / "validators.nft"
    subprocess.run(["nft", "-f", str(DEPLOY / "nftables" / "cascade.nft")], check=True)
    listed(home, "nftables", named)
    # It is written every hour.
    for _ in range(2):
        subprocess.run(["nft", "-f", str(named)], check=True)
    known = Counter(connects(LISTED) for _ in range(CONNECTIONS))
    yield said(f"nftables, connections from {LISTED}, which is listed", known, known == {True: CONNECTIONS})
    other = Counter(connects(UNLISTED) for _ in range(CONNECTIONS))
    few = BURST_OF_CONNECTIONS <= other[True] <= BURST_OF_CONNECTIONS + 2 * MORE
    yield said(f"nftables, connections from {UNLISTED}, which is not", other, few and other.total() == CONNECTIONS)
    elsewhere = Counter(connects(UNLISTED, AXON) for _ in range(5))
    yield said("nftables, connections to another port", elsewhere, elsewhere == {True: 5})


def asked(caller: Caller, body: bytes, source: str, times: int = REQUESTS) -> Counter[int]:
    """Replies by status, 0 for none, to requests that follow each other on one connection."""

    async def all_of_them() -> Counter[int]:
        async with Connection(PROXY, source=source) as connection:
            return Counter([(await connection.ask(caller.request(body))).status for _ in range(times)])

    return asyncio.run(all_of_them())


def connects(source: str, port: int = PROXY) -> bool:
    """Whether a connection is opened at once."""
    try:
        socket.create_connection(("127.0.0.1", port), STRANGER_S, (source, 0)).close()
    except OSError:
        return False
    return True


def said(what: str, found: Counter[int] | Counter[bool], as_expected: bool) -> bool:
    counts = ", ".join(f"{count} times {key}" for key, count in sorted(found.items()))
    print(f"{'ok' if as_expected else 'WRONG':<6}{what}: {counts}", flush=True)
    return as_expected


if __name__ == "__main__":
    raise SystemExit(main())
