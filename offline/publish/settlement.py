"""Who settles a store: one night at a time judges its challenger and moves the pointer, whatever its workspace or host.

The night holds a file lock, which the system gives back when its process ends, however it ends. So on one machine a
free lock means that nobody is at work. Some file systems keep locks from other hosts. So the night also writes who it
is, and counts up in that file while it lives. Of another host's night nobody can tell whether it lives, so its place is
taken only when it has not counted for as long as it said that it may be silent, by the clock of whoever waits.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar

from filelock import FileLock, Timeout
from pydantic import AwareDatetime

from engines.machine.clock import boot_id
from offline.errors import PipelineBusy
from stage1.artifacts import Artifact
from stage1.errors import ArtifactError

RECORD, LOCK = "settlement.json", ".settlement.lock"
# A night may be silent for so long, and it counts several times as often.
SILENCE_S, BEATS = 60.0, 4
WAIT_S, POLL_S = 900.0, 0.5


class Holder(Artifact):
    """`settlement.json` of a store, while a night settles it.

    Attributes:
        token: of this settlement.
        owner: workspace of the night.
        host: name of its machine.
        boot: id of the start of its machine; empty where the system does not tell.
        pid: its process.
        since: when it began, UTC.
        expires_at: when it is given up if it counts no more, by its own clock.
        silence_s: how long it may be silent.
        beat: how often it has counted.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    token: str
    owner: str
    host: str
    boot: str
    pid: int
    since: AwareDatetime
    expires_at: AwareDatetime
    silence_s: float
    beat: int = 0

    @property
    def life(self) -> tuple[str, int, float, str]:
        """What tells whether it lives: token, count, how long it may be silent, start of its machine."""
        return self.token, self.beat, self.silence_s, self.boot

    @property
    def words(self) -> str:
        """Who it is."""
        return f"the night of {self.owner} on {self.host}, process {self.pid}, since {self.since:%Y-%m-%d %H:%M:%S} UTC"


class Settlement:
    """A settlement that is held; see `settlement`.

    Args:
        path: of the record.
        holder: what is in it.
        now: wall-clock time, UTC.
    """

    def __init__(self, path: Path, holder: Holder, now: Callable[[], datetime]) -> None:
        self._path, self._holder, self._now = path, holder, now
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="settlement", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that it is still held, before anything of the store is changed by it.

        Raises:
            PipelineBusy: it was silent for too long, so another night has taken its place.
        """
        there = _read(self._path)
        if there is None or there.token != self._holder.token:
            who = "nobody" if there is None else there.words
            raise PipelineBusy(
                f"{self._path.parent}: this night was silent for too long and does not settle the store any more, but "
                f"{who}; nothing was changed; try again"
            )

    def end(self) -> None:
        """Give it back."""
        self._ended.set()
        self._thread.join()
        there = _read(self._path)
        if there is not None and there.token == self._holder.token:
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(self._holder.silence_s / BEATS):
            # A disk that is full or away for a moment: the next one may be written.
            with suppress(OSError, PipelineBusy):
                self.check()
                silence = timedelta(seconds=self._holder.silence_s)
                changes = {"beat": self._holder.beat + 1, "expires_at": self._now() + silence}
                self._holder = self._holder.model_copy(update=changes)
                self._holder.write(self._path)


@contextmanager
def settlement(
    store: Path,
    owner: Path,
    *,
    now: Callable[[], datetime],
    note: Callable[[str], None] = lambda _: None,
    wait_s: float = WAIT_S,
    silence_s: float = SILENCE_S,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Settlement]:
    """Settle a store, after whoever does so now.

    Args:
        store: its root, created if it is not there.
        owner: workspace of the night.
        now: wall-clock time, UTC.
        note: told once for whom it waits.
        wait_s: how long it waits.
        silence_s: how long this night may be silent before another one takes its place.
        clock: monotonic time in seconds.

    Raises:
        PipelineBusy: it has waited for so long; names who settles it.
    """
    store.mkdir(parents=True, exist_ok=True)
    path, deadline, told = store / RECORD, clock() + wait_s, False

    def wait(who: Holder | None) -> None:
        nonlocal told
        words = "another night" if who is None else who.words
        if not told:
            note(f"waits for {words} to settle the store")
            told = True
        if clock() >= deadline:
            raise PipelineBusy(f"{store}: {words} settles this store; try again when it has")
        time.sleep(POLL_S)

    lock = FileLock(store / LOCK)
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            wait(_read(path))
    try:
        held = _taken(path, owner, now, silence_s, clock, wait)
        try:
            yield held
        finally:
            held.end()
    finally:
        lock.release()


def _taken(
    path: Path,
    owner: Path,
    now: Callable[[], datetime],
    silence_s: float,
    clock: Callable[[], float],
    wait: Callable[[Holder | None], None],
) -> Settlement:
    """Write the record, when nobody else's is there whose night may live; the lock of this machine is held."""
    seen: tuple[str, int] | None = None
    since = clock()
    while True:
        there = _read(path)
        if there is None and not path.exists():
            holder = Holder(
                token=secrets.token_hex(8),
                owner=str(owner.absolute()),
                host=socket.gethostname(),
                boot=boot_id(),
                pid=os.getpid(),
                since=now(),
                expires_at=now() + timedelta(seconds=silence_s),
                silence_s=silence_s,
            )
            if _created(path, holder):
                return Settlement(path, holder, now)
            continue
        # Of a record that was cut short nobody knows more than that it does not change.
        token, beat, silence, boot = ("", 0, SILENCE_S, "") if there is None else there.life
        if (token, beat) != seen:
            seen, since = (token, beat), clock()
        # The lock of a night of this machine would not be free if it lived.
        if (boot and boot == boot_id()) or clock() - since > silence:
            _give_up(path, token)
            continue
        wait(there)


def _created(path: Path, holder: Holder) -> bool:
    """Write a record that nobody else has written meanwhile; says whether it did."""
    try:
        with path.open("xb") as handle:
            handle.write(holder.to_json())
            handle.flush()
            os.fsync(handle.fileno())
    except FileExistsError:
        return False
    return True


def _give_up(path: Path, token: str) -> None:
    """Take the record of a night that is dead away, and put another one back that has come in its place."""
    moved = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with suppress(FileNotFoundError):
        path.rename(moved)
        there = _read(moved)
        if there is not None and there.token != token and not path.exists():
            moved.rename(path)
        moved.unlink(missing_ok=True)


def _read(path: Path) -> Holder | None:
    """The record; None where there is none, or none that can be read."""
    try:
        return Holder.read(path)
    except ArtifactError:
        return None
