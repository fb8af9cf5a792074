"""A miner that is installed elsewhere: what its doctor says, and what it answers a validator.

    python -m benchmarks.installed /opt/cascade/bin/cascade
    python -m benchmarks.installed --user 10001 podman run --rm --network host --volume {home}:{home} cascade:miner

The rest of the command line is how `cascade` is started there; `{home}` in it becomes a directory with a throw-away
wallet, a chain in a file and a bundle around an engine that costs nothing, which this environment has made. It asks
`/readyz` and sends one signed picture. Ends with status 1 if the doctor finds a failure, the miner is not ready, or the
picture gets no number.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.made_bundles import SIZE_PX, linear, publish
from benchmarks.serving.callers import body_of
from benchmarks.serving.client import Connection, Reply
from benchmarks.serving.miner import Home, free_port, photograph, text_of, wait_until

PATIENCE_S = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--user", type=int, help="numeric user that owns {home}, where the miner runs as another one")
    parser.add_argument(
        "--admin-port", type=int, default=0, help="port of the administrator's endpoint; default a free one"
    )
    parser.add_argument("--check", default="true", help="a command that has to succeed while the miner runs")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM", help="how cascade is started")
    arguments = parser.parse_args()
    if not arguments.program:
        parser.error("how is cascade started?")
    with tempfile.TemporaryDirectory(prefix="cascade-installed-") as place:
        home = Home.make(Path(place))
        home.activate(publish(home.store, linear(home.path / "engine.onnx", SIZE_PX), home.path / "bundle"))
        (home.path / "miners" / "installed").mkdir(parents=True)
        # No miner needs it, and the doctor would call it an error.
        (home.path / "miner" / "coldkey").unlink()
        if arguments.user is not None:
            _give(home.path, arguments.user)
        program = [part.replace("{home}", place) for part in arguments.program]
        return shown(home, program, arguments.admin_port or free_port(), shlex.split(arguments.check))


def shown(home: Home, program: list[str], admin_port: int, check: list[str]) -> int:
    """Print what the doctor says and how a picture is answered; the exit status."""
    settings = {"admin.port": admin_port}
    examined = subprocess.run([*program, "doctor", *home.flags("installed", settings)], check=False)
    print(f"doctor: status {examined.returncode}", flush=True)
    begun = time.monotonic()
    with home.miner("installed", settings, program=program) as miner:
        took_s = time.monotonic() - begun
        wait_until(lambda: _ready(admin_port), PATIENCE_S, "/readyz did not say that the miner is ready")
        print(f"mine: ready after {took_s:.1f} s, and /readyz says so")
        checked = subprocess.run(check, check=False).returncode
        reply = asyncio.run(_asked(home, miner.port))
    print(f"request: {reply.status} in {reply.seconds * 1e3:.0f} ms, {_prediction(reply)}")
    print(f"check: status {checked}; stopped: status {miner.process.returncode}")
    return int(reply.status != 200 or any((examined.returncode, checked, miner.process.returncode)))


def _give(path: Path, user: int) -> None:
    for one in (path, *path.rglob("*")):
        os.chown(one, user, user)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2.0) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


async def _asked(home: Home, port: int) -> Reply:
    body = body_of(text_of(photograph(0, SIZE_PX, SIZE_PX)))
    async with Connection(port) as connection:
        return await connection.ask(home.callers[0].request(body))


def _prediction(reply: Reply) -> str:
    try:
        return f"prediction {json.loads(reply.body)['prediction']:.4f}"
    except (ValueError, KeyError, TypeError):
        return f"no prediction: {reply.body[:200]!r}"


if __name__ == "__main__":
    sys.exit(main())
