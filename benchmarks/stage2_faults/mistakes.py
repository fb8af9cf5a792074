"""Settings of Stage-2 that cannot be meant or do not fit the server: what `check` and `mine` say of each."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.miner import Home, free_port, wait_until
from benchmarks.stage2_faults.servers import certificate
from benchmarks.stage2_servers.faults import FAULTS
from benchmarks.stage2_servers.running import fake
from benchmarks.stage2_servers.traffic import settings_of

KEY = "STAGE2_KEY_OF_A_BENCHMARK"
TOLD_CHARACTERS = 110


@dataclass(frozen=True)
class Mistake:
    """One of them.

    Attributes:
        what: it is.
        changes: to the settings of a server that fits.
        server: which one they are for; an address that nobody listens at, where there is none.
        fault: of that server.
        twice: whether two servers are named alike.
    """

    what: str
    changes: Mapping[str, Any]
    server: str | None = "classifier"
    fault: str | None = None
    twice: bool = False


MISTAKES = (
    Mistake("an unknown kind", {"kind": "triton"}),
    Mistake("two servers with one name", {}, twice=True),
    Mistake("a key that is not there", {"key_env": KEY}),
    Mistake("a key file that is not there", {"key_file": "/nowhere/key"}),
    Mistake("an authority that is not there", {"url": "https://127.0.0.1:9", "ca_file": "/nowhere/ca.pem"}),
    Mistake("a prompt that is not there", {"kind": "openai", "prompt_file": "/nowhere/prompt.txt"}, "chat"),
    Mistake("a port at which nobody listens", {}, server=None),
    Mistake("a host that does not exist", {"url": "http://no-such-host.invalid:8000"}),
    Mistake("another model", {"model": "street"}),
    Mistake("another version", {"version": "9"}),
    Mistake("another output", {"output": "score"}),
    Mistake("a logit read as a probability", {}, fault="no_probability"),
    Mistake("a chat server asked as a classifier", {}, "chat"),
    Mistake("a classifier asked as a chat server", {"kind": "openai"}),
    Mistake("an unknown certificate", {}, fault="tls"),
)


@dataclass(frozen=True)
class Row:
    """What was said of one.

    Attributes:
        mistake: it.
        check: exit status of `cascade stage2 check`.
        check_s: seconds that it took.
        mine: what became of `cascade mine`: its exit status, or that it runs and has told.
        told: the first line of the check that says what is wrong.
    """

    mistake: Mistake
    check: int
    check_s: float
    mine: str
    told: str

    @property
    def good(self) -> bool:
        return self.check != 0 and self.mine != "said nothing" and "Traceback" not in self.told

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.mistake.what, str(self.check), f"{self.check_s:.1f}", self.mine, self.told[:TOLD_CHARACTERS])


HEAD = ("mistake", "status of check", "s", "mine, before any request", "told")


def look(home: Home, mistake: Mistake, number: int) -> Row:
    with _server(home, mistake, number) as servers:
        settings = settings_of(servers)
        flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]
        environment = {name: value for name, value in os.environ.items() if name != KEY}
        command = [sys.executable, "-m", "miner.cli", "stage2", "check", *flags]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        seconds = time.perf_counter() - began
        lines = [one for one in (done.stdout + done.stderr).splitlines() if one.strip()]
        told = next((one for one in lines if "ok" not in one.split()[:1]), "nothing")
        return Row(mistake, done.returncode, seconds, _mine(home, settings, number), " ".join(told.split()))


def _mine(home: Home, settings: Mapping[str, Any], number: int) -> str:
    try:
        with home.miner(f"mistake-{number}", settings) as miner:
            try:
                wait_until(lambda: bool(miner.events("stage2_server_fails")), 10.0, "it said nothing")
            except SystemExit:
                return "said nothing"
            return "runs, stage2_server_fails"
    except SystemExit as error:
        first = str(error).splitlines()[0]
        return first.removeprefix("the miner ").removesuffix(":")


@contextmanager
def _server(home: Home, mistake: Mistake, number: int) -> Iterator[Sequence[Mapping[str, Any]]]:
    url = f"http://127.0.0.1:{free_port()}"
    one: dict[str, Any] = {"kind": "kserve", "name": "one", "url": url, "model": "roadwork"}
    if mistake.server is None:
        yield [{**one, **mistake.changes}]
        return
    directory = home.path / f"mistake-{number}"
    directory.mkdir()
    more: list[str] = []
    if mistake.fault is not None:
        more = ["--fault", mistake.fault]
        if any(each.name == mistake.fault and each.tls for each in FAULTS):
            more += ["--certificate", str(certificate(directory))]
    with fake(directory, mistake.server, *more) as url:
        found = {**one, "url": url, **mistake.changes}
        yield [found, found] if mistake.twice else [found]
