"""A command within the bounds of a night: `python -m miner.nights.limited_process PARENT BYTES COMMAND...`.

It bounds itself and then becomes the command, so that the miner, which has many threads, runs no code between fork and
exec. Where the system cannot bound something, the command runs all the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from engines.machine.bounds import end_with_parent, first_to_go, idle_io, limit_memory

# A shell's status of a command that it cannot run.
NOT_STARTED = 126


def limited(command: Sequence[str], *, niceness: int, memory: int | None) -> list[str]:
    """The command line that runs a command within bounds, as a child of this process.

    Args:
        command: program and arguments.
        niceness: 0 to 19.
        memory: most memory that one of its processes may write, bytes; None for no bound.
    """
    this = [sys.executable, "-m", "miner.nights.limited_process", str(os.getpid()), str(memory or 0)]
    return ["nice", "-n", str(niceness), *this, *command]


def main(arguments: Sequence[str]) -> None:
    """Bound this process and become the command.

    Args:
        arguments: process id of the parent, bytes of memory or 0, the command.
    """
    parent, memory, *command = arguments
    end_with_parent(int(parent))
    first_to_go()
    idle_io()
    if int(memory):
        limit_memory(int(memory))
    try:
        os.execvp(command[0], command)  # noqa: S606  the command is ours
    except OSError as error:
        sys.stderr.write(f"cascade: {command[0]}: {error.strerror or error}\n")
        raise SystemExit(NOT_STARTED) from error


if __name__ == "__main__":
    main(sys.argv[1:])
