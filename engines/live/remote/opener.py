"""Opens the engines of bundles that servers compute, in place of those of this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from engines.backends.registry import largest_engine, open_engine
from engines.batches import buckets
from engines.engine import Engine
from engines.errors import EXPECTED, BundleRefused, EngineError, InferenceError, RemoteError
from engines.live.load.golden_check import check_parity
from engines.live.remote.engine import RemoteEngine
from engines.live.remote.last_resort import LastResort
from engines.live.remote.network import Network
from engines.live.remote.seat import LOOKED_AT, Asked, Seat
from engines.live.remote.settings import RemoteSettings
from engines.machine.memory import admit, available_bytes
from engines.remote.bundle_version import version_of
from engines.remote.http import Client
from engines.remote.inference_server import InferenceServer
from engines.remote.model_control import load_model
from engines.remote.repository.model_repository import ModelRepository
from engines.spec import REFERENCE, EngineSpec
from engines.store.bundle import Manifest, certified_spec
from engines.store.file_names import GOLDEN, MANIFEST
from engines.store.golden import read_golden
from stage1.errors import Stage1Error

log = structlog.get_logger(__name__)


class RemoteEngines:
    """Opens engines that servers compute, as `engines.backends.registry.open_engine` opens those of this process.

    Args:
        urls: of the servers, at least one.
        settings: how they are asked.
        most: images of the largest batch.
        memory: memory that is left for an engine of this process, bytes.
    """

    def __init__(
        self,
        urls: Sequence[str],
        settings: RemoteSettings,
        *,
        most: int,
        memory: Callable[[], int | None] = available_bytes,
    ) -> None:
        self._urls, self._settings, self._most, self._memory = tuple(urls), settings, most, memory
        self._network = Network()
        self._client = Client(connections=(settings.connections + 1) * len(urls))
        self._open: list[RemoteEngine] = []
        # What another miner takes at most that has them all load.
        self._loading_s = (len(urls) + 1) * settings.load_s
        self._repository = None if settings.repository is None else ModelRepository(settings.repository, settings.model)

    def open(
        self, spec: EngineSpec, model: Path, *, compiled: Path | None = None, threads: int | None = None
    ) -> RemoteEngine:
        """The engine of a bundle; which servers may answer is found out by `RemoteEngine.warm_up`.

        Args:
            spec: the engine that servers are to compute.
            model: the graph; the rest of the bundle lies beside it.
            compiled: of an engine of this process, see `open_engine`.
            threads: of an engine of this process.

        Raises:
            BundleRefused: what lies beside the graph is no bundle, or it does not fit into the repository.
            stage1.errors.ArtifactError: the manifest is damaged.
        """
        home = model.parent
        manifest = Manifest.read(home / MANIFEST)
        images, expected = read_golden(home / GOLDEN)
        asked = Asked(
            self._settings.model,
            version_of(manifest.bundle_id),
            home / GOLDEN,
            images[:LOOKED_AT].copy(),
            expected,
            manifest.parity_tolerance,
            certified_spec(home).precision,
            spec,
        )
        self._put_in_place(home)

        def opens() -> Engine:
            return self._own(asked, model, compiled, threads)

        engine = RemoteEngine(
            lambda on_up: [Seat(self._client, url, asked, self._settings.timeout_s, on_up) for url in self._urls],
            asked,
            self._network,
            LastResort(None if self._settings.last_resort == "never" else opens),
            self._settings,
            waits=bool(self._open),
            on_close=self._gone,
        )
        self._open.append(engine)
        return engine

    def close(self) -> None:
        """Close all that is open, and the connections."""
        for engine in list(self._open):
            engine.close()
        with contextlib.suppress(InferenceError):
            self._network.run(self._client.aclose())
        self._network.close()

    def _put_in_place(self, home: Path) -> None:
        """Write the bundle into the repository, and have the servers load it that have not got it yet."""
        if self._repository is not None:
            version = self._repository.add(home)
            # Of several miners one has them load, and the others find the version there.
            with self._repository.loading(self._loading_s):
                self._network.run(self._load_everywhere(version))

    async def _load_everywhere(self, version: str | None) -> None:
        """Have all servers load what the repository has, or only those that lack a version.

        One after the other: a server answers more slowly while it loads.
        """
        for url in self._urls:
            try:
                if version is None or not await self._has(url, version):
                    await load_model(self._client, url, self._settings.model, self._settings.load_s)
            except RemoteError as error:
                log.warning("stage1_server_does_not_load", server=url, model=self._settings.model, reason=str(error))

    async def _has(self, url: str, version: str) -> bool:
        try:
            await InferenceServer(self._client, url, self._settings.model, version).metadata(self._settings.timeout_s)
        except RemoteError:
            return False
        return True

    def _gone(self, engine: RemoteEngine) -> None:
        """Have the servers unload what nobody needs any more, after the pointer has moved."""
        with contextlib.suppress(ValueError):
            self._open.remove(engine)
        if self._repository is None or not self._open:
            return
        try:
            if self._repository.prune({one.version for one in self._open}, self._settings.keep):
                with self._repository.loading(self._loading_s):
                    self._network.run(self._load_everywhere(None))
        except EXPECTED as error:
            log.warning("stage1_repository_not_pruned", reason=str(error))

    def _own(self, asked: Asked, model: Path, compiled: Path | None, threads: int | None) -> Engine:
        """The engine of this process, after the same check that the servers had to pass."""
        chosen = asked.spec if asked.spec.device == "cpu" else REFERENCE
        sizes = ((path.name, path.stat().st_size) for path in model.parent.iterdir())
        height, width = asked.shape
        admit(largest_engine(sizes, chosen), self._memory(), self._most * height * width)
        engine = open_engine(chosen, model, compiled=compiled, threads=threads)
        try:
            engine.warm_up(self._most)
            check_parity(engine, asked.golden, asked.tolerance, precision=asked.certified, sizes=buckets(self._most))
        except (Stage1Error, EngineError) as error:
            engine.close()
            raise BundleRefused(f"the engine of this process: {error}") from error
        except BaseException:
            engine.close()
            raise
        return engine
