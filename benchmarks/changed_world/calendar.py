"""A calendar that passes faster than the clock, shared by processes through a file.

    python -m benchmarks.changed_world.calendar FILE mine --config cascade.toml

What a miner does by the day or by the week then happens in minutes. Only the wall clock that is recorded runs fast:
deadlines, signatures and pauses go by the clock of the machine.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from stage1.artifacts import write_atomic

# So often a process looks for another time in the file.
LOOK_S = 0.05


@dataclass(frozen=True)
class Calendar:
    """The file.

    Attributes:
        path: of it.
    """

    path: Path

    def set(self, now: datetime, speed: float) -> None:
        """From here on it is so late, and passes so many times as fast as the clock."""
        content = {"clock": time.time(), "now": now.timestamp(), "speed": speed}
        write_atomic(self.path, json.dumps(content).encode())

    def now(self) -> datetime:
        """The time in it, UTC."""
        found = json.loads(self.path.read_bytes())
        passed = (time.time() - found["clock"]) * found["speed"]
        return datetime.fromtimestamp(found["now"], UTC) + timedelta(seconds=passed)

    def reader(self) -> Callable[[], datetime]:
        """Reads the time, and the file now and then."""
        read_at, known = -LOOK_S, {"clock": 0.0, "now": 0.0, "speed": 1.0}

        def now() -> datetime:
            nonlocal read_at, known
            if time.monotonic() - read_at >= LOOK_S:
                read_at, known = time.monotonic(), json.loads(self.path.read_bytes())
            passed = (time.time() - known["clock"]) * known["speed"]
            return datetime.fromtimestamp(known["now"] + passed, UTC)

        return now


def main() -> None:
    from engines.machine import clock

    # Before anything else takes the name from there.
    clock.utc_now = Calendar(Path(sys.argv.pop(1))).reader()
    from miner.cli.main import app

    app()


if __name__ == "__main__":
    main()
