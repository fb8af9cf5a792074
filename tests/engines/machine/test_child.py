"""A child that was begun to end with its parent."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import asyncio, sys
from engines.machine.bounds import end_with_parent

async def main():
    child = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True, preexec_fn=end_with_parent)
    print(child.pid, flush=True)
    await child.wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot")
def test_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """A miner that is killed would leave its nightly job, which holds the workspace of the next one."""
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _is_running(child)
        parent.kill()
    deadline = time.monotonic() + 60
    while _is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        # One that nobody has waited for is there still.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z" and os.getpgid(pid) > 0
    return False
