"""CPU time of one hand-off by our client, against `tritonclient` on the same server and image."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.miner import photograph
from benchmarks.serving.spread import told, told_ratio
from benchmarks.stage2_servers.running import ROOT, mlserver, triton

HERE = Path(__file__).parent
# The client, and how many requests it has under way.
ARMS = (("ours", 1), ("http", 1), ("http.aio", 1), ("ours", 16), ("http.aio", 16))
WARM = 20


@dataclass
class Worker:
    """A client in a process of its own."""

    process: subprocess.Popen[str]

    def cpu_ms(self, count: int, at_a_time: int) -> tuple[float, float]:
        """Of one request, and its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count} {at_a_time}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a client ended with status {self.process.wait()}")
        cpu_s, _, answered, value = json.loads(line)
        if answered != count:
            raise SystemExit(f"{answered} of {count} requests were answered")
        return cpu_s / count * 1e3, value


@contextmanager
def worker(command: Sequence[str]) -> Iterator[Worker]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} if command[0] == sys.executable else None
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield Worker(process)
    finally:
        process.kill()
        process.wait()


@dataclass
class Costs:
    """CPU milliseconds of a request by client and requests under way, one a round."""

    ms: dict[tuple[str, int], list[float]] = field(default_factory=lambda: {arm: [] for arm in ARMS})


def measure(url: str, image: Path, way: str, rounds: int, count: int) -> Costs:
    """Ask the same of all in turns, of which the first changes."""
    theirs = [os.environ["TRITONCLIENT_PYTHON"], str(HERE / "theirs.py"), url, str(image)]
    costs = Costs()
    with ExitStack() as stack:
        workers = {
            "ours": stack.enter_context(worker([sys.executable, "-m", "benchmarks.bridge.ours", url, str(image)])),
            "http": stack.enter_context(worker([*theirs, "http", way])),
            "http.aio": stack.enter_context(worker([*theirs, "http.aio", way])),
        }
        answers = {workers[name].cpu_ms(WARM, at_a_time)[1] for name, at_a_time in ARMS}
        if max(answers) - min(answers) > 1e-6:
            raise SystemExit(f"the clients got different answers: {answers}")
        for number in range(rounds):
            turn = number % len(ARMS)
            for name, at_a_time in (*ARMS[turn:], *ARMS[:turn]):
                costs.ms[name, at_a_time].append(workers[name].cpu_ms(count, at_a_time)[0])
    return costs


def report(title: str, costs: Costs) -> None:
    print(f"{title}: CPU ms of a hand-off, median (least to most) of the rounds")
    for name, at_a_time in ARMS:
        called = "our client" if name == "ours" else f"tritonclient.{name}"
        print(f"  {called:22} {at_a_time:2} under way: {told(costs.ms[name, at_a_time])}")
    for name, at_a_time in ARMS:
        if name != "ours":
            pairs = zip(costs.ms["ours", at_a_time], costs.ms[name, at_a_time], strict=True)
            ratios = [mine / other for mine, other in pairs]
            print(f"  ours to tritonclient.{name}, {at_a_time} under way: {told_ratio(ratios)}")


def run(directory: Path, rounds: int, count: int) -> None:
    """Both servers, as far as their environments are there."""
    if "TRITONCLIENT_PYTHON" not in os.environ:
        raise SystemExit("TRITONCLIENT_PYTHON is not set: the interpreter of an environment with tritonclient[http]")
    image = directory / "image.jpg"
    image.write_bytes(photograph(1))
    for name, needs, server, way in (
        ("MLServer, base64 in JSON", "MLSERVER_PYTHON", lambda at: mlserver(at, ("Brightness",)), "json"),
        ("Triton, binary extension", "TRITON_PYTHON", triton, "binary"),
    ):
        if not os.environ.get(needs):
            print(f"{name}: left out, {needs} is not set")
            continue
        place = directory / way
        place.mkdir()
        with server(place) as url:
            report(name, measure(url, image, way, rounds, count))
