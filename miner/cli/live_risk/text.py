"""`cascade risk` in words, files and curves."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from engines.machine.clock import utc_now
from miner.cli.live_risk.terminal_plot import curve
from miner.harvest.given_labels import add_labels, read_labels
from miner.harvest.harvest import DIRECTORY as HARVEST
from miner.harvest.store import read_index
from miner.live_risk.audit_book import AuditBook
from miner.live_risk.audit_log import IMAGES, read_book
from miner.live_risk.hourly import COLUMNS, FILE, read_rows
from miner.live_risk.inbox import AuditLabel, Inbox
from miner.live_risk.live_risk import STREAMS
from miner.live_risk.summary import SUMMARY, Summary
from stage1.artifacts import write_atomic
from stage1.errors import SettingsError
from stage1.monitor.audit import ExitLabel
from stage1.monitor.risk_monitor import MonitorTerms
from stage1.settings import first_problem

LISTED = 10
LIST = "audits.csv"


def shown(home: Path, hours: int, *, has_stage2: bool) -> str:
    """How the live certificate stands.

    Args:
        home: directory of the watch.
        hours: that are drawn.
        has_stage2: whether there is anybody but people to ask about audits.

    Raises:
        SettingsError: nothing was watched there.
    """
    summary = _summary(home)
    told = summary.certificates[summary.live]
    book = _book(home, summary.live)
    test = book.terms.test
    risk, alpha = told["watched"]["risk"], told["watched"]["alpha"]
    counts = f"{told['losses']} losses in {told['trials']} audited trials"
    between = f"{_rate(told['estimate'])}, between {told['lower']:.2%} and {told['upper']:.2%}"
    against = f"evidence against it {told['e_value']:.4g} of {1 / test.delta:g}"
    change = f"change {told['change']:.4g} of {test.run_length:g}"
    lines = [
        f"{told['level'].upper()}: certificate {summary.live} of bundle {told['bundle']}",
        told["sentence"],
        "",
        told["statement"],
        "",
        f"{risk} at most {alpha:.2%}, by {counts}: {between}",
        f"{against}; {change}; drift of scores {told['drift']:.4g}; t0 lowered by {told['theta']:.3f}",
        *_waiting(book, has_stage2=has_stage2),
    ]
    rows = read_rows(home / FILE)[-hours:]
    if rows:
        exits = [_share(row, "exited_0", "exited_1") for row in rows]
        evidence = [_log10(row["e_value"]) for row in rows]
        limit = -math.log10(test.delta)
        lines += ["", f"{len(rows)} rows of {FILE}, one an hour, the latest of {rows[-1]['hour']}"]
        lines += [curve("log10 of the evidence", evidence, mark=limit)]
        lines += [curve("t0 lowered by, in logits", [_number(row["theta"]) for row in rows])]
        lines += [curve("share of exits", exits, mark=1.0)]
    return "\n".join(lines)


def exported(home: Path, to: Path) -> str:
    """Write all hours, or all certificates.

    Raises:
        SettingsError: it is to be neither a .csv nor a .json, or nothing was watched.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.suffix == ".csv":
        rows = read_rows(home / FILE)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(to, text.getvalue().encode())
        return f"{len(rows)} hours in {to}"
    if to.suffix == ".json":
        summary = _summary(home)
        write_atomic(to, (json.dumps(summary.model_dump(mode="json"), indent=2) + "\n").encode())
        return f"{len(summary.certificates)} certificates in {to}"
    raise SettingsError(f"{to}: name a .csv for the hours, or a .json for the certificates")


def written_pictures(home: Path, to: Path, *, has_stage2: bool) -> str:
    """Write the pictures that wait for a person, and a list of them whose column `label` is empty.

    Args:
        home: directory of the watch.
        to: directory, created if it is not there.
        has_stage2: as in `shown`.
    """
    summary = _summary(home)
    to.mkdir(parents=True, exist_ok=True)
    text, images = io.StringIO(), home / STREAMS / summary.live / IMAGES
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("certificate", "number", "image", "exited_as", "stage2", "label"))
    number = 0
    for one in _book(home, summary.live).unlabelled(has_stage2=has_stage2):
        source = images / f"{one.drawn.number:08d}"
        if not source.exists():
            # It was labelled meanwhile.
            continue
        content = source.read_bytes()
        name = f"{one.drawn.number:08d}{_suffix(content)}"
        write_atomic(to / name, content)
        said = "" if one.said is None else f"{one.said.probability:.3f}"
        writer.writerow((summary.live, one.drawn.number, name, one.drawn.exit_label, said, ""))
        number += 1
    write_atomic(to / LIST, text.getvalue().encode())
    return f"{number} pictures in {to}: fill the column label of {LIST}, and give it to `cascade risk label`"


