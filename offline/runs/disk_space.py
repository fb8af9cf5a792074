"""Room on the disk: what directories take, what a night needs, and what to do when there is too little."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from offline.errors import DiskFull

BLOCK = 512
# Of the last few runs the largest, and a little more for what is there only while a stage works.
RUNS_ASKED, MARGIN = 7, 1.5
# Weights of a night, trained, chosen and exported, in fp32, with what a checkpoint has beside them.
COPIES, BYTES_EACH = 4, 4
Free = Callable[[Path], int]


class _File(NamedTuple):
    device: int
    inode: int


def allocated(places: Iterable[Path], *, without: Iterable[Path] = ()) -> int:
    """Bytes that files below some directories take on the disk; one with several names is counted once.

    Args:
        places: directories, or files; those that are not there take nothing.
        without: directories whose files do not count, wherever else they have names.
    """
    known = {file for file, _ in _files(without)}
    sizes = {file: about.st_blocks * BLOCK for file, about in _files(places) if file not in known}
    return sum(sizes.values())


def freed(places: Iterable[Path]) -> int:
    """Bytes that the removal of some directories gives back: a file that has a name elsewhere stays."""
    names: Counter[_File] = Counter()
    about: dict[_File, os.stat_result] = {}
    for file, status in _files(places):
        names[file] += 1
        about[file] = status
    return sum(status.st_blocks * BLOCK for file, status in about.items() if names[file] >= status.st_nlink)


def inodes_of(places: Iterable[Path]) -> set[tuple[int, int]]:
    """Device and number of every file below some directories, which all names of one file have in common."""
    return {(file.device, file.inode) for file, _ in _files(places)}


def free_bytes(place: Path) -> int:
    """Room on the disk of a directory, which need not be there yet."""
    there = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def night_bytes(disk_bytes: Sequence[int], parameters: int | None) -> tuple[int, str]:
    """What a night needs, and how that is known; nothing where nothing tells.

    Args:
        disk_bytes: what earlier runs took, the latest last.
        parameters: of the backbone; None if they are not known.
    """
    late = [size for size in disk_bytes if size][-RUNS_ASKED:]
    if late:
        which = "the last run" if len(late) == 1 else f"the largest of the last {len(late)} runs"
        return round(MARGIN * max(late)), f"{which} took {gigabytes(max(late))}"
    if parameters is not None:
        return COPIES * BYTES_EACH * parameters, f"the backbone has {parameters / 1e6:.0f} million parameters"
    return 0, ""


def check_room(
    workspace: Path,
    need: int,
    reason: str,
    *,
    collect: Callable[[], object],
    free: Free = free_bytes,
) -> None:
    """Stop before a night that the disk has no room for, after what nobody needs was removed.

    Args:
        workspace: where the night writes.
        need: bytes that it needs.
        reason: how that is known.
        collect: removes what nobody needs; called if there is too little.
        free: tells the room on the disk of a directory, bytes.

    Raises:
        DiskFull: there is too little all the same; says how much is missing and what helps.
    """
    if need <= free(workspace):
        return
    collect()
    there = free(workspace)
    if need <= there:
        return
    raise DiskFull(
        f"{workspace}: a night needs about {gigabytes(need)} ({reason}), and {gigabytes(there)} are free there: free "
        f"{gigabytes(need - there)}, keep fewer runs with a smaller gate.keep, or move workspace and store to a larger "
        "disk; `cascade runs list` shows what each run takes"
    )


def gigabytes(size: int) -> str:
    """A size in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _files(places: Iterable[Path]) -> Iterator[tuple[_File, os.stat_result]]:
    for place in places:
        # Not `rglob`: a directory may go meanwhile.
        inside = (Path(home, name) for home, _, names in os.walk(place) for name in names)
        for path in [place] if place.is_file() else inside:
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            yield _File(status.st_dev, status.st_ino), status
