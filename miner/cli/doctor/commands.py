"""`cascade doctor`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from miner.cli.drop_in import EnvFileOption, settings_of
from miner.cli.options import ChangeOption, ConfigOption, clear_errors, parsed_changes, say


def doctor(
    context: typer.Context,
    config: ConfigOption = None,
    change: ChangeOption = None,
    env_file: EnvFileOption = None,
    peer: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Look at another miner's axon from here instead: http://ADDRESS:PORT."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the findings as one object of JSON.")] = False,
) -> None:
    """Check everything a miner needs, ask one that runs whether it is ready, and whether validators are asking at all.

    Each line is ok, warning or error, and says what to do. The status is 1 if there is an error. It understands what
    `cascade mine` does of the reference miner's flags.

    With `--peer` it asks another miner's axon from this machine, without a signature, so that the answer is a refusal:
    whether it can be reached, how fast, and what the chain says of its address.

    Examples: `cascade doctor` · `cascade doctor --json` · `cascade doctor --env-file miner.env` ·
    `cascade doctor --peer http://203.0.113.7:8091`
    """
    with clear_errors():
        import asyncio  # noqa: PLC0415

        from engines.machine.clock import utc_now  # noqa: PLC0415
        from miner.cli.doctor.diagnosis import Diagnosis, Finding, warning, worst  # noqa: PLC0415
        from miner.cli.doctor.text import rendered, show  # noqa: PLC0415
        from miner.logs import configure_logging  # noqa: PLC0415

        used = settings_of(context, config, parsed_changes(change), env_file)
        # What goes well is in what the doctor says.
        configure_logging("WARNING", used.settings.log.json_lines)
        findings: list[Finding]
        if peer is None:
            from miner.cli.doctor.examination import examine  # noqa: PLC0415

            subject, findings = str(used.settings.state.resolve()), asyncio.run(examine(used.settings))
        else:
            from miner.cli.doctor.peer import Peer, examine_peer  # noqa: PLC0415

            asked = Peer.of(peer)
            subject, findings = str(asked), asyncio.run(examine_peer(asked, used.settings))
        findings += [warning("flags", f"{one.name} {one.consequence}") for one in used.remarks]
        verdict = worst(findings)
        if as_json:
            told = Diagnosis(
                program=_version(), at=utc_now(), subject=subject, verdict=verdict, findings=tuple(findings)
            )
            say(told.model_dump_json(indent=2))
        elif sys.stdout.isatty():
            from rich.console import Console  # noqa: PLC0415

            show(findings, Console())
        else:
            say(rendered(findings))
        raise typer.Exit(verdict == "error")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    from miner.update.check import DISTRIBUTION  # noqa: PLC0415

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "not installed"
