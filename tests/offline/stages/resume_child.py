"""Trains and sends itself a signal on the way.

resume_child.py SIGNAL STEP DIRECTORY
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

import torch
from test_resume_training import supervised  # type: ignore[import-not-found]

from offline.errors import TrainingInterrupted

if __name__ == "__main__":
    number, step, place = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])

    def tell(done: int, _total: int, _note: str) -> None:
        if done == step:
            os.kill(os.getpid(), number)

    # As in the test: sums of another number of threads round otherwise.
    torch.set_num_threads(1)
    try:
        supervised("adamw", place, tell)
    except TrainingInterrupted as error:
        sys.exit(error.exit_status)
