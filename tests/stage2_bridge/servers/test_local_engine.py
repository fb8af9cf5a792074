"""Who answers where the server is an engine of this process."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from engines.store.file_names import CALIBRATOR, ENGINE, PREPROCESS
from stage1.artifacts import sha256_file
from stage1.preprocess import PreprocessSettings
from stage2_bridge.client import ServerIdentity
from stage2_bridge.servers.local_engine import LocalEngineClient
from tests.support.calibrators import calibrator_of_slopes


def identity(directory: Path, name: str = "local-engine") -> ServerIdentity:
    async def run() -> ServerIdentity:
        client = LocalEngineClient(directory, threads=1, name=name)
        try:
            return await client.identity(5.0)
        finally:
            await client.close()

    return asyncio.run(run())


def test_an_engine_is_known_by_its_bytes_and_its_calibrator(tmp_path: Path, tiny_engine: Path) -> None:
    first, copy, other = tmp_path / "first", tmp_path / "copy", tmp_path / "other"
    first.mkdir()
    (first / ENGINE).write_bytes(tiny_engine.read_bytes())
    PreprocessSettings(size_px=32).write(first / PREPROCESS)
    calibrator_of_slopes(0.5, 0.5).write(first / CALIBRATOR)
    shutil.copytree(first, copy)
    shutil.copytree(first, other)
    calibrator_of_slopes(0.9, 0.5).write(other / CALIBRATOR)
    one = identity(first)
    assert (one.kind, one.name, one.version) == ("engine", "local-engine", sha256_file(tiny_engine))
    assert identity(copy, "another").fingerprint == one.fingerprint
    assert identity(other).fingerprint != one.fingerprint
