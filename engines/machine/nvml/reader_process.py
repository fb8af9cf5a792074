"""The process that asks the driver how the GPUs are: `python -m engines.machine.nvml.reader_process`.

A driver that is in trouble can keep whoever asks it for ever, in a call that not even a signal ends. So it is asked
here, and whoever reads the lines goes on. It writes a `GpuHealth` a line to standard output, and ends when its input is
closed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import threading
from typing import Any

from engines.machine.nvml.library import Nvml

LIBRARY = "pynvml"


def main() -> None:
    """Read and tell until nobody listens, or once."""
    parser = argparse.ArgumentParser(prog="python -m engines.machine.nvml.reader_process")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two readings")
    parser.add_argument("--once", action="store_true")
    options = parser.parse_args()
    try:
        library: Any = importlib.import_module(LIBRARY)
    except ImportError as error:
        _tell({"problem": f"{LIBRARY} cannot be imported ({error}): pip install nvidia-ml-py"})
        return
    try:
        nvml = Nvml(library)
    except library.NVMLError as error:
        _tell({"problem": f"the driver cannot be asked: {error}"})
        return
    if not options.once:
        threading.Thread(target=_end_with_input, name="input", daemon=True).start()
    while True:
        _tell(nvml.read())
        if options.once:
            return
        nvml.wait(options.every)


def _tell(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def _end_with_input() -> None:
    while os.read(0, 4096):
        pass
    # The main thread may be in a call that does not come back.
    os._exit(0)


if __name__ == "__main__":
    main()
