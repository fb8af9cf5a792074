"""Half an hour in the life of a miner: validators are answered while everything else goes on.

    python -m benchmarks.mixed_load
    python -m benchmarks.mixed_load --minutes 3 --json load.json

`cascade mine` serves a small random network. From a process of its own it is asked by four validators, by a stranger,
by callers whose requests are broken or slow, and by a permitted hotkey that is hostile: PNGs of 8000x8000, bodies that
never end, floods, headers that take every place. The rates are printed. Meanwhile bundles are swapped five times, and
for a sixth of the time the chain gives no answer. After a warm-up and at the end the load pauses, so that memory,
threads and descriptors are compared at rest. Ends with status 1 if a valid request got no answer within the 9 s that a
validator waits, or if the miner has grown.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.made_bundles import SMALL, export, publish
from benchmarks.serving.miner import Home, Miner, wait_until
from benchmarks.serving.spread import quantiles_ms
from benchmarks.serving.traffic import FLOOD_EVERY_S, FLOODED, HELD, RATES, VALID, Outcome, send
from benchmarks.serving.usage import MIB, CpuClock, Usage
from miner.answering.journal import read_journal

# Stakes of the validators, and of the hostile caller.
STAKES, HOSTILE_STAKE = (1e6, 5e5, 2e5, 1e5), 1e3
SWAPS, WARM_SWAPS = 5, 2
# Shares of the time in which the chain is silent.
SILENT = (0.4, 0.4 + 1 / 6)
REST_S, SAMPLE_S, SWAP_S = 12.0, 1.0, 240.0
GROWTH = 0.05
SETTINGS = {"engine.threads": 1, "chain.refresh_s": 10}


@dataclass
class Minute:
    """What happened in one minute, or in all of them.

    Attributes:
        seconds: latencies of valid requests that were answered.
        valid: valid requests.
        late: without a reply when their caller gave up.
        failed: with another reply than an answer, or a broken connection.
        others: requests of all other kinds.
        unexpected: those of them that were not dealt with as they should be, by kind and status.
    """

    seconds: list[float] = field(default_factory=list)
    valid: int = 0
    late: int = 0
    failed: int = 0
    others: int = 0
    unexpected: Counter[str] = field(default_factory=Counter)

    def note(self, outcome: Outcome, timeout_s: float = 9.0) -> None:
        if outcome.kind in VALID:
            self.valid += 1
            if outcome.expected:
                self.seconds.append(outcome.seconds)
            elif outcome.status == 0 and outcome.seconds >= timeout_s:
                self.late += 1
            else:
                self.failed += 1
                self.unexpected[f"{outcome.kind}: {outcome.status} {outcome.prediction}"] += 1
            return
        self.others += 1
        if not outcome.expected:
            self.unexpected[f"{outcome.kind}: {outcome.status}"] += 1

    @property
    def answered(self) -> int:
        return len(self.seconds)


class Watch:
    """Runs the load and looks at the miner.

    Args:
        home: the miner's.
        miner: it runs.
        bundles: that it swaps between.
        silence: the file that silences its chain.
    """

    def __init__(self, home: Home, miner: Miner, bundles: Sequence[str], silence: Path) -> None:
        self._home = home
        self._miner = miner
        self._bundles = bundles
        self._silence = silence
        self._swapped = 0
        self.minutes: list[Minute] = []
        self.total = Minute()

    def load(self, seconds: float, swaps: int, seed: int, *, counted: bool) -> None:
        """All traffic for so long, with so many swaps spread over it."""
        swaps_at = [seconds * (number + 0.5) / swaps for number in range(swaps)]
        minute, shown_at = Minute(), 60.0
        with _traffic(self._home, self._miner.port, seed, seconds) as outcomes:
            begun = time.monotonic()
            for outcome in outcomes:
                at = time.monotonic() - begun
                if self._miner.process.poll() is not None:
                    raise SystemExit(f"the miner ended:\n{self._miner.last_words()}")
                if swaps_at and at >= swaps_at[0] and self._swapped == self._live():
                    swaps_at.pop(0)
                    self._swap()
                self._set_silence(counted and SILENT[0] <= at / seconds < SILENT[1])
                if outcome is not None:
                    minute.note(outcome)
                    self.total.note(outcome) if counted else None
                if counted and at >= shown_at:
                    self._show(minute, f"{shown_at / 60:.0f}")
                    minute, shown_at = Minute(), shown_at + 60.0
        self._set_silence(False)
        wait_until(lambda: self._swapped == self._live(), SWAP_S, "the last bundle that was activated is not live")
        if counted and minute.valid:
            self._show(minute, "last")

    def rest(self) -> Usage:
        """The miner once nobody has asked it for a while."""
        time.sleep(REST_S)
        return Usage.of(self._miner.process.pid)

    def _swap(self) -> None:
        self._swapped += 1
        self._home.activate(self._bundles[self._swapped % len(self._bundles)])

    def _live(self) -> int:
        """Bundles that were swapped in, or refused."""
        # The first is that of the start.
        return len(self._miner.events("bundle_live")) - 1 + len(self._miner.events("bundle_refused"))

    def _set_silence(self, wanted: bool) -> None:
        if wanted != self._silence.exists():
            self._silence.touch() if wanted else self._silence.unlink()

    def _show(self, minute: Minute, name: str) -> None:
        self.minutes.append(minute)
        use = Usage.of(self._miner.process.pid)
        p50, p99 = quantiles_ms(minute.seconds) if minute.seconds else (float("nan"), float("nan"))
        print(
            f"{name:>6}{minute.valid:>7}{minute.answered:>9}{minute.late:>6}{minute.failed:>7}{p50:>8.0f}{p99:>8.0f}"
            f"{minute.others:>8}{minute.unexpected.total() - minute.failed:>11}{use.rss / MIB:>9.0f}{use.threads:>8}"
            f"{use.descriptors:>7}{self._miner.log.stat().st_size / 1024:>9.0f}",
            flush=True,
        )


@contextmanager
def _traffic(home: Home, port: int, seed: int, seconds: float) -> Iterator[Iterator[Outcome | None]]:
    """Outcomes as they come, and None at least once a second, until the traffic ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    *validators, hostile = home.callers
    process = context.Process(target=send, args=(port, validators, hostile, home.stranger, seed, seconds, theirs))
    process.start()
    theirs.close()

    def outcomes() -> Iterator[Outcome | None]:
        while True:
            if not ours.poll(SAMPLE_S):
                yield None
                continue
            try:
                yield ours.recv()
            except EOFError:
                return

    try:
        ours.recv()
        yield outcomes()
        process.join()
        if process.exitcode:
            raise SystemExit(f"the traffic ended with status {process.exitcode}")
    finally:
        process.terminate()
        process.join()


