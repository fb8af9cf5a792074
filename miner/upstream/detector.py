"""The live bundle as a detector of the reference miner, for who stays with that miner."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import structlog
from PIL import Image

from engines.errors import EngineError, UnknownBundle
from engines.live.load.load_bundle import LiveBundle, load_bundle
from engines.store.store import Store
from stage1.errors import Stage1Error
from stage1.preprocess import preprocess_picture
from stage1.probability.calibrator import answer_probability

log = structlog.get_logger(__name__)

NAME = "CASCADE"
DEFAULT_STORE = "cascade-data/engines"


class Registry(Protocol):
    """The registry of detectors of the reference miner, as far as it is used here."""

    def register_module(self, module_name: str) -> Any:  # noqa: ANN401  a decorator of classes
        """A decorator that enters a class under a name."""


class LiveDetector:
    """Answers pictures with the current bundle of a store, and follows its pointer between two pictures.

    A new bundle is loaded in a thread while the old one answers. One that is refused leaves the old one in place.

    Args:
        store: directory of bundles.
        threads: intra-op threads of the engine; None for all cores.

    Raises:
        UnknownBundle: no bundle is current.
        BundleRefused: the current one fails a check.
    """

    def __init__(self, store: Path, *, threads: int | None = None) -> None:
        self._store = Store(store)
        self._threads = threads
        self._one_at_a_time = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="stage1-load")
        self._loading: Future[LiveBundle] | None = None
        self._seen = self._pointer()
        wanted = self._wanted()
        if wanted is None:
            raise UnknownBundle(f"{store}: no bundle is current; `cascade retrain` makes one")
        self._live = self._load(wanted)

    @property
    def bundle_id(self) -> str:
        """Id of the bundle that answers."""
        return self._live.bundle_id

    def probability(self, picture: Image.Image) -> float:
        """Probability of roadwork in [0, 1]: on the side of the exit label, and of a deferred picture as calibrated.

        Args:
            picture: as `PIL.Image.open` returns it.

        Raises:
            ImageError: it cannot be decoded.
            EngineError: the engine fails.
        """
        with self._one_at_a_time:
            self._follow()
            live = self._live
            outputs = live.engine.infer(np.stack([preprocess_picture(picture, live.preprocess)]))
            decisions = live.policy.decide(outputs)
            return float(answer_probability(live.calibrator.probability(outputs), decisions)[0])

    def close(self) -> None:
        """Free the engine."""
        self._pool.shutdown(wait=True)
        with self._one_at_a_time:
            self._take()
            self._live.close()

    def _follow(self) -> None:
        self._take()
        pointer = self._pointer()
        if self._loading is not None or pointer == self._seen:
            return
        self._seen = pointer
        wanted = self._wanted()
        if wanted is not None and wanted != self._live.bundle_id:
            self._loading = self._pool.submit(self._load, wanted)

    def _take(self) -> None:
        if self._loading is None or not self._loading.done():
            return
        loading, self._loading = self._loading, None
        try:
            new = loading.result()
        except (EngineError, Stage1Error, OSError) as error:
            log.error("bundle_refused", reason=str(error))
            return
        old, self._live = self._live, new
        old.close()
        log.info("bundle_live", bundle=new.bundle_id)

    def _load(self, bundle: str) -> LiveBundle:
        return load_bundle(self._store.path(bundle), threads=self._threads, most=1)

    def _wanted(self) -> str | None:
        try:
            pointer = self._store.current()
        except (Stage1Error, OSError) as error:
            log.error("pointer_unreadable", reason=str(error))
            return None
        return None if pointer is None else pointer.bundle

    def _pointer(self) -> tuple[int, int] | None:
        try:
            found = self._store.pointer_path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns


def register_detector(registry: Registry, base: type[Any], name: str = NAME) -> type[Any]:
    """Enter the live bundle into the registry of the reference miner.

    The YAML file that `--neuron.image_detector_config` names may hold `store`, the directory of bundles, and `threads`.
    The device is that of the engine that the bundle was certified on.

    Args:
        registry: `DETECTOR_REGISTRY`.
        base: `FeatureDetector`.
        name: what `--neuron.image_detector` calls it.

    Returns:
        The class that was entered.
    """

    class CascadeDetector(base):  # type: ignore[misc]  # the base is known at run time alone
        """P(roadwork) of a picture from the live bundle."""

        store: str = DEFAULT_STORE
        threads: int | None = None

        def __init__(self, model_name: str = name, config_name: str | None = None, device: str = "cpu") -> None:
            super().__init__(model_name, config_name, device)

        def load_model(self) -> None:
            """Load the current bundle."""
            self.detector = LiveDetector(Path(self.store).expanduser(), threads=self.threads)

        def __call__(self, image: Image.Image) -> float:
            """Probability of roadwork, in [0, 1]."""
            return self.detector.probability(image)

    entered: type[Any] = registry.register_module(module_name=name)(CascadeDetector)
    return entered
