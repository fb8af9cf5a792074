"""The other side: the bundles of a store as the versions of one model, for a server of ours on somebody's framework.

A bundle is loaded when it is asked for first, or before that if it becomes current, and passes every check that a miner
has for it: hashes, certificate, golden images at every size of batch.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import structlog

from engines.batches import BUCKETS
from engines.engine import HEAD_PREFIX, OUTPUTS
from engines.errors import EXPECTED, InferenceError, UnknownBundle
from engines.live.load.load_bundle import LiveBundle, load_bundle
from engines.remote.bundle_version import MODEL, version_of
from engines.remote.protocol_app import Arrays
from engines.spec import EngineSpec
from engines.store.holds import Holds
from engines.store.store import Store
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

log = structlog.get_logger(__name__)

# The live bundle of a miner, the one that stands by, and the one that is being loaded.
KEPT = 3
# Between two looks at the pointer, and at a bundle that could not be loaded: each of those reads all of it.
LOOK_S, AGAIN_S = 2.0, 60.0


class StoreModel:
    """A `ServedModel` of a store's bundles.

    Args:
        root: of the store.
        name: of the model.
        spec: another engine than the one that each bundle was certified on, if its golden images agree.
        threads: intra-op threads of each engine; None for all cores.
        max_batch: images of the largest batch.
        kept: bundles that stay loaded.
        clock: monotonic time in seconds.

    Raises:
        UnknownBundle: no bundle is current.
        BundleRefused: the current one may not serve.
    """

    def __init__(
        self,
        root: Path,
        *,
        name: str = MODEL,
        spec: EngineSpec | None = None,
        threads: int | None = None,
        max_batch: int = BUCKETS[-1],
        kept: int = KEPT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.max_batch = name, max_batch
        self._store, self._spec, self._threads, self._kept, self._clock = Store(root), spec, threads, kept, clock
        self._holds = Holds(root)
        self._loaded: dict[str, LiveBundle] = {}
        self._used: dict[str, float] = {}
        self._users: dict[str, int] = {}
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._closed = False
        current = self._bring(version_of(self._current()))
        about = current.engine.describe()
        self.platform, self.shape = about.runtime, about.shape
        self.outputs = _numbers(current)

    @property
    def versions(self) -> tuple[str, ...]:
        """Every bundle of the store, the current one last."""
        current = version_of(self._current())
        return (*(version for version in self._bundles() if version != current), current)

    def compute(self, version: str, images: Pixels) -> Arrays:
        """See `ServedModel.infer`; on the thread that calls, and from several."""
        bundle = self._lent(version)
        try:
            parts = [images[at : at + self.max_batch] for at in range(0, len(images), self.max_batch)]
            found = Stage1Outputs.concatenate([bundle.engine.infer(part) for part in parts])
        finally:
            self._give_back(version)
        heads = {HEAD_PREFIX + name: values for name, values in found.heads.items()}
        return dict(zip(OUTPUTS, (found.logits, found.select_score), strict=True)) | heads

    async def infer(self, version: str, images: Pixels) -> Arrays:
        """See `ServedModel.infer`."""
        return await asyncio.to_thread(self.compute, version, images)

    async def load(self) -> None:
        """See `ServedModel.load`: the current bundle."""
        await asyncio.to_thread(self._bring, version_of(self._current()))

    async def follow(self) -> None:
        """Load whatever becomes current, before somebody asks for it; for ever, whatever a bundle leads to."""
        refused, told, until = "", "", 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            wanted = ""
            try:
                wanted = await asyncio.to_thread(self._current)
                if wanted != refused or self._clock() >= until:
                    await asyncio.to_thread(self._bring, version_of(wanted))
                    refused = told = ""
            except Exception as error:
                refused, until = wanted, self._clock() + AGAIN_S
                if str(error) != told:
                    told = str(error)
                    # What a bundle, a store or a disk leads to needs no traceback.
                    log.warning("bundle_refused", reason=told, exc_info=not isinstance(error, EXPECTED))

    def close(self) -> None:
        """Free everything; what is computing ends first."""
        with self._loading, self._lock:
            self._closed = True
            for version in list(self._loaded):
                if not self._users.get(version):
                    self._drop(version)

    def _current(self) -> str:
        pointer = self._store.current()
        if pointer is None:
            raise UnknownBundle(f"{self._store.root}: no bundle is current; run `cascade retrain` first")
        return pointer.bundle

    def _bundles(self) -> dict[str, Path]:
        return {version_of(row.manifest.bundle_id): row.path for row in self._store.bundles()}

    def _lent(self, version: str) -> LiveBundle:
        while True:
            with self._lock:
                if self._closed:
                    raise InferenceError("the server is closed")
                bundle = self._loaded.get(version)
                if bundle is not None:
                    self._users[version] = self._users.get(version, 0) + 1
                    self._used[version] = self._clock()
                    return bundle
            self._bring(version)

    def _give_back(self, version: str) -> None:
        with self._lock:
            self._users[version] -= 1
            if self._closed and not self._users[version]:
                self._drop(version)

    def _bring(self, version: str) -> LiveBundle:
        """Load a version, unless it is loaded; only one at a time, for others wait for the same one most often."""
        with self._loading:
            if self._closed:
                raise InferenceError("the server is closed")
            if version in self._loaded:
                return self._loaded[version]
            path = self._bundles().get(version)
            if path is None:
                raise InferenceError(f"the store has no bundle that is version {version}")
            self._holds.begin(path.name)
            try:
                bundle = load_bundle(path, spec=self._spec, threads=self._threads, most=self.max_batch)
            except BaseException:
                self._holds.end(path.name)
                raise
            log.info("bundle_loaded", bundle=path.name, version=version, engine=str(bundle.engine.describe()))
            with self._lock:
                self._loaded[version], self._used[version] = bundle, self._clock()
                # Not what was asked for: where all others are in use it would be loaded again and again.
                idle = sorted(
                    (used, one) for one, used in self._used.items() if one != version and not self._users.get(one)
                )
                for _, one in idle[: max(0, len(self._loaded) - self._kept)]:
                    self._drop(one)
            return bundle

    def _drop(self, version: str) -> None:
        bundle = self._loaded.pop(version)
        del self._used[version]
        self._users.pop(version, None)
        bundle.close()
        self._holds.end(bundle.bundle_id)


def _numbers(bundle: LiveBundle) -> dict[str, int]:
    """Numbers of each image, by output."""
    height, width = bundle.engine.describe().shape
    found = bundle.engine.infer(np.zeros((1, 3, height, width), np.uint8))
    heads = {HEAD_PREFIX + name: values.shape[1] for name, values in found.heads.items()}
    return dict(zip(OUTPUTS, (found.logits.shape[1], 1), strict=True)) | heads
