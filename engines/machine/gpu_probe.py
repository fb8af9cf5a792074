"""Asks the CUDA driver what GPU there is and writes the answer to stdout as one line of JSON.

Run as a process of its own by `engines.machine.gpu`, with nothing of this project imported: what a driver does in a
process that it does not like is not an exception.
"""

from __future__ import annotations

import ctypes
import json
import sys

MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


class Refused(Exception):
    """The driver answered with an error."""


def ask() -> dict[str, str | int]:
    """Name, compute capability, driver and memory of the first visible GPU.

    Raises:
        OSError: there is no driver.
        Refused: it has no usable GPU.
    """
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(function: str, *arguments: object) -> None:
        code = getattr(cuda, function)(*arguments)
        if code:
            raise Refused(f"{function} answers with error {code}")

    call("cuInit", 0)
    device, version, major, minor = (ctypes.c_int() for _ in range(4))
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuDeviceGetAttribute", ctypes.byref(major), MAJOR, device)
    call("cuDeviceGetAttribute", ctypes.byref(minor), MINOR, device)
    name = ctypes.create_string_buffer(256)
    call("cuDeviceGetName", name, len(name), device)
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return {
        "name": name.value.decode(),
        "compute_capability": f"{major.value}.{minor.value}",
        "driver": f"{version.value // 1000}.{version.value % 1000 // 10}",
        "total_bytes": total.value,
        "free_bytes": free.value,
    }


if __name__ == "__main__":
    try:
        answer = ask()
    except (OSError, AttributeError, Refused) as error:
        answer = {"reason": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
