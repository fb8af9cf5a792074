"""`cascade simulate`: the stream of an era, where the result is kept, and the status that it ends the command with."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from miner.cli.options import INTERRUPTED
from miner.settings import MinerSettings
from miner.simulation.result import SimulationResult
from miner.simulation.run import INTERRUPTION, SimulationSettings, simulate
from stage1.certificate.stream import Stream
from stage1.errors import SettingsError

STREAMS: dict[str, Stream] = {
    "january": "challenges-2026-01",
    "april": "challenges-2026-04",
    "may": "challenges-2026-05",
    "mixture": "mixture",
    "originals": "originals",
}


def simulated(asked: SimulationSettings, miner: MinerSettings, file: Path | None) -> SimulationResult:
    """Simulate with progress on standard error, and write the result to a file if one is named.

    Raises:
        SettingsError: the file cannot be written there, or see `miner.simulation.run.simulate`.
    """
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise SettingsError(f"--json {file}: name a file in a directory that exists")
    result = simulate(asked, miner, Console(stderr=True))
    if file is not None:
        result.write(file)
    return result


def status_of(result: SimulationResult, least: float | None) -> int:
    """Exit status: 0 if everything was sent and answered, and the mean reward is large enough.

    Args:
        result: of the simulation.
        least: smallest mean reward, None for any.
    """
    if result.stopped == INTERRUPTION:
        return INTERRUPTED
    return int(bool(result.stopped) or result.failed > 0 or (least is not None and result.paid.mean < least))
