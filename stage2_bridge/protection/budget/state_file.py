"""The state of a budget on disk, which is there before a call is sent, and still there if the process is killed."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from engines.machine.clock import boot_id
from stage1.artifacts import fsync_directory

log = structlog.get_logger(__name__)

# One of two places is written at a time, so that a write which is cut short leaves the other.
PLACE_BYTES, PLACES = 512, 2


class BudgetState(BaseModel):
    """What a budget knows.

    Attributes:
        unit: `calls` or `money`.
        level: of the bucket; what is set aside for calls under way is taken out of it.
        at: wall-clock time of the level, in seconds since 1970.
        spent: all that was spent since the file began.
        demand: weighted sum of what hand-offs would have cost; see `Demand`.
        boot: names the time since this machine started; empty where that is not known.
        closed: whether the process has ended in order.
        number: counts the writes.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    unit: str
    level: float
    at: float
    spent: float = 0.0
    demand: float = 0.0
    boot: str = ""
    closed: bool = False
    number: int = 0


class StateFile:
    """Holds the latest state in two places, each a line of JSON with a checksum.

    Args:
        path: of the file; its directory is created.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._boot = boot_id()
        self._number = 0

    def read(self) -> tuple[BudgetState | None, bool]:
        """The latest state, and whether all that was spent is in it.

        It is not where the file is damaged, or where the machine went down and may not have written the last of it.

        Returns:
            None and True for a file that was never written, None and False for one of which nothing can be read.
        """
        content = os.pread(self._file, PLACES * PLACE_BYTES, 0)
        if not content:
            return None, True
        found = [_state(content[start : start + PLACE_BYTES]) for start in range(0, len(content), PLACE_BYTES)]
        states = [one for one in found if one is not None]
        if not states:
            log.warning("budget_file_damaged", path=str(self._path), consequence="the budget begins with nothing left")
            return None, False
        latest = max(states, key=lambda one: one.number)
        self._number = latest.number
        whole = latest.closed or latest.boot == self._boot
        if not whole:
            log.warning(
                "budget_unsure", path=str(self._path), reason="the machine went down while the miner ran",
                consequence="the budget begins with nothing left",
            )  # fmt: skip
        return latest, whole

    def write(self, state: BudgetState, *, to_disk: bool = False) -> None:
        """Have a state outlive this process.

        Args:
            state: its number, boot and the like are set here.
            to_disk: have it outlive the machine's power too, which takes milliseconds.

        Raises:
            OSError: it cannot be written.
        """
        number = self._number + 1
        line = state.model_copy(update={"number": number, "boot": self._boot}).model_dump_json().encode()
        place = f"{zlib.crc32(line):08x} ".encode() + line
        if len(place) >= PLACE_BYTES:
            raise OSError(f"{self._path}: a state of {len(place)} bytes has no room")
        os.pwrite(self._file, place.ljust(PLACE_BYTES - 1) + b"\n", number % PLACES * PLACE_BYTES)
        self._number = number
        if to_disk:
            os.fsync(self._file)
            fsync_directory(self._path.parent)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _state(place: bytes) -> BudgetState | None:
    checksum, _, rest = place.partition(b" ")
    line = rest.strip()
    try:
        if int(checksum, 16) != zlib.crc32(line):
            return None
        return BudgetState.model_validate(json.loads(line))
    except (ValueError, ValidationError):
        return None
