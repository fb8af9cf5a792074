"""A file is told from another one by what is in it, and is read once for each of its states."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from offline.pipeline import file_contents
from offline.pipeline.file_contents import FileContents
from stage1.artifacts import sha256_file


class Reads:
    """Counts the files that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        real = sha256_file

        def counted(path: Path) -> str:
            self.paths.append(path.name)
            return real(path)

        monkeypatch.setattr(file_contents, "sha256_file", counted)


def test_a_file_is_read_once_and_again_when_it_changes_though_its_size_and_its_time_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(monkeypatch)
    files = {name: tmp_path / name for name in ("a", "b")}
    for path in files.values():
        path.write_bytes(b"one")
    cache = tmp_path / "work" / "contents.json"
    first = FileContents(cache).of(files)
    assert first == dict.fromkeys(files, hashlib.sha256(b"one").hexdigest())
    assert FileContents(cache).of(files) == first
    assert sorted(reads.paths) == ["a", "b"]
    before = files["a"].stat()
    other = tmp_path / "other"
    other.write_bytes(b"two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(files["a"])
    assert FileContents(cache).of(files)["a"] == hashlib.sha256(b"two").hexdigest()
    assert sorted(reads.paths) == ["a", "a", "b"]


def test_a_file_that_is_not_there_has_no_content(tmp_path: Path) -> None:
    assert FileContents(None).of({"gone": tmp_path / "gone"}) == {"gone": None}
    assert FileContents(None).below([tmp_path / "gone"]) == {str(tmp_path / "gone"): None}


def test_a_directory_is_all_files_below_it(tmp_path: Path) -> None:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for name in ("b", "deep/a"):
        (tmp_path / "images" / name).write_text(name)
    assert list(FileContents(None).below([tmp_path / "images"])) == [
        str(tmp_path / "images" / name) for name in ("b", "deep/a")
    ]


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 1, "files": {"a": 3}}', '{"version": 0}'])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, content: str) -> None:
    cache = tmp_path / "contents.json"
    cache.write_text(content)
    (tmp_path / "a").write_text("one")
    files = {"a": tmp_path / "a"}
    assert FileContents(cache).of(files) == FileContents(None).of(files)
    assert '"version": 1' in cache.read_text()


def test_hashes_of_files_that_are_gone_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_contents, "SPARE", 3)
    cache = tmp_path / "work" / "contents.json"
    for night in range(20):
        files = {str(path): path for path in (tmp_path / f"{night}-{number}" for number in range(4))}
        for path in files.values():
            path.write_bytes(path.name.encode())
        other = tmp_path / "of another data directory"
        other.write_bytes(b"other")
        FileContents(cache).of({str(other): other})
        assert None not in FileContents(cache).of(files).values()
        for path in files.values():
            path.unlink()
    known = json.loads(cache.read_bytes())["files"]
    # Never more than twice what there is, and those.
    assert len(known) <= 2 * 5 + 3
    reads = Reads(monkeypatch)
    # What is there is known still, though a night did not ask for it.
    FileContents(cache).of({str(other): other})
    assert reads.paths == []
