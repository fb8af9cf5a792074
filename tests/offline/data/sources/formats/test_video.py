"""A frame of a video: what tells its state from another one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from offline.data.sources.formats import video
from offline.data.sources.formats.video import Frame
from offline.pipeline.file_contents import FileContents


def test_a_frame_is_read_again_where_another_version_decodes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are made by the decoder and the encoder: a remembered hash would be that of no bytes that come now."""
    clip, cache, said = tmp_path / "clip.mp4", tmp_path / "contents.json", [b"a frame"]
    clip.write_bytes(b"a video")
    frames = {name: Frame(clip, at_s) for name, at_s in (("one", 1.0), ("two", 2.0))}
    monkeypatch.setattr(Frame, "read_bytes", lambda _: said[0])
    before = FileContents(cache).of(frames)
    said[0] = b"a frame of another decoder"
    # As long as nothing else is installed, a frame is decoded once.
    assert FileContents(cache).of(frames) == before
    monkeypatch.setattr(video, "installed", lambda name: f"another {name}")
    assert FileContents(cache).of(frames) == dict.fromkeys(frames, hashlib.sha256(said[0]).hexdigest())
