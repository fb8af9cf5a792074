"""Real servers that compute bundles: Triton from its wheel, MLServer, Ray Serve; any can be killed and brought back."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.miner import free_port

ROOT = Path(__file__).parents[2]
START_S, STOP_S = 300.0, 30.0
ABOUT_PYTHON = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'), sysconfig.get_path('purelib'))"
# Which interpreter each kind of server needs.
NEEDS = {"triton": "TRITON_PYTHON", "mlserver": "MLSERVER_PYTHON", "ray": "RAY_PYTHON"}


@dataclass
class Server:
    """A server in a process group of its own, at one port whatever becomes of it.

    Attributes:
        command: starts it.
        directory: of its log.
        environment: beside that of this process.
        url: where it listens.
        ready: path that answers once it computes.
    """

    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    url: str
    ready: str
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it, and wait until it computes."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "log"
        with path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + START_S
        while not answers(self.url + self.ready):
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{self.command[0]} is not ready:\n{path.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it with all that it started."""
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def strike(self) -> None:
        """What a machine may do to it: it is gone at once."""
        self.kill()

    def revive(self) -> None:
        """Bring it back, and wait until it computes."""
        self.start()

    def cpu_s(self) -> float:
        """CPU seconds that its processes have used."""
        return 0.0 if self.process is None else sum(_cpu_s(pid) for pid in _group(self.process.pid))


class RayServer(Server):
    """Ray with two replicas, of which one is struck down; Ray itself starts another in its place.

    A second cluster would need more cores than this machine has.
    """

    def strike(self) -> None:
        os.kill(self._replicas()[0], signal.SIGKILL)

    def revive(self) -> None:
        until = time.monotonic() + START_S
        while len(self._replicas()) < 2:
            if time.monotonic() > until:
                raise SystemExit("Ray has started no replica in place of the one that was killed")
            time.sleep(0.2)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        # Ray's own processes leave the group.
        mine = [] if self.process is None else _descendants(self.process.pid)
        super().kill(how)
        for pid in mine:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def cpu_s(self) -> float:
        return 0.0 if self.process is None else sum(_cpu_s(pid) for pid in _descendants(self.process.pid))

    def _replicas(self) -> list[int]:
        assert self.process is not None
        return [pid for pid in _descendants(self.process.pid) if _title(pid).startswith(b"ray::ServeReplica")]


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start all, and end them with the block."""
    try:
        for one in servers:
            one.start()
        yield
    finally:
        for one in servers:
            one.kill(signal.SIGTERM)


def triton(repository: Path, directory: Path, model: str = "stage1") -> Server:
    """A Triton Inference Server in explicit mode; its Python backend computes.

    It is the server in the wheel nvidia-pytriton, started by itself: its Python backend needs the stub and the shared
    library of the very Python that the wheel is in.
    """
    python = Path(os.environ["TRITON_PYTHON"])
    told = subprocess.run([python, "-c", ABOUT_PYTHON], capture_output=True, text=True, check=True).stdout.split()
    libraries, packages = told[0], Path(told[1])
    server = directory / "server"
    if not server.exists():
        shutil.copytree(packages / "pytriton" / "tritonserver", server)
        version = packages.parent.name.removeprefix("python")
        stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
        shutil.copy(stub, server / "backends" / "python")
    http, grpc, metrics = (free_port() for _ in range(3))
    options = {
        "http-port": http,
        "grpc-port": grpc,
        "metrics-port": metrics,
        "http-address": "127.0.0.1",
        "model-repository": repository,
        "backend-directory": server / "backends",
        "model-control-mode": "explicit",
        "load-model": model,
    }
    environment = {
        # The stub starts the `python3` that is found first.
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{libraries}",
        "PYTHONPATH": str(packages),
        "STAGE1_THREADS": "1",
    }
    command = [str(server / "bin" / "tritonserver"), *(f"--{key}={value}" for key, value in options.items())]
    return Server(command, directory, environment, f"http://127.0.0.1:{http}", f"/v2/models/{model}/ready")


def mlserver(repository: Path, directory: Path, model: str = "stage1") -> Server:
    """An MLServer of the same repository."""
    http, grpc, metrics = (free_port() for _ in range(3))
    command = [str(Path(os.environ["MLSERVER_PYTHON"]).parent / "mlserver"), "start", str(repository)]
    environment = {
        "STAGE1_THREADS": "1",
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(http),
        "MLSERVER_GRPC_PORT": str(grpc),
        "MLSERVER_METRICS_PORT": str(metrics),
        "MLSERVER_PARALLEL_WORKERS": "0",
    }
    return Server(command, directory, environment, f"http://127.0.0.1:{http}", f"/v2/models/{model}/ready")


def ray(store: Path, directory: Path, model: str = "stage1") -> Server:
    """Ray Serve with the application of `deploy/ray`, which serves the bundles of a store."""
    http = free_port()
    python = os.environ["RAY_PYTHON"]
    command = [python, str(ROOT / "deploy" / "ray" / "cascade_serve.py"), "--store", str(store), "--port", str(http)]
    command += ["--least-replicas", "2", "--most-replicas", "2", "--threads", "1", "--cpus", "0.5"]
    environment = {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "300"}
    return RayServer(command, directory, environment, f"http://127.0.0.1:{http}", f"/v2/models/{model}/ready")


MAKERS: dict[str, Callable[[Path, Path], Server]] = {"triton": triton, "mlserver": mlserver, "ray": ray}


def _group(leader: int) -> list[int]:
    """All processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader:
                found.append(int(path.parent.name))
    return found


def _descendants(root: int) -> list[int]:
    """A process and all that it and they started."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [root]
    for one in found:
        found += children.get(one, [])
    return found


def _title(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