def given_labels(home: Path, given: list[str]) -> str:
    """Hand labels to the miner.

    A list that was exported names the certificate of each audit, for audits of two certificates have the same numbers.
    Of a list, labels of audits that do not wait are left out: it may have been given before.

    Args:
        home: directory of the watch.
        given: `NUMBER=LABEL` of audits of the live certificate, or names of .csv files.

    Raises:
        SettingsError: one is not a label, or no audit with its number waits.
    """
    live = _summary(home).live
    labels: dict[tuple[str, int], AuditLabel] = {}
    gone, waiting = 0, {live: _book(home, live).waiting}
    for one in given:
        listed = one.endswith(".csv")
        for certificate, number, label in _listed(Path(one), live) if listed else [(live, *_pair(one))]:
            found = _label(certificate, number, label)
            if certificate not in waiting:
                waiting[certificate] = _book(home, certificate).waiting
            if found.number in waiting[certificate]:
                labels[certificate, found.number] = found
            elif listed:
                gone += 1
            else:
                raise SettingsError(f"no audit {number} waits for a verdict; `cascade risk show` lists those that do")
    left_out = f"; {gone} of audits that do not wait" if gone else ""
    if not labels:
        return f"no label was given{left_out}"
    # First for good: the miner forgets the audits of a certificate some nights after it was live.
    shown = {waiting[name][number].drawn.image_sha256: one.label for (name, number), one in labels.items()}
    _tell_harvest(home.parent / HARVEST, shown)
    Inbox(home).put(list(labels.values()))
    return f"{len(labels)} labels wait for the miner, which looks for them every two seconds{left_out}"


def _tell_harvest(home: Path, shown: Mapping[str, ExitLabel]) -> None:
    """Give the harvest the labels of pictures that it keeps, by hash; one that it has counts for more."""
    images, given = read_index(home), read_labels(home)
    if news := {name: label for name, label in shown.items() if name in images and name not in given}:
        add_labels(home, news, utc_now())


def _pair(given: str) -> tuple[str, str]:
    number, _, label = given.partition("=")
    return number, label


def _label(certificate: str, number: str, label: str) -> AuditLabel:
    if label not in {"0", "1"} or not number.isdecimal():
        raise SettingsError(f"{number}={label}: write NUMBER=0 for no roadwork, or NUMBER=1 for roadwork")
    try:
        return AuditLabel(certificate=certificate, number=int(number), label=1 if label == "1" else 0)
    except ValidationError as error:
        problem = first_problem(error, otherwise="the label")
        raise SettingsError(f"audit {number} of certificate {certificate!r}: {problem}") from error


def _listed(path: Path, live: str) -> list[tuple[str, str, str]]:
    """Certificate, number and label of each row that has one."""
    try:
        # With or without the mark that spreadsheets put first.
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not a list in UTF-8: {error}") from error
    if rows and not {"number", "label"} <= rows[0].keys():
        raise SettingsError(f"{path}: the columns number and label are missing")
    said = [(row.get("certificate") or live, row["number"] or "", (row["label"] or "").strip()) for row in rows]
    return [one for one in said if one[2]]


def _summary(home: Path) -> Summary:
    summary = Summary.of(home / SUMMARY)
    if summary.live not in summary.certificates:
        raise SettingsError(f"{home}: nothing was watched here; does the miner run with this state directory?")
    return summary


def _book(home: Path, certificate: str) -> AuditBook:
    return read_book(home / STREAMS / certificate, certificate, MonitorTerms())


def _waiting(book: AuditBook, *, has_stage2: bool) -> list[str]:
    people = book.unlabelled(has_stage2=has_stage2)
    told = [f"{len(book.waiting)} audits wait, {len(people)} of them for a person"]
    if (oldest := next(iter(book.waiting.values()), None)) is not None:
        told.append(
            f"All wait for {oldest.drawn.number}, of {oldest.drawn.at:%Y-%m-%d %H:%M}, which has no verdict yet."
        )
    for one in people[:LISTED]:
        said = "" if one.said is None else f", Stage-2 says {one.said.probability:.2f}"
        told.append(f"  {one.drawn.number}: exited as {one.drawn.exit_label} at {one.drawn.at:%Y-%m-%d %H:%M}{said}")
    if len(people) > LISTED:
        told.append(f"  and {len(people) - LISTED} more")
    if people:
        told.append("See them with `cascade risk export risk.json --pictures DIR`, answer with `cascade risk label`.")
    return told


def _suffix(content: bytes) -> str:
    return ".png" if content.startswith(b"\x89PNG") else ".jpg"


def _rate(value: float | None) -> str:
    return "no estimate yet" if value is None else f"about {value:.2%}"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _log10(text: str) -> float | None:
    value = _number(text)
    return None if not value or value <= 0 else math.log10(value)


def _share(row: dict[str, str], *names: str) -> float | None:
    whole = _number(row["answered"])
    return None if not whole else sum(_number(row[name]) or 0.0 for name in names) / whole
