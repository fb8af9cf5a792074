"""NVIDIA's management library (NVML) by its Python binding `pynvml`: what it tells of each GPU, as plain values.

Every function is asked by itself, because which of them a GPU answers depends on its kind and on the driver's age.

Reference: NVML API reference, and `pynvml.py` of nvidia-ml-py 13.615.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

# Of the latest Xids of each GPU.
KEPT = 16
# After one: they can come by the thousand.
XID_PAUSE_S = 0.5
RECOVERIES = {
    "NVML_GPU_RECOVERY_ACTION_NONE": "none",
    "NVML_GPU_RECOVERY_ACTION_GPU_RESET": "gpu_reset",
    "NVML_GPU_RECOVERY_ACTION_NODE_REBOOT": "node_reboot",
    "NVML_GPU_RECOVERY_ACTION_DRAIN_P2P": "drain_p2p",
    "NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET": "drain_and_reset",
    "NVML_GPU_RECOVERY_ACTION_RECOVER_IMEX_DOMAIN": "recover_imex_domain",
    "NVML_GPU_RECOVERY_ACTION_BUS_RESET": "bus_reset",
    "NVML_GPU_RECOVERY_ACTION_SYSTEM_REBOOT": "system_reboot",
}
# Bits of the reasons for lower clocks that are told; being idle is none.
REASONS = {
    "nvmlClocksEventReasonSwPowerCap": "sw_power_cap",
    "nvmlClocksEventReasonHwSlowdown": "hw_slowdown",
    "nvmlClocksEventReasonSwThermalSlowdown": "sw_thermal_slowdown",
    "nvmlClocksEventReasonHwThermalSlowdown": "hw_thermal_slowdown",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": "hw_power_brake_slowdown",
}


class Nvml:
    """A session of the library.

    Args:
        library: the module `pynvml`.
        clock: monotonic time in seconds.

    Raises:
        library.NVMLError: there is no driver, or it does not let itself be asked.
    """

    def __init__(self, library: Any, clock: Callable[[], float] = time.monotonic) -> None:  # noqa: ANN401  has no types
        self._nvml = library
        self._clock = clock
        # Of no GPU where the driver does not say which it was, as of one that is off the bus.
        self._xids: dict[int | None, deque[tuple[int, float]]] = {}
        self._count = 0
        self._handles: dict[int, Any] = {}
        library.nvmlInit()
        self._events = self._registered()

    def read(self) -> dict[str, Any]:
        """The fields of a `GpuHealth`."""
        number = self._asked(self._nvml.nvmlDeviceGetCount)
        # Where that is not told, those that were there are asked, and say themselves that they are lost.
        self._count = self._count if number is None else number
        driver = _text(self._asked(self._nvml.nvmlSystemGetDriverVersion))
        gpus = [self._gpu(index) for index in range(self._count)]
        return {"driver": driver, "gpus": gpus, "xids_of_unknown": self._recent(None)}

    def wait(self, seconds: float) -> None:
        """Wait, and keep the Xids that come meanwhile; the first one ends the wait."""
        if self._events is None:
            time.sleep(seconds)
            return
        try:
            event = self._nvml.nvmlEventSetWait_v2(self._events, round(seconds * 1000))
        except self._nvml.NVMLError as error:
            if error.value != self._nvml.NVML_ERROR_TIMEOUT:
                # A wait that ends at once each time would keep a core busy.
                self._events = None
            return
        if event.eventType == self._nvml.nvmlEventTypeXidCriticalError:
            index = self._asked(self._nvml.nvmlDeviceGetIndex, event.device)
            self._xids.setdefault(index, deque(maxlen=KEPT)).append((int(event.eventData), self._clock()))
            time.sleep(XID_PAUSE_S)

    def _registered(self) -> Any:  # noqa: ANN401
        """A set of events with the Xids of every GPU that tells them; None where none does."""
        nvml = self._nvml
        events = self._asked(nvml.nvmlEventSetCreate)
        told = False
        for index in range(self._asked(nvml.nvmlDeviceGetCount) or 0):
            handle = self._asked(nvml.nvmlDeviceGetHandleByIndex, index)
            kinds = None if handle is None else self._asked(nvml.nvmlDeviceGetSupportedEventTypes, handle)
            if events is not None and kinds and kinds & nvml.nvmlEventTypeXidCriticalError:
                try:
                    nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
                    told = True
                except nvml.NVMLError:
                    continue
        return events if told else None

    def _gpu(self, index: int) -> dict[str, Any]:
        nvml, asked = self._nvml, self._asked
        found: dict[str, Any] = {"index": index, "xids": self._recent(index)}
        try:
            handle = self._handles.get(index)
            handle = nvml.nvmlDeviceGetHandleByIndex(index) if handle is None else handle
            self._handles[index] = handle
            # Every GPU tells its temperature: one that does not is away.
            found["temperature_c"] = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
        except nvml.NVMLError as error:
            self._handles.pop(index, None)
            if error.value != nvml.NVML_ERROR_NOT_SUPPORTED:
                return found | {"lost": str(error)}
        memory = asked(nvml.nvmlDeviceGetMemoryInfo, handle)
        used = asked(nvml.nvmlDeviceGetUtilizationRates, handle)
        power = asked(nvml.nvmlDeviceGetPowerUsage, handle)
        rows = asked(nvml.nvmlDeviceGetRemappedRows, handle)
        volatile = nvml.NVML_VOLATILE_ECC
        return found | {
            "name": _text(asked(nvml.nvmlDeviceGetName, handle)),
            "slowdown_c": asked(
                nvml.nvmlDeviceGetTemperatureThreshold, handle, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
            ),
            "memory_used_bytes": None if memory is None else int(memory.used),
            "memory_total_bytes": None if memory is None else int(memory.total),
            "utilisation": None if used is None else used.gpu / 100,
            "power_w": None if power is None else power / 1000,
            "slowed_by": self._slowed_by(handle),
            "ecc_corrected": asked(
                nvml.nvmlDeviceGetTotalEccErrors, handle, nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, volatile
            ),
            "ecc_uncorrected": asked(
                nvml.nvmlDeviceGetTotalEccErrors, handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, volatile
            ),
            "rows_pending": None if rows is None else bool(rows[2]),
            "rows_failed": None if rows is None else bool(rows[3]),
            "recovery": self._recovery(handle),
        }

    def _recent(self, index: int | None) -> list[dict[str, Any]]:
        now = self._clock()
        return [{"number": number, "age_s": max(0.0, now - at)} for number, at in self._xids.get(index, ())]

    def _slowed_by(self, handle: Any) -> list[str]:  # noqa: ANN401
        # Older bindings know it by its older name.
        read = getattr(self._nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        bits = self._asked(read or self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
        return [word for name, word in REASONS.items() if bits & getattr(self._nvml, name, 0)]

    def _recovery(self, handle: Any) -> str | None:  # noqa: ANN401
        field = getattr(self._nvml, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", None)
        found = None if field is None else self._asked(self._nvml.nvmlDeviceGetFieldValues, handle, [field])
        if not found or found[0].nvmlReturn:
            return None
        number = int(found[0].value.uiVal)
        known = {getattr(self._nvml, name, None): word for name, word in RECOVERIES.items()}
        return known.get(number, f"action_{number}")

    def _asked(self, function: Callable[..., Any], *given: object) -> Any:  # noqa: ANN401
        """What a function answers; None where this GPU or this driver does not know it."""
        try:
            return function(*given)
        except self._nvml.NVMLError:
            return None


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
