"""How the GPUs of a machine are, and what of that is a fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

# Of programs that ask a GPU for what it cannot do, or that were ended: 13 and 31 are faults of a kernel of theirs, 43
# and 45 follow when they stop. They say nothing of the GPU.
# Source: NVIDIA, XID Errors, "Common XID Errors" (docs.nvidia.com/deploy/xid-errors).
OF_PROGRAMS = frozenset({13, 31, 43, 45})
# So long after it, an Xid counts as a fault that is there.
XID_S = 900.0
# Reasons for lower clocks that are no choice of anybody.
SLOWED = {
    "hw_slowdown": "the hardware halves its clocks",
    "hw_thermal_slowdown": "the hardware lowers its clocks because it is hot",
    "hw_power_brake_slowdown": "the power supply makes it lower its clocks",
    "sw_thermal_slowdown": "the driver lowers its clocks because it is hot",
}
WANTED = {
    "gpu_reset": "a reset of the GPU (nvidia-smi --gpu-reset, with nothing on it)",
    "node_reboot": "a restart of the machine",
    "drain_p2p": "that what uses its links to other GPUs ends",
    "drain_and_reset": "that no more work is given to it, and then a reset",
    "recover_imex_domain": "that the IMEX domain is recovered",
    "bus_reset": "a reset of its bus",
    "system_reboot": "a restart of the machine",
}
Level = Literal["warning", "alarm"]
OF_UNKNOWN = "a GPU that it does not name"


class Xid(BaseModel):
    """An error that the driver reported.

    Attributes:
        number: which.
        age_s: how long ago it was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    age_s: float = Field(ge=0)


class GpuState(BaseModel):
    """One GPU; what it does not tell is None.

    Attributes:
        index: its number in the management library, which need not be CUDA's.
        name: as the driver tells it.
        temperature_c: of the GPU.
        slowdown_c: temperature at which the hardware lowers its clocks.
        memory_used_bytes: memory that is taken.
        memory_total_bytes: memory that it has.
        utilisation: share of the last sample period in which it computed, in [0, 1].
        power_w: power that it draws.
        slowed_by: reasons why its clocks are lower than they could be.
        ecc_corrected: memory errors that were corrected since the driver was loaded.
        ecc_uncorrected: those that were not.
        rows_pending: memory rows are replaced at the next reset.
        rows_failed: a memory row could not be replaced.
        recovery: what the driver wants to be done, a key of `WANTED`, or `none`.
        xids: errors that the driver reported, since the watch began.
        lost: why it does not answer; empty where it does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int = Field(ge=0)
    name: str = ""
    temperature_c: float | None = None
    slowdown_c: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    utilisation: float | None = None
    power_w: float | None = None
    slowed_by: tuple[str, ...] = ()
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    rows_pending: bool | None = None
    rows_failed: bool | None = None
    recovery: str | None = None
    xids: tuple[Xid, ...] = ()
    lost: str = ""

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name})" if self.name else f"GPU {self.index}"


class GpuHealth(BaseModel):
    """All GPUs of a machine at one moment.

    Attributes:
        driver: version of the driver, such as `580.65.06`; empty if it is not known.
        gpus: each of them.
        xids_of_unknown: errors that the driver reported of a GPU that it did not name, since the watch began.
        problem: why nothing is known; empty where something is.
        silent_s: how long the driver has given no answer; 0 where it has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    driver: str = ""
    gpus: tuple[GpuState, ...] = ()
    xids_of_unknown: tuple[Xid, ...] = ()
    problem: str = ""
    silent_s: float = 0.0

    @property
    def is_read(self) -> bool:
        """Whether it says how the GPUs are: there are some, and the driver has not fallen silent since."""
        return bool(self.gpus) and self.silent_s == 0

    @property
    def driver_major(self) -> int | None:
        """First number of the driver's version; None if it is not known."""
        first = self.driver.partition(".")[0]
        return int(first) if first.isdigit() else None


class Fault(NamedTuple):
    """Something that is wrong with a GPU.

    Attributes:
        gpu: its number; `unknown` where the driver does not say which it is; None for the driver.
        kind: a word for it that does not change.
        level: how much it matters.
        text: what it is.
        todo: what to do about it.
    """

    gpu: int | Literal["unknown"] | None
    kind: str
    level: Level
    text: str
    todo: str


def faults(health: GpuHealth) -> list[Fault]:
    """Everything that is wrong, by GPU."""
    if health.silent_s > 0:
        text = f"the driver of the GPU has given no answer for {health.silent_s:.0f} s"
        return [Fault(None, "driver_silent", "alarm", text, "look at dmesg for NVRM, and restart the machine")]
    return [
        *(fault for gpu in health.gpus for fault in _of(gpu)),
        *_of_xids("unknown", OF_UNKNOWN, health.xids_of_unknown),
    ]


def _of(gpu: GpuState) -> Iterator[Fault]:
    if gpu.lost:
        todo = "look at dmesg for its Xid, and restart the machine"
        yield Fault(gpu.index, "lost", "alarm", f"{gpu} does not answer: {gpu.lost}", todo)
        return
    if gpu.recovery not in {None, "none"}:
        wanted = WANTED.get(gpu.recovery or "", str(gpu.recovery))
        yield Fault(gpu.index, "recovery", "alarm", f"the driver wants {wanted}, for {gpu}", "do that")
    yield from _of_xids(gpu.index, str(gpu), gpu.xids)
    yield from _of_memory(gpu)
    yield from _of_clocks(gpu)


def _of_xids(gpu: int | Literal["unknown"], name: str, xids: Sequence[Xid]) -> Iterator[Fault]:
    numbers = sorted({xid.number for xid in xids if xid.number not in OF_PROGRAMS and xid.age_s < XID_S})
    if numbers:
        told = ", ".join(map(str, numbers))
        todo = "look it up at docs.nvidia.com/deploy/xid-errors, which says what to do"
        yield Fault(gpu, "xid", "alarm", f"the driver reported Xid {told} of {name}", todo)


def _of_memory(gpu: GpuState) -> Iterator[Fault]:
    if gpu.ecc_uncorrected:
        text = f"{gpu.ecc_uncorrected} memory errors of {gpu} could not be corrected since the driver was loaded"
        yield Fault(gpu.index, "ecc", "alarm", text, "restart the miner, and reset the GPU when nothing runs on it")
    if gpu.rows_failed:
        text = f"a bad memory row of {gpu} could not be replaced"
        yield Fault(gpu.index, "rows_failed", "alarm", text, "have the GPU exchanged")
    elif gpu.rows_pending:
        text = f"bad memory rows of {gpu} are replaced at its next reset"
        yield Fault(gpu.index, "rows_pending", "warning", text, "reset it when nothing runs on it")


def _of_clocks(gpu: GpuState) -> Iterator[Fault]:
    why = [SLOWED[reason] for reason in gpu.slowed_by if reason in SLOWED]
    if why:
        text = f"{gpu} is slower than it could be: {'; '.join(why)}"
        yield Fault(gpu.index, "slowed", "warning", text, "look at fans, air and the power supply")
    elif gpu.temperature_c is not None and gpu.slowdown_c is not None and gpu.temperature_c >= gpu.slowdown_c:
        text = f"{gpu} has {gpu.temperature_c:.0f} °C, and lowers its clocks from {gpu.slowdown_c:.0f} on"
        yield Fault(gpu.index, "hot", "warning", text, "look at fans and air")
