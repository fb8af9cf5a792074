"""The worker process as its parent sees it: started, asked, measured and ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from engines.machine.memory import resident_mib
from miner.chain.worker import Call, Reply

LONGEST_REPLY = 16 * 1024 * 1024
_IMPORT_ROOT = Path(__file__).resolve().parents[2]


class WorkerChild:
    """One process of `miner.chain.worker`; made by `start`.

    Attributes:
        answered: how many calls it has answered.
    """

    def __init__(self, process: Process, calls: asyncio.StreamWriter, replies: asyncio.StreamReader) -> None:
        self.answered = 0
        self._process = process
        self._calls = calls
        self._replies = replies
        self._first_mib: float | None = None

    @classmethod
    async def start(cls, arguments: Sequence[str]) -> Self:
        """Start one, which takes a second or two until it answers.

        Args:
            arguments: of its command line.

        Raises:
            OSError: the process cannot be started.
        """
        # Signals of the terminal are for the miner; the worker ends when its input is closed.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "miner.chain.worker",
            *arguments,
            stdin=PIPE,
            stdout=PIPE,
            limit=LONGEST_REPLY,
            env=_environment(),
            start_new_session=True,
        )
        if process.stdin is None or process.stdout is None:
            raise OSError("the worker has no pipes")
        return cls(process, process.stdin, process.stdout)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def grown_mib(self) -> float:
        """Resident memory that it has taken since its first answer; 0 where nobody knows."""
        mib = self._resident_mib()
        return 0.0 if mib is None or self._first_mib is None else mib - self._first_mib

    async def ask(self, call: Call) -> Reply:
        """Have one call answered.

        Raises:
            OSError: the process has ended.
            ValueError: its answer is not a `Reply`.
        """
        self._calls.write(call.model_dump_json().encode() + b"\n")
        await self._calls.drain()
        line = await self._replies.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError(f"the worker ended with status {await self._process.wait()}; its log says why")
        try:
            reply = Reply.model_validate_json(line)
        except ValidationError as error:
            raise ValueError(f"the worker wrote {line[:80]!r}") from error
        self.answered += 1
        if self._first_mib is None:
            self._first_mib = self._resident_mib()
        return reply

    def kill(self) -> None:
        """End it at once; what it is asked at the moment fails."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self, grace_s: float = 0.0) -> None:
        """Close its input, and kill it if it has not ended by then.

        Args:
            grace_s: how long it may take.
        """
        self._calls.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        self.kill()
        await self._process.wait()
        with contextlib.suppress(OSError):
            await self._calls.wait_closed()

    def _resident_mib(self) -> float | None:
        # The process may have ended, and only Linux has this file.
        with contextlib.suppress(OSError, StopIteration):
            return resident_mib(self.pid)
        return None


def _environment() -> dict[str, str]:
    # The worker imports the same `miner` as we do, wherever it was started.
    paths = [str(_IMPORT_ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "BT_NO_PARSE_CLI_ARGS": "true",
    }
