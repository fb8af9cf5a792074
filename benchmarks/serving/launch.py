"""`cascade mine` with what a benchmark needs beside it: a chain that can fall silent, and CPU time by part.

    python -m benchmarks.serving.launch --set KEY=VALUE ... [--silence FILE] [--parts FILE]

While the file of `--silence` is there, the chain gives no answer until its deadline. With `--parts` the CPU time of
each part is written to FILE at every SIGUSR1; see `benchmarks.serving.parts`.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from pathlib import Path

from benchmarks.serving.parts import Parts
from miner import process
from miner.chain.offline import OfflineChain
from miner.chain.port import ChainPort, ChainSnapshot
from miner.chain.settings import ChainSettings
from miner.cli.options import parsed_changes
from miner.errors import ChainUnavailable
from miner.logs import configure_logging
from miner.settings import load_settings

STARTED = time.monotonic()
DEADLINE_S = 5.0


class SilentChain:
    """An offline chain that gives no answer while a file is there."""

    def __init__(self, chain: OfflineChain, file: Path) -> None:
        self._chain = chain
        self._file = file

    async def snapshot(self) -> ChainSnapshot:
        if self._file.exists():
            await asyncio.sleep(DEADLINE_S)
            raise ChainUnavailable(f"no answer within {DEADLINE_S:.0f} s")
        return await self._chain.snapshot()

    async def block_time(self) -> float | None:
        return await self._chain.block_time()

    async def serve(self, hotkey: str, ip: str, port: int) -> None:
        await self._chain.serve(hotkey, ip, port)

    async def close(self) -> None:
        await self._chain.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the miner")
    parser.add_argument("--silence", type=Path, help="the chain is silent while this file is there")
    parser.add_argument("--parts", type=Path, help="CPU time by part is written here at every SIGUSR1")
    options = parser.parse_args()
    settings = load_settings(None, parsed_changes(options.set))
    configure_logging(settings.log.level, settings.log.json_lines)
    if options.silence is not None:
        silence = options.silence

        def silent(asked: ChainSettings, _ours: object = None, **_logs: object) -> ChainPort:
            assert asked.snapshot is not None
            return SilentChain(OfflineChain.from_file(asked.snapshot), silence)

        process.open_chain = silent  # type: ignore[attr-defined, assignment]
    if options.parts is not None:
        parts = Parts()
        parts.watch()
        signal.signal(signal.SIGUSR1, lambda *_: parts.write(options.parts))
    asyncio.run(process.run_miner(settings, started=STARTED))
    process.leave_native_work()


if __name__ == "__main__":
    main()
