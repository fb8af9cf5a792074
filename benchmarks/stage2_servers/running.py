"""Real Stage-2 servers in processes of their own, each from an environment of its own, and fake ones beside them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.serving.miner import free_port

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
START_S, STOP_S = 90.0, 20.0
# It compiles as it starts.
VLLM_START_S = 900.0
# A category of COCO; what it is does not matter to those that count answers.
CONE_LIKE = 11
TRITON_CONFIG = """
backend: "python"
max_batch_size: 8
input [ { name: "image" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "probability" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""
ABOUT_PYTHON = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'), sysconfig.get_path('purelib'))"


@contextmanager
def mlserver(directory: Path, models: Sequence[str] = ("Brightness", "Yolox")) -> Iterator[str]:
    """The address of an MLServer with the models of `mlserver_models`, each by its name in lower case.

    Takes the interpreter of its environment from `MLSERVER_PYTHON`, and the detector's weights from `YOLOX_MODEL`.
    """
    http, grpc, metrics = (free_port() for _ in range(3))
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    (directory / "settings.json").write_text(json.dumps(settings | {"parallel_workers": 0}))
    for name in models:
        model = directory / name.lower()
        model.mkdir()
        about = {"name": name.lower(), "implementation": f"mlserver_models.{name}", "parameters": {"version": "1"}}
        inputs = [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        (model / "model-settings.json").write_text(json.dumps(about | {"inputs": inputs}))
    command = [str(Path(os.environ["MLSERVER_PYTHON"]).parent / "mlserver"), "start", str(directory)]
    url = f"http://127.0.0.1:{http}"
    with running(command, directory, {"PYTHONPATH": str(HERE)}, f"{url}/v2/models/{models[-1].lower()}/ready"):
        yield url


@contextmanager
def triton(directory: Path) -> Iterator[str]:
    """The address of a Triton Inference Server with the model `brightness`.

    The server is that in the wheel nvidia-pytriton, started by itself: its Python backend needs the stub and the shared
    library of the very Python that the wheel is in. Takes the interpreter of its environment from `TRITON_PYTHON`.
    """
    python = Path(os.environ["TRITON_PYTHON"])
    told = subprocess.run([python, "-c", ABOUT_PYTHON], capture_output=True, text=True, check=True).stdout.split()
    libraries, packages = told[0], Path(told[1])
    server, model = directory / "server", directory / "models" / "brightness"
    shutil.copytree(packages / "pytriton" / "tritonserver", server)
    version = packages.parent.name.removeprefix("python")
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, server / "backends" / "python")
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(TRITON_CONFIG)
    shutil.copy(HERE / "triton_model.py", model / "1" / "model.py")
    http, grpc, metrics = (free_port() for _ in range(3))
    ports = {"http-port": http, "grpc-port": grpc, "metrics-port": metrics}
    places = {
        "model-repository": directory / "models",
        "backend-directory": server / "backends",
        "http-address": "127.0.0.1",
    }
    command = [str(server / "bin" / "tritonserver"), *(f"--{key}={value}" for key, value in (places | ports).items())]
    # The stub starts the `python3` that is found first.
    environment = {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{libraries}",
        "PYTHONPATH": str(packages),
    }
    url = f"http://127.0.0.1:{http}"
    with running(command, directory, environment, f"{url}/v2/models/brightness/ready"):
        yield url


@contextmanager
def vllm(directory: Path) -> Iterator[str]:
    """The address of vLLM on the CPU with the model `see`, of random weights; see `vllm_model`.

    Takes the interpreter of its environment from `VLLM_PYTHON`.
    """
    python = os.environ["VLLM_PYTHON"]
    # No model and no statistics of a hub.
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    alone = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    subprocess.run(
        [python, HERE / "vllm_model.py", directory / "model"],
        env={**os.environ, **offline},
        capture_output=True,
        check=True,
    )
    port = free_port()
    model = {"model": directory / "model", "served-model-name": "see", "load-format": "dummy", "dtype": "float32"}
    place = {"host": "127.0.0.1", "port": port, "max-model-len": 1024}
    given = [f"--{key}={value}" for key, value in (model | place).items()]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", *given]
    url = f"http://127.0.0.1:{port}"
    with running(command, directory, offline | alone, f"{url}/v1/models", VLLM_START_S):
        yield url


@contextmanager
def fake(directory: Path, kind: str, *arguments: str) -> Iterator[str]:
    """The address of a server of ours; see `benchmarks.stage2_servers.fake`."""
    directory.mkdir(parents=True, exist_ok=True)
    told = directory / "url"
    command = [sys.executable, "-m", "benchmarks.stage2_servers.fake", kind, str(told), *arguments]
    with running(command, directory, {"PYTHONPATH": str(ROOT)}, None) as process:
        until = time.monotonic() + START_S
        while not told.exists():
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"no {kind} server: {(directory / 'log').read_text()[-2000:]}")
            time.sleep(0.02)
        yield told.read_text()


@contextmanager
def running(
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    ready: str | None,
    start_s: float = START_S,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process group of its own, ended with all that it started.

    Args:
        command: starts it.
        directory: for its log.
        environment: beside that of this process.
        ready: address that answers once it is ready.
        start_s: longest time until then.
    """
    path = directory / "log"
    with path.open("wb") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until = time.monotonic() + start_s
        while ready is not None and not _answers(ready):
            if server.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{command[0]} is not ready:\n{path.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield server
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True
