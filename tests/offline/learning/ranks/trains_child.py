"""One process of a training that several share, as `torchrun` starts it.

trains_child.py KIND DIRECTORY STEPS
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from shared_trainings import train_here  # type: ignore[import-not-found]

if __name__ == "__main__":
    train_here(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
