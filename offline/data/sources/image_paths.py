"""From the path that a labels file writes to the file that is there, or to one sentence on why there is none."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from offline.errors import DatasetError, MissingImage

SHOWN = 3
LONGEST_SHOWN = 120
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp"})

_URL = re.compile(r"[a-z][a-z0-9+.-]+:(//|[a-z]+/)", re.IGNORECASE)
_DRIVE = re.compile(r"[a-z]:[\\/]|\\\\", re.IGNORECASE)
# What Label Studio puts before the name of a file that was uploaded.
UPLOADED = re.compile(r"[0-9a-f]{8}-")


class ImagePaths:
    r"""Finds the files of a data directory by the paths that people write.

    A path is read as it is, and with `/` for `\`. An absolute one may lead into the directory; of one with a drive that
    part is read which follows a directory of the same name. Each reading means the file that is spelled so, or else
    those whose letters are composed otherwise, or else those in another case. Only one file may be meant.

    Args:
        root: the data directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, text: str) -> str:
        """The path of the file below the directory, with `/`, as it is spelled on the disk.

        Args:
            text: as the labels file has it.

        Raises:
            MissingImage: no file can be meant; says what is there.
            DatasetError: more than one can, or it is no path inside the directory.
        """
        if not text:
            raise DatasetError("image is empty, expected a path inside the data directory")
        if "\\" not in text and self._is_file(text) and not _outside(text):
            return str(PurePosixPath(text))
        readings = self._readings(text)
        inside = [str(PurePosixPath(path)) for path in readings if not _outside(path)]
        found = sorted({file for path in inside for file in self._meant(path)})
        if len(found) > 1:
            raise DatasetError(f"image {_short(text)} may be {' or '.join(found)}: {_which(found)}")
        if found:
            return found[0]
        if _outside(readings[-1]):
            raise DatasetError(
                f"image {_short(text)} must be a relative path inside the data directory {self._root}: "
                f"{self._what_is_there(text)}"
            )
        raise MissingImage(f"image {_short(text)} is not in {self._root}: {self._what_is_there(text)}")

    def _readings(self, text: str) -> list[str]:
        """The paths that a text can stand for, those with `/` last."""
        if _URL.match(text):
            raise DatasetError(
                f"image {_short(text)} is an address, expected a relative path inside the data directory: "
                f"{self._what_is_there(text)}"
            )
        slashed = text.replace("\\", "/")
        if _DRIVE.match(text):
            return self._behind_its_name(slashed) or [slashed]
        return [self._below_root(text), self._below_root(slashed)]

    def _behind_its_name(self, absolute: str) -> list[str]:
        """What follows each directory that is called like the data directory: of drives nothing else is known."""
        name, parts = _folded(self._root.resolve().name), absolute.split("/")
        return ["/".join(parts[place + 1 :]) for place, part in enumerate(parts[:-1]) if _folded(part) == name]

    def _below_root(self, absolute: str) -> str:
        """An absolute path without the data directory, or as it is."""
        for root in (self._root.absolute(), self._root.resolve()):
            if PurePosixPath(absolute).is_relative_to(root.as_posix()):
                return PurePosixPath(absolute).relative_to(root.as_posix()).as_posix()
        return absolute

    def _is_file(self, path: str) -> bool:
        try:
            return (self._root / path).is_file()
        except (OSError, ValueError):
            # Longer than a file system allows, or no path at all.
            return False

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        """Every file by its path without regard to case and to how letters are composed."""
        found: dict[str, list[str]] = {}
        for directory, _, names in sorted(os.walk(self._root)):
            below = Path(directory).relative_to(self._root)
            for name in sorted(names):
                path = (below / name).as_posix()
                found.setdefault(_folded(path), []).append(path)
        return found

    def _meant(self, path: str) -> list[str]:
        """The files that one reading of a path means."""
        if self._is_file(path):
            return [path]
        alike = self._files.get(_folded(path), [])
        composed = [other for other in alike if _composed(other) == _composed(path)]
        return composed or alike

    def _what_is_there(self, text: str) -> str:
        """A file that is called like it, or the first few."""
        last = unquote(text.replace("\\", "/").rpartition("/")[2])
        names = {_folded(last), _folded(UPLOADED.sub("", last, count=1))}
        pictures = [path for paths in self._files.values() for path in paths if Path(path).suffix.lower() in PICTURES]
        same = [path for path in pictures if names & {_folded(Path(path).name), _folded(Path(path).stem)}]
        if same:
            return f"there is {_list(same)}; write the path of the file"
        return f"there is {_list(pictures)}" if pictures else "there is no picture"


def _outside(path: str) -> bool:
    pure = PurePosixPath(path)
    return pure.is_absolute() or ".." in pure.parts or _DRIVE.match(path) is not None


def _which(found: Sequence[str]) -> str:
    """What to do where several files can be meant; no path means a file with a backslash in its name alone."""
    odd = [file for file in found if "\\" in file]
    if not odd:
        return "write which"
    return f"write which with /, or give {_list(odd)} a name without a backslash, which may stand for /"


def _composed(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def _folded(path: str) -> str:
    return _composed(_composed(path).casefold())


def _short(text: str) -> str:
    return repr(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}...")


def _list(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return f"{', '.join(paths[:SHOWN])}{more}"
