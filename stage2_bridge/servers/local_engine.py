"""A Stage-2 in this process: a larger engine than Stage-1's."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engines.backends.onnxruntime import OnnxEngine
from engines.errors import InferenceError
from engines.live.load.load_bundle import check_shape
from engines.store.file_names import CALIBRATOR, ENGINE, PREPROCESS
from stage1.artifacts import sha256_file
from stage1.errors import Stage1Error
from stage1.preprocess import PreprocessSettings, preprocess
from stage1.probability.calibrator import ProbabilityCalibrator
from stage2_bridge.client import ImageRefused, ServerIdentity, Stage2Error


class LocalEngineClient:
    """Answers with a compiled engine on a thread of its own.

    Args:
        directory: holds `model.onnx`, `preprocess.json` and `calibrator.json`.
        threads: intra-op threads of the engine.
        name: what the journal calls it.

    Raises:
        engines.errors.BundleRefused: the engine cannot be loaded.
        stage1.errors.ArtifactError: a settings file is missing or damaged.
    """

    def __init__(self, directory: Path, *, threads: int | None = None, name: str = "local-engine") -> None:
        self._name = name
        self._directory = directory
        self._preprocess = PreprocessSettings.read(directory / PREPROCESS)
        self._calibrator = ProbabilityCalibrator.read(directory / CALIBRATOR)
        self._engine = OnnxEngine(directory / ENGINE, threads=threads)
        check_shape(self._engine, self._preprocess, str(directory))
        self._engine.warm_up(1)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="stage2")

    @property
    def name(self) -> str:
        """See `Stage2Client.name`."""
        return self._name

    async def ask(self, content: bytes, timeout_s: float) -> float:  # noqa: ARG002  the bridge ends the wait
        """See `Stage2Client.ask`."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._infer, content)

    async def check(self, timeout_s: float) -> str:  # noqa: ARG002  it was loaded and warmed up before
        """See `Checked.check`."""
        height, width = self._preprocess.shape
        return f"an engine of this process for images of {height} x {width} px"

    async def identity(self, timeout_s: float) -> ServerIdentity:  # noqa: ARG002  nothing is asked of anybody
        """See `Checked.identity`: the engine's bytes are its version, and its calibrator is in the fingerprint."""
        return await asyncio.to_thread(self._identity)

    async def close(self) -> None:
        """See `Stage2Client.close`."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._engine.close()

    def _identity(self) -> ServerIdentity:
        engine, calibrator = (sha256_file(self._directory / name) for name in (ENGINE, CALIBRATOR))
        return ServerIdentity.made(
            "engine", self._name, ENGINE, engine, calibrator=calibrator, preprocess=self._preprocess.sha256
        )

    def _infer(self, content: bytes) -> float:
        try:
            pixels = preprocess(content, self._preprocess)
        except Stage1Error as error:
            raise ImageRefused(str(error)) from error
        try:
            outputs = self._engine.infer(pixels[None])
        except (Stage1Error, InferenceError) as error:
            raise Stage2Error(str(error)) from error
        return float(self._calibrator.probability(outputs)[0])
