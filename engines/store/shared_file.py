"""A second name for a file that nobody changes any more, without its bytes a second time where the disk can do that."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

# ioctl_ficlonerange(2): share the blocks of a whole file, on btrfs and XFS for example.
FICLONE = 0x40049409
Way = Callable[[Path, Path], None]


def share(source: Path, target: Path) -> None:
    """Have `target` hold what `source` holds: by a hard link, or else by shared blocks, or else by a copy.

    A file system may have neither, as exFAT and SMB, and no link reaches over to another one.

    Args:
        source: a file that is only ever replaced as a whole; who writes into it would change both.
        target: must not exist.

    Raises:
        OSError: the copy failed, for example because the disk is full; nothing is left at `target`.
    """
    for way in WAYS:
        with contextlib.suppress(OSError):
            way(source, target)
            return
    try:
        shutil.copyfile(source, target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def replace_by_share(source: Path, target: Path) -> None:
    """As `share`, in the place of a file that may be there: a reader sees the old one or the new one.

    Raises:
        OSError: as `share`; the old file stays.
    """
    with contextlib.suppress(FileNotFoundError):
        if target.samefile(source):
            return
    fresh = target.with_name(f".{target.name}.{os.getpid()}.partial")
    fresh.unlink(missing_ok=True)
    share(source, fresh)
    fresh.replace(target)


def _link(source: Path, target: Path) -> None:
    os.link(source, target)


def _clone(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as old, target.open("xb") as new:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
    except OSError:
        target.unlink(missing_ok=True)
        raise


WAYS: tuple[Way, ...] = (_link, _clone)