def verdicts(total: Minute, fallbacks: int, swaps: int, start: Usage, end: Usage) -> list[tuple[bool, str]]:
    """Each property with whether it holds."""
    growth = end.rss / start.rss - 1
    return [
        (not total.late and not total.failed, f"valid requests unanswered in time: {total.late + total.failed}"),
        (not fallbacks, f"valid requests answered without Stage-1: {fallbacks}"),
        (swaps >= SWAPS, f"hot swaps: {swaps}"),
        (growth < GROWTH, f"resident memory at rest: {start.rss / MIB:.0f} to {end.rss / MIB:.0f} MiB, {growth:+.1%}"),
        (end.threads <= start.threads, f"threads at rest: {start.threads} to {end.threads}"),
        (end.descriptors <= start.descriptors, f"descriptors at rest: {start.descriptors} to {end.descriptors}"),
    ]


def run(minutes: float, warm_minutes: float, cache: Path) -> dict[str, Any]:
    model = export(cache / "small-0.onnx", SMALL, 0)
    with tempfile.TemporaryDirectory() as directory:
        home, silence = Home.make(Path(directory), (*STAKES, HOSTILE_STAKE)), Path(directory) / "silence"
        bundles = []
        for number in range(3):
            note = home.path / f"note-{number}.txt"
            note.write_text(str(number))
            bundles.append(publish(home.store, model, home.path / f"files-{number}", note))
        home.activate(bundles[0])
        with home.miner("miner", SETTINGS, silence=silence) as miner:
            cpu, watch = CpuClock(miner.process.pid), Watch(home, miner, bundles, silence)
            print(f"warm-up of {warm_minutes:g} minutes with {WARM_SWAPS} swaps", flush=True)
            watch.load(60 * warm_minutes, WARM_SWAPS, 1, counted=False)
            start, swaps_before, log_before = watch.rest(), len(miner.events("bundle_live")), miner.log.stat().st_size
            spent, before = cpu.seconds(), len(list(read_journal(miner.state)))
            print(
                f"{'minute':>6}{'valid':>7}{'answered':>9}{'late':>6}{'failed':>7}{'p50 ms':>8}{'p99 ms':>8}"
                f"{'others':>8}{'unexpected':>11}{'RSS MiB':>9}{'threads':>8}{'files':>7}{'log KiB':>9}"
            )
            watch.load(60 * minutes, SWAPS, 2, counted=True)
            end, spent = watch.rest(), cpu.seconds() - spent
            records = list(read_journal(miner.state))[before:]
            good = {caller.hotkey for caller in home.callers[:-1]}
            fallbacks = sum(r.hotkey in good and r.result in {"stage1_late", "stage1_failed"} for r in records)
            swaps = len(miner.events("bundle_live")) - swaps_before
            written = miner.log.stat().st_size - log_before
            refused = len(miner.events("metagraph_stale"))
    found = verdicts(watch.total, fallbacks, swaps, start, end)
    total = watch.total
    p50, p99 = quantiles_ms(total.seconds)
    print(f"\n{total.valid} valid requests: {total.answered} answered, {total.late} late, {total.failed} failed")
    print(f"latency p50 {p50:.0f} ms, p99 {p99:.0f} ms, most {max(total.seconds):.1f} s; {total.others} other requests")
    print(
        f"{spent / 60 / minutes:.0%} of one core; log {written / 1024:.0f} KiB; chain readings that failed: {refused}"
    )
    for what, times in sorted(total.unexpected.items()):
        print(f"unexpected: {what}, {times} times")
    for holds, line in found:
        print(f"{'holds ' if holds else 'FAILS '} {line}")
    shown = vars(total) | {"seconds": [p50, p99], "fallbacks": fallbacks, "swaps": swaps, "log_bytes": written}
    return {"total": shown, "start": asdict(start), "end": asdict(end), "verdicts": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--warm-up", type=float, default=None, help="minutes before; a tenth of the others by default")
    parser.add_argument("--json", type=Path, help="the result is written here")
    kept = Path(tempfile.gettempdir()) / "cascade-benchmarks"
    parser.add_argument("--cache", type=Path, default=kept, help="where the exported network is kept")
    options = parser.parse_args()
    rates = ", ".join(f"{kind} {rate:g}" for kind, rate in RATES.items())
    floods = f"a flood of {FLOODED}, and {HELD} headers without bodies"
    print(f"requests a second: {rates}; every {FLOOD_EVERY_S:.0f} s {floods}")
    warm = max(1.0, options.minutes / 10) if options.warm_up is None else options.warm_up
    found = run(options.minutes, warm, options.cache)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))
    sys.exit(not all(holds for holds, _ in found["verdicts"]))


if __name__ == "__main__":
    main()
