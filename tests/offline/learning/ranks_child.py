"""One rank of a training on two processes.

ranks_child.py RANK OPTIMISER DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from test_optimiser import train_on_a_rank  # type: ignore[import-not-found]

if __name__ == "__main__":
    train_on_a_rank(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
