"""`cascade harvest` in words and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from engines.machine.clock import utc_now
from miner.harvest.kept_image import KeptImage, broken_weeks, urgency, week_of, whole_weeks
from miner.harvest.label_files import FILES, Tool, read_labels_of, write_for
from miner.harvest.labelled_data import write_data
from miner.harvest.store import INDEX, HarvestStore, add_labels, read_index, read_labels
from miner.live_risk.live_risk import DIRECTORY as WATCH
from miner.live_risk.summary import SUMMARY, Summary
from stage1.errors import SettingsError


def listed(home: Path, most: int) -> str:
    """The images that are most worth a label."""
    found = _unlabelled(home)[:most]
    lines = [
        f"{one.sha256[:12]} {one.at:%Y-%m-%d %H:%M} score {one.score:+.2f} place {one.site}: {', '.join(one.reasons)}"
        for one in found
    ]
    return "\n".join(lines) or "no image without a label is kept"


def counted(home: Path) -> str:
    """What is kept, and what of it is labelled."""
    images, labels = list(_images(home).values()), read_labels(home)
    there = [one for one in images if not one.gone]
    reasons = Counter(reason for one in there for reason in one.reasons)
    size = sum(one.size for one in there) / 2**20
    lines = [f"{len(there)} pictures, {size:.1f} MiB, of {len({one.site for one in there})} places"]
    lines += [f"  {reason}: {number}" for reason, number in reasons.most_common()]
    lines.append(f"{sum(one.sha256 in labels for one in there)} are labelled")
    whole, broken = whole_weeks(images, labels, utc_now().date()), broken_weeks(images, labels)
    for week in sorted({one.week for one in images if one.week}):
        drawn = [one for one in images if one.week == week]
        done = sum(one.sha256 in labels for one in drawn)
        told = (
            "whole: may choose and certify"
            if week in whole
            else "a picture is gone: may only train"
            if week in broken
            else "not over yet"
            if week == week_of(utc_now())
            else "waits for the rest"
        )
        lines.append(f"  random draws of {week}: {done} of {len(drawn)} labelled, {told}")
    return "\n".join(lines)


def exported(home: Path, to: Path, tool: Tool, share: str, most: int | None, per_place: int) -> str:
    """Write images without a label for a tool.

    Raises:
        SettingsError: nothing was kept there.
    """
    found = _unlabelled(home)
    random, picked = [one for one in found if one.week], [one for one in found if not one.week]
    # A week that is over comes whole or not at all: a part of it may be used for nothing but training, and waits.
    random = [one for one in random if one.week != week_of(utc_now())]
    chosen = [] if share == "picked" else random
    if share != "random":
        picked = list(_few_of_each_place(picked, per_place))
        chosen += picked if most is None else picked[: max(0, most - len(chosen))]
    number = write_for(tool, _store(home), chosen, to)
    return (
        f"{number} pictures in {to}, named in {FILES[tool]}: label them, and give the file to `cascade harvest import`"
    )


def imported(home: Path, labels: Path, data: Path) -> str:
    """Take labels over, and write the data of a night.

    Raises:
        SettingsError: the file is of no tool, or names a picture that was not kept.
    """
    images, given = _images(home), read_labels_of(labels)
    strange = sorted(given.keys() - images.keys())
    if strange:
        raise SettingsError(f"{labels}: {len(strange)} pictures were never kept here, the first is {strange[0][:12]}")
    before = read_labels(home)
    changed = sum(name in before and before[name] != label for name, label in given.items())
    add_labels(home, given)
    data.mkdir(parents=True, exist_ok=True)
    going = write_data(_store(home), read_labels(home), data, utc_now().date())
    later = f"{going['later']} wait until all random draws of their week are labelled"
    lines = [f"{len(given)} labels, {changed} of them other than before"]
    lines.append(f"{data}: {going['any set']} images for any set, {going['train']} for training alone; {later}")
    return "\n".join([*lines, f"`cascade retrain --data {data}` uses them"])


def _few_of_each_place(images: Iterable[KeptImage], most: int) -> Iterable[KeptImage]:
    there: Counter[int] = Counter()
    for one in images:
        there[one.site] += 1
        if there[one.site] <= most:
            yield one


def _unlabelled(home: Path) -> list[KeptImage]:
    labels = read_labels(home)
    found = [one for one in _images(home).values() if not one.gone and one.sha256 not in labels]
    t0 = _live_threshold(home)
    return sorted(found, key=lambda one: (-urgency(one, t0), -one.at.timestamp()))


def _live_threshold(home: Path) -> float | None:
    """The certified t0 of the live bundle, as far as the watch on it has told."""
    summary = Summary.of(home.parent / WATCH / SUMMARY)
    return summary.certificates.get(summary.live, {}).get("t0_certified")


def _images(home: Path) -> dict[str, KeptImage]:
    if not (home / INDEX).exists():
        raise SettingsError(f"{home}: nothing was kept here; set harvest.enabled = true, or name the state directory")
    return read_index(home)


def _store(home: Path) -> HarvestStore:
    """The store, to read from: a miner may be writing to it."""
    return HarvestStore(home, most_bytes=0, per_place=0, read_only=True)
