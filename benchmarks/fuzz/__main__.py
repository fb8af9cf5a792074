"""Broken input for some minutes: nothing may raise what nobody expects, answer 500, end the process, or keep memory.

    python -m benchmarks.fuzz --target headers --minutes 10
    python -m benchmarks.fuzz --target body --minutes 10
    python -m benchmarks.fuzz --target decoding --minutes 10 --images roads/images

`headers` and `body` go to the real axon on loopback, `decoding` through base64, decoder and resize with the limits of a
miner. Hypothesis draws the cases, others in every run; `--seed` repeats one. They run in a process of their own, so
that native code that crashes is found too. What fails is written to a file of its own below `--found`. Ends with status
1 if anything failed, or if memory grew by more than `--most-growth` MiB after the first tenth.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from pathlib import Path

from benchmarks.fuzz.cases import seed_of_now
from benchmarks.fuzz.run import keep, run
from benchmarks.serving.usage import MIB

TARGETS = ("headers", "body", "decoding")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=TARGETS, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--seed", type=int, default=None, help="of the first batch; another one in every run by default"
    )
    parser.add_argument("--images", type=Path, help="directory of JPEG and PNG files to break, besides made ones")
    parser.add_argument("--most-growth", type=float, default=64.0, help="MiB")
    parser.add_argument("--found", type=Path, default=Path(tempfile.gettempdir()) / "cascade-benchmarks" / "fuzz")
    options = parser.parse_args()
    options.seed = seed_of_now() if options.seed is None else options.seed
    print(f"target {options.target}, seed {options.seed}", flush=True)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as directory:
        current = Path(directory) / "current"
        process = context.Process(target=run, args=(options, theirs, current))
        process.start()
        theirs.close()
        try:
            found = ours.recv()
        except EOFError:
            found = None
        process.join()
        if found is None:
            content = current.read_bytes() if current.exists() else b""
            keep(options, content, f"the process ended with status {process.exitcode}", "ended")
            sys.exit(1)
    ends = ", ".join(f"{end} {times}" for end, times in sorted(found["ends"].items()))
    growth = found["growth"] / MIB
    print(f"{sum(found['ends'].values())} cases: {ends}")
    print(f"slowest {found['slowest_s']:.2f} s; memory {growth:+.1f} MiB after the first tenth")
    holds = not found["failed"] and growth <= options.most_growth
    verdict = "holds" if holds else "FAILS"
    print(f"{verdict}: {found['failed']} cases failed, and memory grew by no more than {options.most_growth:g} MiB")
    sys.exit(not holds)


if __name__ == "__main__":
    main()
