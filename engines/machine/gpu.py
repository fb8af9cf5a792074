"""Is there a GPU, and which? Asked in a process of its own: TensorRT takes the one down that asks it without a GPU."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engines.errors import Unavailable
from engines.machine.child import end

PROBE = Path(__file__).with_name("gpu_probe.py")
# The first CUDA context on a machine whose driver is not loaded takes seconds.
TIMEOUT_S = 30.0
# A runtime holds the weights, and packs some of them anew, before it lets go of the first.
COPIES_OF_WEIGHTS = 2.0


class Gpu(BaseModel):
    """The GPU that CUDA calls device 0 in this environment.

    Attributes:
        name: as the driver tells it.
        compute_capability: such as `8.6`.
        driver: newest CUDA that the driver knows, such as `13.0`.
        total_bytes: memory.
        free_bytes: memory that nobody had taken when it was asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    compute_capability: str = Field(pattern=r"^\d+\.\d+$")
    driver: str = Field(pattern=r"^\d+\.\d+$")
    total_bytes: int = Field(gt=0)
    free_bytes: int = Field(ge=0)

    @property
    def driver_major(self) -> int:
        """First number of `driver`."""
        return int(self.driver.partition(".")[0])


class NoGpu(BaseModel):
    """There is none, or none that can be used.

    Attributes:
        reason: for a person.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str


def ask_driver(command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str] | None:
    """Run a process that asks the driver; None if it did not end in time, and then it is not waited for.

    Args:
        command: its command line.
        timeout_s: after which it is ended.

    Raises:
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        end(process)
        return None
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def find_gpu(*, probe: Path = PROBE, timeout_s: float = TIMEOUT_S) -> Gpu | NoGpu:
    """Ask the driver; whatever happens to the process that asks, this one goes on.

    Args:
        probe: script that asks.
        timeout_s: after which it is ended.
    """
    try:
        told = ask_driver([sys.executable, "-I", "-S", str(probe)], timeout_s)
    except OSError as error:
        return NoGpu(reason=f"the driver could not be asked: {error}")
    if told is None:
        return NoGpu(reason=f"the driver did not answer within {timeout_s:g} s")
    return read_answer(told.stdout, told.stderr, told.returncode)


def check_gpu_memory(found: Gpu | NoGpu, model: Path, wanted_by: str) -> Gpu:
    """Make sure that there is a GPU, and on it memory for a graph and for what its runtime makes of it.

    Args:
        found: what `find_gpu` said.
        model: the graph; its weights may lie beside it.
        wanted_by: what asks, for the message.

    Raises:
        Unavailable: there is none, or too little is free.
    """
    if isinstance(found, NoGpu):
        raise Unavailable(f"{wanted_by}: needs a GPU, and there is none: {found.reason}")
    files = (model, model.with_name(f"{model.name}.data"))
    needed = round(COPIES_OF_WEIGHTS * sum(path.stat().st_size for path in files if path.exists()))
    if found.free_bytes < needed:
        raise Unavailable(
            f"{wanted_by}: needs about {needed / 2**20:,.0f} MiB on the {found.name}, which has "
            f"{found.free_bytes / 2**20:,.0f} MiB free: close what else runs there, or serve with an engine of the CPU"
        )
    return found


def read_answer(stdout: str, stderr: str, code: int) -> Gpu | NoGpu:
    """What a probe said.

    Args:
        stdout: one line of JSON, the fields of `Gpu` or of `NoGpu`.
        stderr: what it complained of.
        code: exit status; negative for a signal.
    """
    if code < 0:
        return NoGpu(reason=f"asking the driver ended in {signal.Signals(-code).name}")
    if code:
        said = stderr.strip().splitlines()[-1:] or ["nothing"]
        return NoGpu(reason=f"asking the driver failed with status {code}: {said[0]}")
    for kind in (NoGpu, Gpu):
        try:
            return kind.model_validate_json(stdout)
        except ValidationError:
            continue
    return NoGpu(reason=f"the driver's answer makes no sense: {stdout.strip()[:200]!r}")
