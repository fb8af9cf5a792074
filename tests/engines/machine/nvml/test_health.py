"""What of a GPU's state is a fault, and what a person is told to do."""

from __future__ import annotations

from typing import Any

import pytest

from engines.machine.nvml.health import XID_S, GpuHealth, GpuState, Xid, faults

WELL = GpuState(
    index=0,
    name="NVIDIA H200",
    temperature_c=45,
    slowdown_c=89,
    memory_used_bytes=2**30,
    memory_total_bytes=2**37,
    utilisation=0.3,
    slowed_by=("sw_power_cap",),
    ecc_corrected=7,
    ecc_uncorrected=0,
    rows_pending=False,
    rows_failed=False,
    recovery="none",
)


def test_a_gpu_that_is_well_has_no_fault() -> None:
    # A power cap is somebody's choice, and a corrected error is corrected.
    assert faults(GpuHealth(driver="580.65.06", gpus=(WELL, GpuState(index=1)))) == []


@pytest.mark.parametrize(
    ("change", "kind", "level", "told"),
    [
        ({"xids": (Xid(number=79, age_s=3), Xid(number=31, age_s=1))}, "xid", "alarm", "Xid 79 of GPU 0 (NVIDIA H200)"),
        ({"recovery": "gpu_reset"}, "recovery", "alarm", "a reset of the GPU"),
        ({"recovery": "action_9"}, "recovery", "alarm", "action_9"),
        ({"ecc_uncorrected": 2}, "ecc", "alarm", "2 memory errors"),
        ({"rows_failed": True, "rows_pending": True}, "rows_failed", "alarm", "could not be replaced"),
        ({"rows_pending": True}, "rows_pending", "warning", "at its next reset"),
        ({"slowed_by": ("hw_thermal_slowdown",), "temperature_c": 95}, "slowed", "warning", "because it is hot"),
        ({"temperature_c": 90}, "hot", "warning", "has 90 °C"),
        ({"lost": "GPU is lost", "recovery": "gpu_reset"}, "lost", "alarm", "does not answer: GPU is lost"),
    ],
)
def test_each_fault_is_told_once_with_what_to_do(change: dict[str, Any], kind: str, level: str, told: str) -> None:
    [found] = faults(GpuHealth(gpus=(WELL.model_copy(update=change),)))
    assert (found.gpu, found.kind, found.level) == (0, kind, level)
    assert told in found.text
    assert found.todo


@pytest.mark.parametrize("number", [13, 31, 43, 45])
def test_what_a_program_did_wrong_says_nothing_of_the_gpu(number: int) -> None:
    assert faults(GpuHealth(gpus=(WELL.model_copy(update={"xids": (Xid(number=number, age_s=0),)}),))) == []


def test_an_xid_of_a_gpu_that_the_driver_does_not_name_is_told_of_that_one() -> None:
    health = GpuHealth(gpus=(WELL,), xids_of_unknown=(Xid(number=79, age_s=3), Xid(number=43, age_s=1)))
    [found] = faults(health)
    assert (found.gpu, found.kind, found.level) == ("unknown", "xid", "alarm")
    assert found.text == "the driver reported Xid 79 of a GPU that it does not name"


def test_an_xid_is_over_after_a_while() -> None:
    assert faults(GpuHealth(gpus=(WELL.model_copy(update={"xids": (Xid(number=79, age_s=XID_S),)}),))) == []


def test_a_driver_that_is_silent_hides_what_was_known() -> None:
    [found] = faults(GpuHealth(gpus=(WELL.model_copy(update={"ecc_uncorrected": 2}),), silent_s=40))
    assert (found.gpu, found.kind, found.level) == (None, "driver_silent", "alarm")


@pytest.mark.parametrize(
    ("health", "is_read"),
    [
        (GpuHealth(gpus=(WELL,)), True),
        (GpuHealth(), False),
        (GpuHealth(gpus=(WELL,), silent_s=40), False),
        (GpuHealth(problem="there is no driver"), False),
    ],
)
def test_no_fault_is_over_because_the_driver_is_silent(health: GpuHealth, is_read: bool) -> None:
    assert health.is_read is is_read


@pytest.mark.parametrize(("driver", "major"), [("580.65.06", 580), ("", None), ("unknown", None)])
def test_the_first_number_of_the_driver(driver: str, major: int | None) -> None:
    assert GpuHealth(driver=driver).driver_major == major
