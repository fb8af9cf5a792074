from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from stage1.artifacts import Artifact, append_line, append_lines, fsync_tree, sha256_file, sha256_json, write_atomic
from stage1.errors import ArtifactError


class Thing(Artifact):
    name: str
    sizes: dict[str, int] = Field(default_factory=dict)


class Line(BaseModel):
    text: str


def contents(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class TestWriteAtomic:
    def test_replaces_the_content(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        for content in (b"old", b"", b"new and longer"):
            write_atomic(path, content)
            assert path.read_bytes() == content
        assert contents(tmp_path) == ["file"]

    def test_a_full_disk_leaves_the_old_content_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "file"
        write_atomic(path, b"old")

        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(path, b"new")
        assert path.read_bytes() == b"old"
        assert contents(tmp_path) == ["file"]

    def test_an_interrupt_leaves_the_old_content_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "file"
        write_atomic(path, b"old")

        def interrupted(_self: Path, _target: Path) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_atomic(path, b"new")
        assert path.read_bytes() == b"old"
        assert contents(tmp_path) == ["file"]

    def test_a_place_that_cannot_be_replaced_keeps_no_leftover(self, tmp_path: Path) -> None:
        (tmp_path / "taken").mkdir()
        with pytest.raises(OSError, match="directory"):
            write_atomic(tmp_path / "taken", b"new")
        assert contents(tmp_path) == ["taken"]

    def test_flushes_the_file_before_the_rename_and_the_directory_after(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order: list[str] = []
        real_fsync, real_replace = os.fsync, Path.replace

        def fsync(descriptor: int) -> None:
            order.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")  # noqa: PTH112
            real_fsync(descriptor)

        def replace(self: Path, target: Path) -> Path:
            order.append("rename")
            return real_replace(self, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "replace", replace)
        write_atomic(tmp_path / "file", b"content")
        assert order == ["file", "rename", "directory"]


class TestAppendLine:
    def test_appends(self, tmp_path: Path) -> None:
        path = tmp_path / "lines"
        append_line(path, Line(text="first"))
        append_line(path, Line(text="second\nwith a break"))
        assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == [
            "first",
            "second\nwith a break",
        ]

    @pytest.mark.parametrize("torn", ['{"te', "", '{"text":"first"}'])
    def test_a_line_that_a_crash_cut_short_does_not_take_the_next_one_with_it(self, tmp_path: Path, torn: str) -> None:
        path = tmp_path / "lines"
        path.write_text(torn)
        append_line(path, Line(text="whole"))
        assert path.read_text().splitlines()[-1] == '{"text":"whole"}'

    def test_appends_several(self, tmp_path: Path) -> None:
        path = tmp_path / "lines"
        path.write_text('{"te')
        append_lines(path, [Line(text="first"), Line(text="second")])
        assert path.read_text().splitlines()[1:] == ['{"text":"first"}', '{"text":"second"}']


class TestArtifact:
    def test_round_trip(self, tmp_path: Path) -> None:
        thing = Thing(name="näme", sizes={"b": 1, "a": 2})
        thing.write(tmp_path / "thing.json")
        assert Thing.read(tmp_path / "thing.json") == thing
        assert (tmp_path / "thing.json").read_bytes().endswith(b"}\n")

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b'{"schema_version": 2, "name": "x"}', "schema_version is 2, this program reads 1"),
            (b'{"schema_version": 2, "name": "x", "new": 1}', "schema_version is 2, this program reads 1"),
            (b'{"schema_version": 2}', "schema_version is 2, this program reads 1"),
            (b'{"name": "x", "colour": "red"}', "colour: Extra inputs are not permitted"),
            (b'{"sizes": {}}', "name: Field required"),
            (b'{"name": "x", "sizes": {"a": "many"}}', "sizes.a: Input should be a valid integer"),
            (b"[1]", "not a valid Thing: the file"),
            (b'{"name": "x"', "not a valid Thing: the file: Invalid JSON"),
            (b"", "not a valid Thing: the file: Invalid JSON"),
            (b"\xff\xfe", "not a valid Thing: the file: Invalid JSON"),
        ],
    )
    def test_refuses_with_the_file_and_the_reason(self, tmp_path: Path, content: bytes, problem: str) -> None:
        path = tmp_path / "thing.json"
        path.write_bytes(content)
        with pytest.raises(ArtifactError) as refused:
            Thing.read(path)
        assert str(refused.value).startswith(f"{path}: ")
        assert problem in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"nothing\.json: cannot be read \(No such file"):
            Thing.read(tmp_path / "nothing.json")

    @pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
    def test_numbers_that_are_none_are_refused(self, tmp_path: Path, value: str) -> None:
        class Number(Artifact):
            value: float

        (tmp_path / "number.json").write_text(f'{{"value": {value}}}')
        with pytest.raises(ArtifactError):
            Number.read(tmp_path / "number.json")

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_floats_survive_exactly(self, value: float) -> None:
        class Number(Artifact):
            value: float

        assert Number.model_validate_json(Number(value=value).to_json()).value == value


class TestHashes:
    def test_of_json_ignores_the_order_of_keys_and_nothing_else(self) -> None:
        assert sha256_json({"a": 1, "b": [1, 2]}) == sha256_json({"b": [1, 2], "a": 1})
        assert sha256_json({"a": 1, "b": [1, 2]}) != sha256_json({"a": 1, "b": [2, 1]})
        assert sha256_json("1") != sha256_json(1)

    def test_of_a_file_is_of_its_content(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"abc")
        assert sha256_file(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

    def test_flushing_a_tree_leaves_it_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "b" / "file").write_bytes(b"abc")
        fsync_tree(tmp_path)
        assert (tmp_path / "a" / "b" / "file").read_bytes() == b"abc"
