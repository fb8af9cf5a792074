"""A stand-in of `pynvml` for machines without a GPU.

It has the functions that we call, with the names, the arguments, the constants and the errors of nvidia-ml-py 13.615,
over GPUs that a file of JSON describes. A GPU has the values that it answers; one that is missing is answered with
"Not Supported", as the real library does. `hang` in the file makes every reading wait for ever, `lost` makes a GPU
raise. A copy of this file, called `pynvml.py`, stands first on the path of who is tested.
"""

# ruff: noqa: N802, N803, N816, ARG001  the names are NVIDIA's
from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_TIMEOUT, NVML_ERROR_LIBRARY_NOT_FOUND, NVML_ERROR_GPU_IS_LOST = 3, 10, 12, 15
NVML_TEMPERATURE_GPU, NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 0, 1
NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 1
NVML_VOLATILE_ECC = 0
NVML_FI_DEV_GET_GPU_RECOVERY_ACTION = 230
NVML_GPU_RECOVERY_ACTION_NONE, NVML_GPU_RECOVERY_ACTION_GPU_RESET, NVML_GPU_RECOVERY_ACTION_NODE_REBOOT = 0, 1, 2
NVML_GPU_RECOVERY_ACTION_DRAIN_P2P, NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET = 3, 4
NVML_GPU_RECOVERY_ACTION_RECOVER_IMEX_DOMAIN, NVML_GPU_RECOVERY_ACTION_BUS_RESET = 5, 6
NVML_GPU_RECOVERY_ACTION_SYSTEM_REBOOT = 7
nvmlEventTypeXidCriticalError = 8
nvmlClocksEventReasonGpuIdle, nvmlClocksEventReasonSwPowerCap, nvmlClocksEventReasonHwSlowdown = 1, 4, 8
nvmlClocksEventReasonSwThermalSlowdown, nvmlClocksEventReasonHwThermalSlowdown = 0x20, 0x40
nvmlClocksEventReasonHwPowerBrakeSlowdown = 0x80
_TEXTS = {3: "Not Supported", 10: "Timeout", 12: "NVML Shared Library Not Found", 15: "GPU is lost"}


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(_TEXTS[value])
        self.value = value


def _state() -> Any:
    return json.loads(Path(os.environ["PYNVML_STATE"]).read_text())


def _of(handle: Any, name: Any) -> Any:
    state = _state()
    if state.get("hang"):
        time.sleep(3600)
    gpu = state["gpus"][handle]
    if gpu.get("lost"):
        raise NVMLError(NVML_ERROR_GPU_IS_LOST)
    if name not in gpu:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    return gpu[name]


def nvmlInit() -> Any:
    if "gpus" not in _state():
        raise NVMLError(NVML_ERROR_LIBRARY_NOT_FOUND)


def nvmlSystemGetDriverVersion() -> Any:
    return _state()["driver"]


def nvmlDeviceGetCount() -> Any:
    if _state().get("countless"):
        raise NVMLError(NVML_ERROR_GPU_IS_LOST)
    return len(_state()["gpus"])


def nvmlDeviceGetHandleByIndex(index: Any) -> Any:
    return index


def nvmlDeviceGetIndex(handle: Any) -> Any:
    if _state()["gpus"][handle].get("lost"):
        raise NVMLError(NVML_ERROR_GPU_IS_LOST)
    return handle


def nvmlDeviceGetName(handle: Any) -> Any:
    return _of(handle, "name").encode()


def nvmlDeviceGetTemperature(handle: Any, sensor: Any) -> Any:
    return _of(handle, "temperature")


def nvmlDeviceGetTemperatureThreshold(handle: Any, threshold: Any) -> Any:
    return _of(handle, "slowdown")


def nvmlDeviceGetMemoryInfo(handle: Any, version: Any = None) -> Any:
    return SimpleNamespace(**_of(handle, "memory"))


def nvmlDeviceGetUtilizationRates(handle: Any) -> Any:
    return SimpleNamespace(**_of(handle, "utilization"))


def nvmlDeviceGetPowerUsage(handle: Any) -> Any:
    return _of(handle, "power_mw")


def nvmlDeviceGetRemappedRows(device: Any) -> Any:
    return tuple(_of(device, "remapped_rows"))


def nvmlDeviceGetTotalEccErrors(handle: Any, errorType: Any, counterType: Any) -> Any:
    return _of(handle, "ecc")[errorType]


def nvmlDeviceGetCurrentClocksEventReasons(handle: Any) -> Any:
    return _of(handle, "reasons")


def nvmlDeviceGetFieldValues(handle: Any, fieldIds: Any) -> Any:
    assert fieldIds == [NVML_FI_DEV_GET_GPU_RECOVERY_ACTION]
    action = _state()["gpus"][handle].get("recovery")
    known = NVML_ERROR_NOT_SUPPORTED if action is None else 0
    return [SimpleNamespace(nvmlReturn=known, value=SimpleNamespace(uiVal=action or 0))]


def nvmlEventSetCreate() -> Any:
    return "events"


def nvmlDeviceGetSupportedEventTypes(handle: Any) -> Any:
    return _of(handle, "events")


def nvmlDeviceRegisterEvents(handle: Any, eventTypes: Any, eventSet: Any) -> Any:
    pass


_TOLD: list[tuple[int, int]] = []


def nvmlEventSetWait_v2(eventSet: Any, timeoutms: Any) -> Any:
    until = time.monotonic() + timeoutms / 1000
    while time.monotonic() < until:
        for handle, gpu in enumerate(_state()["gpus"]):
            for xid in gpu.get("xids", []):
                if (handle, xid) not in _TOLD:
                    _TOLD.append((handle, xid))
                    return SimpleNamespace(device=handle, eventType=nvmlEventTypeXidCriticalError, eventData=xid)
        time.sleep(0.02)
    raise NVMLError(NVML_ERROR_TIMEOUT)
