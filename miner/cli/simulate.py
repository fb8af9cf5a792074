"""`cascade simulate`: the stream of an era, where the result is kept, and the status that it ends the command with."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from miner.cli.options import INTERRUPTED, PATH, ChangeOption, ConfigOption, clear_errors, parsed_changes
from stage1.errors import SettingsError

if TYPE_CHECKING:
    from miner.settings import MinerSettings
    from miner.simulation.result import SimulationResult
    from miner.simulation.run import SimulationSettings
    from stage1.certificate.stream import Stream


class EraName(StrEnum):
    """Since when validators did to pictures what `cascade simulate` does."""

    JANUARY = "january"
    APRIL = "april"
    MAY = "may"
    MIXTURE = "mixture"
    ORIGINALS = "originals"


STREAMS: dict[EraName, Stream] = {
    EraName.JANUARY: "challenges-2026-01",
    EraName.APRIL: "challenges-2026-04",
    EraName.MAY: "challenges-2026-05",
    EraName.MIXTURE: "mixture",
    EraName.ORIGINALS: "originals",
}


def simulated(asked: SimulationSettings, miner: MinerSettings, file: Path | None) -> SimulationResult:
    """Simulate with progress on standard error.

    Args:
        asked: what is asked, of whom, and how.
        miner: settings of the miner that is started, or whose journal is read.
        file: where the result is to be written afterwards; None for nowhere.

    Raises:
        SettingsError: no file can be written there, or see `miner.simulation.run.simulate`.
    """
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise SettingsError(f"--json {file}: name a file in a directory that exists")
    from rich.console import Console  # noqa: PLC0415

    from miner.simulation import run  # noqa: PLC0415

    return run.simulate(asked, miner, Console(stderr=True))


def status_of(result: SimulationResult, least: float | None) -> int:
    """Exit status: 0 if everything was sent and answered, and the mean reward is large enough.

    Args:
        result: of the simulation.
        least: smallest mean reward, None for any.
    """
    from miner.simulation.run import INTERRUPTION  # noqa: PLC0415

    if result.stopped == INTERRUPTION:
        return INTERRUPTED
    return int(bool(result.stopped) or result.failed > 0 or (least is not None and result.paid.mean < least))


def simulate(
    folder: Annotated[Path, typer.Argument(help="Directory of labelled pictures, with labels.csv.", **PATH)],
    era: Annotated[EraName, typer.Option(help="What is done to pictures: as validators did since this month.")] = (
        EraName.MAY
    ),
    requests: Annotated[int, typer.Option(min=1, help="How many requests are sent.")] = 300,
    miner: Annotated[
        str | None, typer.Option(metavar="URL", help="http://HOST:PORT of a miner that runs; default: start one.")
    ] = None,
    hotkey: Annotated[str | None, typer.Option(metavar="SS58", help="Address of the miner at that URL.")] = None,
    keys: Annotated[
        Path | None, typer.Option(help="Keep the validator's throw-away wallet here, to admit it once.", **PATH)
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests that wait at one time, at most.")] = 1,
    rate: Annotated[float, typer.Option(min=0.01, help="Requests a second, at most.")] = 20.0,
    timeout: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds that an answer is waited for.")] = 9.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws of pictures and of what is done to them.")] = 0,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="Leave out pictures that the live bundle was made with.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything, request by request.", **PATH)
    ] = None,
    fail_under: Annotated[
        float | None, typer.Option(min=0, max=1, help="End with status 1 if the mean reward is lower.")
    ] = None,
    config: ConfigOption = None,
    change: ChangeOption = None,
) -> None:
    """Ask a miner as validators do, and say what they would pay for its answers and where reward is lost.

    Without --miner, the miner of these settings is started with throw-away keys, asked and stopped.

    Examples: `cascade simulate roads/` · `cascade simulate roads/ --era mixture --requests 1000 --json result.json` ·
    `cascade simulate roads/ --miner http://127.0.0.1:8091 --hotkey 5F... --keys validator/`
    """
    with clear_errors():
        from rich.console import Console  # noqa: PLC0415

        from miner.settings import load_settings  # noqa: PLC0415
        from miner.simulation.run import SimulationSettings  # noqa: PLC0415
        from miner.simulation.summary import NARROWEST, render_result  # noqa: PLC0415

        asked = SimulationSettings(
            data=folder,
            stream=STREAMS[era],
            requests=requests,
            seed=seed,
            concurrency=concurrency,
            per_s=rate,
            timeout_s=timeout,
            unseen=unseen,
            url=miner,
            hotkey=hotkey,
            keys=keys,
        )
        result = simulated(asked, load_settings(config, parsed_changes(change)), json_file)
        # A narrower terminal breaks the lines, which loses no number.
        Console(width=max(Console().width, NARROWEST)).print(render_result(result))
        # After it is shown: the disk may be full.
        if json_file is not None:
            result.write(json_file)
        raise typer.Exit(status_of(result, fail_under))
