"""A process of its own bears what native code may do to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from engines.errors import BundleRefused, Interrupted
from engines.live.load.trial_process import try_out
from engines.machine import child as child_module
from engines.machine.child import Child
from engines.store.bundle import Provenance
from engines.store.store import Store

Publish = Callable[..., Path]
DEADLINE_S = 60.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def publish(
    tmp_path: Path,
    write_onnx: Callable[..., Path],
    write_bundle_files: Callable[..., Path],
    provenance: Provenance,
) -> Publish:
    def publish_one(**changes: float) -> Path:
        files = write_bundle_files(tmp_path / f"files{len(changes)}", engine=write_onnx(tmp_path / "a.onnx"), **changes)
        store = Store(tmp_path / "store")
        return store.path(store.publish(files, provenance))

    return publish_one


@pytest.fixture
def instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have the child run this code instead."""

    def patch(code: str) -> None:
        (tmp_path / "instead.py").write_text(code)
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path / 'instead.py'}\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return patch


def test_a_good_bundle_passes_and_a_bad_one_says_why(publish: Publish) -> None:
    try_out(Child(), publish(), threads=1, most=2)
    bad = publish(golden_shift=1.0)
    with pytest.raises(BundleRefused, match=rf"^{bad.name}: at batch size 1, outputs differ from the golden ones by 1"):
        try_out(Child(), bad, threads=1, most=2)


def test_a_crash_in_native_code_is_a_refusal(tmp_path: Path, instead: Callable[[str], None]) -> None:
    instead("import ctypes\nprint('about to crash', flush=True)\nctypes.string_at(0)\n")
    with pytest.raises(BundleRefused, match=r"was ended by signal 11: about to crash"):
        try_out(Child(), tmp_path, threads=1, most=1)


def test_a_crash_need_not_leave_text(tmp_path: Path, instead: Callable[[str], None]) -> None:
    instead("import ctypes, os\nos.write(1, bytes([0xff, 0xfe]))\nctypes.string_at(0)\n")
    with pytest.raises(BundleRefused, match="was ended by signal 11"):
        try_out(Child(), tmp_path, threads=1, most=1)


def test_a_child_that_fails_otherwise_is_a_refusal(tmp_path: Path, instead: Callable[[str], None]) -> None:
    instead("raise SystemExit(9)\n")
    with pytest.raises(BundleRefused, match="ended with status 9: it said nothing"):
        try_out(Child(), tmp_path, threads=1, most=1)


def test_one_that_never_ends_is_given_up(tmp_path: Path, instead: Callable[[str], None]) -> None:
    instead("import time\ntime.sleep(600)\n")
    with pytest.raises(BundleRefused, match="on trial took over 0 s"):
        try_out(Child(), tmp_path, threads=1, most=1, timeout_s=0.3)


@pytest.mark.parametrize("way", ["interrupt", "cancel"])
def test_it_can_be_ended(tmp_path: Path, instead: Callable[[str], None], way: str) -> None:
    instead("import time\ntime.sleep(600)\n")
    child = Child()
    timer = threading.Timer(0.5, getattr(child, way))
    timer.start()
    begun = time.monotonic()
    # The second time there is no process to be ended, and none is started.
    for _ in range(2):
        with pytest.raises(Interrupted):
            try_out(child, tmp_path, threads=1, most=1)
    assert time.monotonic() - begun < 300
    timer.join()
    child.begin()
    if way == "interrupt":
        child.check()
    else:
        with pytest.raises(Interrupted):
            child.check()


@pytest.fixture
def no_signal_ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes are in the driver: what is killed stays there, and is put into this list."""
    left: list[subprocess.Popen[bytes]] = []
    kill = subprocess.Popen.kill

    def stays(process: subprocess.Popen[bytes]) -> None:
        left.append(process)

    monkeypatch.setattr(child_module, "END_S", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "kill", stays)
        yield left
    for process in left:
        kill(process)
        process.wait()


class TestInTheDriver:
    """A process that was killed and does not end is left behind, and nobody waits for it."""

    def test_one_that_takes_too_long(
        self,
        tmp_path: Path,
        instead: Callable[[str], None],
        no_signal_ends: list[subprocess.Popen[bytes]],
    ) -> None:
        instead("import time\ntime.sleep(600)\n")
        with capture_logs() as logs, pytest.raises(BundleRefused, match="on trial took over 0 s"):
            try_out(Child(), tmp_path, threads=1, most=1, timeout_s=0.3)
        [told] = [line for line in logs if line["event"] == "child_left_behind"]
        assert told["pid"] == no_signal_ends[0].pid
        assert "dmesg" in told["advice"]
        assert no_signal_ends[0].returncode is None

    @pytest.mark.parametrize("way", ["interrupt", "cancel"])
    def test_one_that_is_not_wanted_any_more(
        self, tmp_path: Path, instead: Callable[[str], None], no_signal_ends: list[subprocess.Popen[bytes]], way: str
    ) -> None:
        instead(f"import time\nopen({str(tmp_path / 'begun')!r}, 'w').close()\ntime.sleep(600)\n")
        child, told = Child(), list[BaseException]()

        def work() -> None:
            try:
                try_out(child, tmp_path, threads=1, most=1)
            except Interrupted as error:
                told.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        until((tmp_path / "begun").exists)
        getattr(child, way)()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
        assert len(told) == 1
        assert no_signal_ends[0].returncode is None


def test_what_it_began_may_live_on_with_its_output(tmp_path: Path, instead: Callable[[str], None]) -> None:
    """A compiler of its own, for example, that nobody has told of the crash."""
    instead(
        "import os, subprocess, sys\n"
        "other = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'other')!r}, 'w').write(str(other.pid))\n"
        "print('about to crash', flush=True)\n"
        "os.kill(os.getpid(), 11)\n"
    )
    try:
        with pytest.raises(BundleRefused, match="was ended by signal 11: about to crash"):
            try_out(Child(), tmp_path, threads=1, most=1)
    finally:
        os.kill(int((tmp_path / "other").read_text()), signal.SIGKILL)


def test_it_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """A compiler takes all cores for minutes, and nobody waits for its answer any more."""
    pid = tmp_path / "pid"
    work = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    (tmp_path / "busy.py").write_text(f"from engines.machine.child import answer\nanswer(lambda: exec({work!r}))\n")
    parent = subprocess.Popen(
        [sys.executable, "-c", "from engines.machine.child import Child; Child().run('busy', [], doing='it')"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    deadline = time.monotonic() + 600
    while not (pid.exists() and pid.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    stat = Path(f"/proc/{pid.read_text()}/stat")
    while stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
