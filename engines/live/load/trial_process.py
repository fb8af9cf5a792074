"""Loading a bundle on trial: a process that goes down with it leaves the miner running.

The child does all that loading does, with every golden image at every batch size.
"""

from __future__ import annotations

from pathlib import Path

import typer

from engines.errors import BundleRefused
from engines.machine.child import TIMEOUT_S, Child, answer
from engines.spec import EngineSpec


def try_out(
    child: Child,
    directory: Path,
    *,
    spec: EngineSpec | None = None,
    compiled: Path | None = None,
    threads: int | None,
    most: int,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Load a bundle and throw it away.

    Args:
        child: runs it.
        directory: the bundle.
        spec: another engine than the one that was certified; None for that one.
        compiled: directory of what was compiled for this machine; None for what the bundle holds.
        threads: intra-op threads of the engine; None for all cores.
        most: largest batch that will be asked of it.
        timeout_s: after so long it has failed.

    Raises:
        BundleRefused: it was refused, or the child crashed or took too long.
        Interrupted: it is not wanted any more.
    """
    arguments = [str(directory), "--most", str(most)]
    arguments += [] if threads is None else ["--threads", str(threads)]
    arguments += [] if spec is None else ["--spec", spec.model_dump_json()]
    arguments += [] if compiled is None else ["--compiled", str(compiled)]
    try:
        child.run("engines.live.load.trial_process", arguments, doing="loading it on trial", timeout_s=timeout_s)
    except BundleRefused as error:
        raise BundleRefused(f"{directory.name}: {error}") from None


def main(
    directory: Path,
    *,
    most: int = 1,
    threads: int | None = None,
    spec: str | None = None,
    compiled: Path | None = None,
) -> None:
    """Load the bundle in DIRECTORY, and say why it is refused if it is."""

    def load() -> None:
        from engines.live.load.load_bundle import load_bundle  # noqa: PLC0415  at low priority, too

        chosen = None if spec is None else EngineSpec.model_validate_json(spec)
        try:
            load_bundle(directory, spec=chosen, compiled=compiled, threads=threads, most=most).close()
        except BundleRefused as error:
            raise BundleRefused(str(error).removeprefix(f"{directory.name}: ")) from None

    answer(load)


if __name__ == "__main__":
    typer.run(main)
