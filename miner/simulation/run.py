"""A simulation: a validator asks a miner about labelled pictures, and scores its answers as those of the subnet do."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from engines.store.file_names import PARAMS
from engines.store.store import Store
from miner.answering.journal import read_journal
from miner.answering.record import RequestRecord
from miner.errors import StartError
from miner.progress_display import Bars, bars
from miner.settings import MinerSettings
from miner.simulation.draw import UsedPictures, challenges
from miner.simulation.endings import joined
from miner.simulation.exchange import Challenge, Exchange, Target, target_of
from miner.simulation.keys import throw_away_key, write_chain
from miner.simulation.processes import POLL_S, Manner, MinerProcess, ValidatorProcess
from miner.simulation.result import Asked, SimulationResult, result_of
from miner.simulation.settings_file import write_settings
from offline.data.dataset import Dataset
from offline.data.sources.source import read_dataset
from stage1.certificate.params import ScrcParams
from stage1.certificate.stream import Stream
from stage1.errors import SettingsError
from stage1.settings import dotted

# Sections that a simulated miner has its own of, or none.
REPLACED = {"state", "wallet", "hotkeys", "chain", "axon", "retrain", "night", "admin", "log"}
# Statuses that every request would get.
HOPELESS = {401, 403, 404}
TOO_FAST = 429
INTERRUPTION = "interrupted"
OUR_MINER = "the miner of these settings"


@dataclass(frozen=True)
class SimulationSettings:
    """What is asked, of whom, and how.

    Attributes:
        data: directory of labelled pictures.
        stream: what is done to them.
        requests: how many are sent.
        seed: of the draws.
        concurrency: most requests that wait for an answer at one time.
        per_s: most requests that are sent in a second.
        timeout_s: how long the validator waits for an answer.
        unseen: leave out pictures that the live bundle was made with.
        url: of the miner; None to start one.
        hotkey: address of the miner at that URL.
        keys: directory that keeps the validator's wallet; None for a temporary one.
    """

    data: Path
    stream: Stream
    requests: int
    seed: int
    concurrency: int
    per_s: float
    timeout_s: float
    unseen: bool
    url: str | None = None
    hotkey: str | None = None
    keys: Path | None = None


def simulate(asked: SimulationSettings, miner: MinerSettings, console: Console) -> SimulationResult:
    """Ask a miner, and work out what a validator would pay for its answers.

    Ctrl-C and SIGTERM end the requests; what was answered until then counts.

    Args:
        asked: what is asked, of whom, and how.
        miner: settings of the miner that is started, or whose journal is read.
        console: where progress is shown.

    Raises:
        SettingsError: the URL or the address of the miner is missing or none.
        DatasetError: there are no labelled pictures.
        StartError: the miner did not start, refuses the validator, or nothing was answered.
    """
    data = read_dataset(asked.data)
    target = _target(asked)
    home = Path(tempfile.mkdtemp(prefix="cascade-simulate-"))
    with _signals() as stopped:
        try:
            with bars(console) as progress:
                result = _simulation(asked, miner, data, target, home, progress, stopped)
        except BaseException as error:
            # Unless the message names a log in there.
            if str(home) not in str(error):
                shutil.rmtree(home, ignore_errors=True)
            raise
    if result.stopped in {"", INTERRUPTION}:
        shutil.rmtree(home, ignore_errors=True)
    return result


class _Stopped:
    """Whether somebody asked for the end; what is not prepared for it is interrupted."""

    def __init__(self) -> None:
        self.asked = False
        self.prepared = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked or not self.prepared:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def _signals() -> Iterator[_Stopped]:
    stopped = _Stopped()
    before = {number: signal.signal(number, stopped) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _target(asked: SimulationSettings) -> Target | None:
    if asked.url is None:
        if asked.hotkey or asked.keys:
            raise SettingsError(
                "--hotkey and --keys are for a miner that runs: give its --miner too, or leave them out"
            )
        return None
    if asked.hotkey is None:
        raise SettingsError(
            "--miner needs --hotkey, the ss58 address of that miner: requests are signed for one receiver. The miner "
            "logs it when it is `ready`"
        )
    return target_of(asked.url, asked.hotkey)


def _simulation(
    asked: SimulationSettings,
    settings: MinerSettings,
    data: Dataset,
    target: Target | None,
    home: Path,
    progress: Bars,
    stopped: _Stopped,
) -> SimulationResult:
    keys = asked.keys or home / "keys"
    address = throw_away_key(keys, "validator")
    # Of a miner elsewhere nobody knows which bundle is live.
    bundle = _live(settings) if target is None else None
    used = None if bundle is None else UsedPictures.of(bundle)
    if asked.unseen and used is None:
        raise SettingsError("--unseen needs a live bundle of these settings that says which pictures it was made with")
    drawn = challenges(data, asked.seed, unwanted=lambda file: asked.unseen and used is not None and file in used)
    with ExitStack() as stack:
        state, miner = settings.state, None
        if target is None:
            state = home / "state"
            miner = stack.enter_context(_started(settings, home, address))
            task = progress.add_task("start the miner", total=1, note="")
            miner.wait_until_ready()
            progress.update(task, completed=1, note=f"{miner.ready_s:.1f} s")
            target = Target("127.0.0.1", miner.port, throw_away_key(home / "keys-miner", "miner"))
        manner = Manner(keys, "validator", asked.stream, asked.seed, asked.timeout_s)
        task = progress.add_task("start the validator", total=1, note="")
        validator = stack.enter_context(ValidatorProcess(target, manner, home / "validator.log"))
        validator.wait_until_ready()
        progress.update(task, completed=1)
        traffic = _Traffic(validator, miner, asked, progress, stopped)
        exchanges, problem = traffic.run(islice(drawn, asked.requests), address)
        unsent = validator.unsent
    if not exchanges:
        raise StartError(f"no request was answered: {problem or 'none could be sent'}{_first(unsent)}")
    records = joined(exchanges, read_journal(state), address)
    seen = None if used is None else sum(Path(exchange.image) in used for exchange in exchanges)
    told = Asked(
        miner=asked.url or OUR_MINER,
        stream=asked.stream,
        seed=asked.seed,
        asked_for=asked.requests,
        stopped=problem or "",
        used=seen,
        notes=tuple(_notes(asked, bundle, seen, unsent, exchanges, records)),
    )
    return result_of(told, exchanges, records)


def _live(settings: MinerSettings) -> Path:
    store = Store(settings.store)
    pointer = store.current()
    if pointer is None:
        raise StartError(
            f"{settings.store}: no bundle is current, so there is no miner to start. `cascade demo` makes one and says "
            "how to ask it; `cascade retrain --data` makes one of your pictures"
        )
    return store.path(pointer.bundle)


def _started(settings: MinerSettings, home: Path, validator: str) -> MinerProcess:
    """The miner of these settings, with keys, a chain and a journal of its own."""
    address = throw_away_key(home / "keys-miner", "miner")
    chain, file = home / "chain.json", home / "cascade.toml"
    write_chain(chain, miner=address, validator=validator, stake=settings.access.min_stake)
    kept = dotted(settings.model_dump(mode="json", exclude=REPLACED, exclude_none=True))
    ours: dict[str, Any] = {
        "state": home / "state",
        "wallet.name": "miner",
        "wallet.path": home / "keys-miner",
        "chain.kind": "offline",
        "chain.snapshot": chain,
        "chain.publish_endpoint": False,
        "axon.host": "127.0.0.1",
        "axon.port": 0,
        "log.json_lines": True,
    }
    write_settings(file, kept | ours)
    return MinerProcess(file, home / "miner.log")


class _Traffic:
    def __init__(
        self,
        validator: ValidatorProcess,
        miner: MinerProcess | None,
        asked: SimulationSettings,
        progress: Bars,
        stopped: _Stopped,
    ) -> None:
        self._validator = validator
        self._miner = miner
        self._asked = asked
        self._progress = progress
        self._stopped = stopped
        self._task = progress.add_task("ask", total=asked.requests, note="")

    def run(self, drawn: Iterator[Challenge], address: str) -> tuple[list[Exchange], str | None]:
        """Send everything; what came of it, and why not everything was sent."""
        self._stopped.prepared = True
        next_at = time.monotonic()
        problem = None
        for sent, challenge in enumerate(drawn):
            while self._problem is None and self._is_early(next_at):
                self._validator.wait_for_answer(POLL_S)
            if (problem := self._problem) is not None:
                break
            if sent == 1:
                self._check_first(address)
            self._validator.send(challenge)
            next_at = max(next_at, time.monotonic()) + 1 / self._asked.per_s
        else:
            while (problem := self._problem) is None and self._validator.in_flight:
                self._validator.wait_for_answer(POLL_S)
                self._show()
        self._stopped.prepared = False
        self._show()
        found = self._validator.exchanges(unanswered=False) if problem else self._validator.finish()
        self._check_first(address)
        return found, problem

    @property
    def _problem(self) -> str | None:
        if self._stopped.asked:
            return INTERRUPTION
        return self._validator.problem or (self._miner.problem if self._miner is not None else None)

    def _is_early(self, next_at: float) -> bool:
        self._show()
        # The first answer tells whether the others can come.
        most = self._asked.concurrency if self._validator.in_flight != len(self._validator.sent) else 1
        return self._validator.in_flight >= most or time.monotonic() < next_at

    def _show(self) -> None:
        self._progress.update(self._task, completed=len(self._validator.sent) - self._validator.in_flight)

    def _check_first(self, address: str) -> None:
        found = self._validator.exchanges(unanswered=False)
        if not found or found[0].answered:
            return
        first = found[0]
        if first.status in HOPELESS:
            hint = {
                401: "Is --hotkey the address of this miner?",
                403: f"Let the miner admit {address}: put it into access.extra_hotkeys, start it again, and keep this "
                "key for the next time with --keys DIRECTORY",
                404: "Is it a miner of subnet 72?",
            }[first.status]
            raise StartError(f"the miner refuses the validator with status {first.status}: {first.message} {hint}")
        if not first.replied and self._miner is None and "unavailable" in first.message:
            raise StartError(f"{self._asked.url}: nothing listens there ({first.message})")


def _notes(
    asked: SimulationSettings,
    bundle: Path | None,
    used: int | None,
    unsent: list[str],
    exchanges: list[Exchange],
    records: list[RequestRecord | None],
) -> Iterator[str]:
    if used:
        yield (
            f"{used} of {len(exchanges)} requests show pictures that the live bundle was made with: expect less of "
            "others; --unseen leaves these out"
        )
    if bundle is not None and used is None:
        yield "the live bundle does not say with which pictures it was made: answers to those say little"
    if bundle is not None:
        certified = ScrcParams.read(bundle / PARAMS).stream
        if certified != asked.stream:
            yield f"the certificate of the live bundle is for stream {certified}; asked was stream {asked.stream}"
    if not any(record is not None for record in records):
        yield (
            "which stage answered is not known: the journal of this miner is not in the state directory of these "
            "settings"
        )
    if any(exchange.status == TOO_FAST for exchange in exchanges):
        yield "this miner lets one hotkey ask less often (access.requests_per_s and access.burst): lower --rate"
    if unsent:
        yield f"{len(unsent)} requests could not be sent for want of their picture{_first(unsent)}"


def _first(unsent: list[str]) -> str:
    return f", the first: {unsent[0]}" if unsent else ""
