"""The files of an archive for support: each is gathered by itself, and one that fails says so in its place."""

from __future__ import annotations

import http.client
import json
import os
import platform
import sys
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from engines.machine.cores import usable_cores
from engines.machine.gpu import find_gpu
from engines.store.file_names import CONFIG, MANIFEST, METRICS, PARAMS, PREPROCESS
from engines.store.store import Store
from miner.admin.client import asked
from miner.answering.journal import FILE as JOURNAL
from miner.live_risk.live_risk import DIRECTORY
from miner.live_risk.summary import SUMMARY
from miner.nights.record import NIGHTS, OUTPUT, Nights
from miner.settings import MinerSettings
from miner.update.check import DISTRIBUTION
from stage1.errors import CascadeError

JOURNAL_LINES, LOG_BYTES = 200, 2 * 2**20
# Nights whose output is taken; the records are of all that are kept.
NIGHTS_TOLD = 3
OF_BUNDLE = (MANIFEST, PARAMS, PREPROCESS, CONFIG, METRICS)


@dataclass(frozen=True)
class Part:
    """One file of the archive.

    Attributes:
        name: its path there.
        what: what it is, for a person.
        read: makes its text.
    """

    name: str
    what: str
    read: Callable[[], Awaitable[str]]


def parts(
    settings: MinerSettings, settings_text: str, doctor: Callable[[], Awaitable[str]], logs: list[Path]
) -> list[Part]:
    """Everything that is gathered, in the order of the archive.

    Args:
        settings: of the miner.
        settings_text: as `cascade config show` prints them.
        doctor: what `cascade doctor` says.
        logs: files of logs, of which the end is taken.
    """
    port, state = settings.admin.port, settings.state
    found = [
        Part("versions.json", "versions of this program, Python, packages and the machine", _later(versions)),
        Part("settings.toml", "the settings, each with where it comes from", _later(lambda: settings_text)),
        Part("doctor.txt", "what cascade doctor says", doctor),
    ]
    if port:
        found += [
            Part("status.json", "what the running miner says of itself", _later(lambda: asked(port, "/status"))),
            Part("metrics.txt", "its metrics", _later(lambda: asked(port, "/metrics"))),
        ]
    found.append(
        Part("journal.jsonl", f"the last {JOURNAL_LINES} answers", _later(lambda: last_lines(state / JOURNAL)))
    )
    found += _as_far_as_it_goes(_of_state, state)
    found += _as_far_as_it_goes(_of_bundle, settings.store)
    found += [
        Part(f"logs/{number}-{log.name}", f"the end of {log.name}", _later(partial(log_end, log)))
        for number, log in enumerate(logs)
    ]
    return found


def _as_far_as_it_goes(listed: Callable[[Path], Iterator[Part]], directory: Path) -> Iterator[Part]:
    """The parts of a directory, and in place of those that cannot be listed, why."""
    try:
        yield from listed(directory)
    except OSError as error:
        why = f"not there: {error}\n"
        yield Part(f"{directory.name}-not-listed.txt", f"why {directory} is not whole", _later(lambda: why))


def _later(make: Callable[[], str]) -> Callable[[], Awaitable[str]]:
    async def read() -> str:
        return make()

    return read


async def gathered(part: Part) -> str:
    """The text of a part, or why there is none."""
    try:
        return await part.read()
    except (CascadeError, OSError, http.client.HTTPException, ValueError) as error:
        return f"not there: {error}\n"
    except Exception as error:  # noqa: BLE001  a fault of this program is what the archive is to show
        return f"not there: {error!r}\n\n{''.join(traceback.format_exception(error))}"


def versions() -> str:
    """Versions as JSON."""
    packages = {one.name: one.version for one in metadata.distributions() if one.name}
    return json.dumps(
        {
            "program": packages.get(DISTRIBUTION, "not installed"),
            "python": sys.version,
            "platform": platform.platform(),
            "cores": usable_cores(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "gpu": find_gpu().model_dump(),
            "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
        },
        indent=2,
    )


def last_lines(path: Path) -> str:
    """The last lines of the journal."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return "".join(deque(file, JOURNAL_LINES))


def log_end(path: Path) -> str:
    """The end of a log, from the beginning of a line on."""
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - LOG_BYTES)
        file.seek(start)
        content = file.read()
    return (content.partition(b"\n")[2] if start else content).decode(errors="replace")


def _of_state(state: Path) -> Iterator[Part]:
    """Small records that a miner keeps: of nights, of what it watches."""
    # Not as they are on the disk: a record has the token of its processes.
    yield Part("state/nights.json", "what came of the nights", _later(lambda: _nights(state)))
    outputs = [night.home / OUTPUT for night in Nights(state).latest(NIGHTS_TOLD)]
    kept = [*state.glob("*.json"), *(state / NIGHTS).glob("*.log"), state / DIRECTORY / SUMMARY, *outputs]
    for path in sorted(kept):
        if not path.is_symlink() and path.is_file():
            yield Part(f"state/{path.relative_to(state)}", "a record of the miner", _later(partial(log_end, path)))


def _nights(state: Path) -> str:
    return json.dumps([night.plain() for night in Nights(state).all()], indent=2)


def _of_bundle(root: Path) -> Iterator[Part]:
    store = Store(root)
    try:
        pointer = store.current()
    except (CascadeError, OSError):
        pointer = None
    if pointer is not None:
        directory = store.path(pointer.bundle)
        for name in OF_BUNDLE:
            if (directory / name).is_file():
                what = "the certificate of the live bundle" if name == PARAMS else "of the live bundle"
                yield Part(f"bundle/{name}", what, _later(partial(log_end, directory / name)))
