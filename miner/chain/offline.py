"""The chain that is a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from pydantic import Field

from engines.machine.background_tasks import begun_in_thread
from miner.chain.port import AxonAddress, ChainSnapshot, Neuron
from miner.errors import ChainUnavailable
from stage1.artifacts import Artifact
from stage1.errors import ArtifactError


class ChainFile(Artifact):
    """A snapshot on disk.

    Attributes:
        block: the block it stands for.
        neurons: hotkeys (ss58 addresses) and what is known of them.
    """

    block: int = Field(default=0, ge=0)
    neurons: dict[str, Neuron] = Field(default_factory=dict)


class OfflineChain:
    """A chain without a network: neurons from memory or from a file, published addresses in memory only.

    Args:
        neurons: hotkeys and what is known of them.
        block: the block of every snapshot.
        clock: seconds since 1970.

    Attributes:
        served: the address that each hotkey has published.
    """

    def __init__(
        self,
        neurons: Mapping[str, Neuron] | None = None,
        *,
        block: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.served: dict[str, AxonAddress] = {}
        self._path: Path | None = None
        self._content = ChainFile(block=block, neurons=dict(neurons or {}))
        self._clock = clock

    @classmethod
    def from_file(cls, path: Path, *, clock: Callable[[], float] = time.time) -> Self:
        """A chain that reads `path` again for every snapshot.

        Raises:
            ChainUnavailable: the file is missing or is not a `ChainFile`.
        """
        chain = cls(clock=clock)
        chain._path = path
        chain._read()
        return chain

    async def snapshot(self) -> ChainSnapshot:
        """See `ChainPort.snapshot`."""
        try:
            await begun_in_thread(self._read, "chain file")
        except OSError as error:
            raise ChainUnavailable(f"{self._path}: cannot be read: {error}") from error
        neurons = {
            hotkey: neuron.model_copy(update={"axon": self.served.get(hotkey, neuron.axon)})
            for hotkey, neuron in self._content.neurons.items()
        }
        endpoint = "memory" if self._path is None else str(self._path)
        return ChainSnapshot(self._content.block, neurons, self._clock(), endpoint)

    async def block_time(self) -> float | None:
        """None: a file has no clock."""
        return None

    async def serve(self, hotkey: str, ip: str, port: int) -> None:
        """Note the address down."""
        self.served[hotkey] = AxonAddress(ip, port)

    async def close(self) -> None:
        """Nothing to let go of."""

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            self._content = ChainFile.read(self._path)
        except ArtifactError as error:
            raise ChainUnavailable(str(error)) from error
