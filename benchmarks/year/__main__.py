"""A year of nights by a simulated clock, and two hundred years of certificates on scores alone.

    python -m benchmarks.year --home directory
    python -m benchmarks.year --years 200

Training is a logistic regression on mean colours, handed in through the table of stages; every other stage is the
product's own, and so are the collection, the ledgers and the check of the disk. In the year data grow each night, a
week of trainings is weak, a week of labels is poisoned, an operator rolls back, the disk has no room, then is full in
the middle of a night, a process is killed, the data directory is gone, the clock is two days behind.

A line a night: verdict, certificate, looks and what is left of them, certified exit coverage, the true miss rate on
exits of the live bundle by 60,000 fresh rows, labelled rows, megabytes of workspace and store together and of what only
the store has, seconds to the first stage and to the end.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

from benchmarks.year.nights import SHORT, Line, Plan, Year
from benchmarks.year.scores import many_years

HEAD = (
    "night  date        verdict  certificate looks left  exits  live risk   rows  disk MB store MB  start s      s"
    "  what"
)


def row(line: Line) -> str:
    exits = "-" if line.exits is None else f"{line.exits:.3f}"
    risk = "-" if line.live_risk is None else f"{line.live_risk:.4f}"
    false = " FALSE CERTIFICATE" if line.false_certificate else ""
    return (
        f"{line.night:>5}  {line.date}  {line.verdict:<7}  {line.certificate:<11} {line.looks:>5} {line.looks_left:>4}"
        f"  {exits:>5}  {risk:>9}  {line.rows:>5}  {line.disk_mb:>7.1f} {line.store_mb:>8.1f}"
        f"  {line.start_s:>7.2f} {line.seconds:>6.1f}  {line.what}{false}"
    )


def summary(lines: list[Line], keep: int) -> str:
    """What a year came to."""
    after = [line.disk_mb for line in lines[2 * keep :]] or [0.0]
    thirds = [after[: len(after) // 3] or after, after[-(len(after) // 3) :] or after]
    late = sorted(line.start_s for line in lines[-30:])
    false = [line.night for line in lines if line.false_certificate]
    certified = sum(line.certificate == "CERTIFIED" for line in lines)
    verdicts = ", ".join(f"{name} {sum(x.verdict == name for x in lines)}" for name in ("PROMOTE", "KEEP", "REFUSE"))
    flat = (
        f"disk after {2 * keep} nights: {min(after):.1f} to {max(after):.1f} MB, mean of the first third "
        f"{sum(thirds[0]) / len(thirds[0]):.1f} MB, of the last {sum(thirds[1]) / len(thirds[1]):.1f} MB "
        f"(records of bundles {lines[-1].records_mb:.1f} MB at the end)"
    )
    return "\n".join(
        [
            f"{len(lines)} nights: {verdicts}; {sum(line.looks for line in lines)} looks, {certified} certificates",
            f"false certificates: {len(false)}{f', nights {false}' if false else ''}",
            flat,
            f"start of a night, last {len(late)}: median {late[len(late) // 2]:.2f} s, most {late[-1]:.2f} s",
            f"seconds: {sum(line.seconds for line in lines):.0f}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="directory of the year; a temporary one if there is none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=int, default=14, help="gate.keep")
    parser.add_argument("--weights", type=int, default=1_000_000, help="bytes of what stands for weights")
    parser.add_argument("--short", action="store_true", help="nine nights")
    parser.add_argument("--years", type=int, help="so many years on scores alone instead")
    parser.add_argument("--crash", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.years:
        begun = time.perf_counter()
        print(f"{many_years(options.years, options.seed)}\nseconds: {time.perf_counter() - begun:.0f}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        plan = SHORT if options.short else Plan()
        year = Year(options.home or Path(scratch), plan, options.seed, weights_bytes=options.weights, keep=options.keep)
        if options.crash is not None:
            year.crash(options.crash)
            return
        print(HEAD)
        lines = []
        for line in year.nights():
            lines.append(line)
            print(row(line), flush=True)
        print(summary(lines, options.keep))


if __name__ == "__main__":
    main()
