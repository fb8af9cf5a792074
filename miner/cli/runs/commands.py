"""`cascade runs list|show|diff|gc`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from miner.cli.options import DEFAULT_STORE, DEFAULT_WORKSPACE, PATH, StoreOption, clear_errors, say

runs = typer.Typer(
    name="runs",
    help="Look at what nights came to, compare two, and remove what nobody needs any more.",
    no_args_is_help=True,
)

WorkspaceOption = Annotated[Path, typer.Option("--workspace", help="Where finished stages are kept.", **PATH)]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
RunArgument = Annotated[str, typer.Argument(help="Id, its beginning, or `last`.")]


@runs.command("list")
def runs_list(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE, store: StoreOption = DEFAULT_STORE, *, as_json: JsonOption = False
) -> None:
    """List the runs that came to their end, oldest first, with what each came to and what it takes on the disk.

    Examples: `cascade runs list` · `cascade runs list --json`
    """
    with clear_errors():
        from miner.cli.runs.text import list_runs  # noqa: PLC0415

        say(list_runs(workspace, store, as_json=as_json))


@runs.command("show")
def runs_show(
    run: RunArgument = "last",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    store: StoreOption = DEFAULT_STORE,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show a run: its verdict with the reasons, its certificate, its stages with their time, and where its files are.

    Examples: `cascade runs show` · `cascade runs show 3f2a`
    """
    with clear_errors():
        from miner.cli.runs.text import show_run  # noqa: PLC0415

        say(show_run(workspace, store, run, as_json=as_json))


@runs.command("diff")
def runs_diff(
    one: RunArgument,
    other: RunArgument = "last",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    store: StoreOption = DEFAULT_STORE,
    *,
    as_json: JsonOption = False,
) -> None:
    """Say what two runs differ in: settings, data and what they came to.

    Examples: `cascade runs diff 3f2a` · `cascade runs diff 3f2a 91cc --json`
    """
    with clear_errors():
        from miner.cli.runs.text import compare_runs  # noqa: PLC0415

        say(compare_runs(workspace, store, one, other, as_json=as_json))


@runs.command("gc")
def runs_gc(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    store: StoreOption = DEFAULT_STORE,
    keep: Annotated[
        int | None, typer.Option(min=2, help="Runs that stay; by default gate.keep of the last run.")
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and how much it frees.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove old runs, stages and bundles, as every night does at its end.

    The newest runs stay, and all that the current bundle, the one before it, one that a miner uses and the best of the
    last 90 days were made by; of every bundle the record stays.

    Examples: `cascade runs gc --dry-run` · `cascade runs gc --keep 5`
    """
    with clear_errors():
        from engines.machine.clock import utc_now  # noqa: PLC0415
        from miner.cli.runs.text import collect_runs  # noqa: PLC0415

        say(collect_runs(workspace, store, keep, utc_now(), dry_run=dry_run, as_json=as_json))
