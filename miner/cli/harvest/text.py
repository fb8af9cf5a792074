"""`cascade harvest` in words and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from engines.machine.clock import utc_now
from miner.cli.harvest.label_files import LabelFile, read_label_file
from miner.cli.harvest.metadata_table import write_parquet
from miner.harvest.audit_labels import audit_labels
from miner.harvest.export import write_for
from miner.harvest.given_labels import add_labels, read_labels
from miner.harvest.image_table import ImageTable
from miner.harvest.kept_image import KeptImage, broken_weeks, week_of, whole_weeks
from miner.harvest.label_tools import FILES, LABELLING_FILE, PICTURES, Tool
from miner.harvest.labelled_data import check_target, write_data
from miner.harvest.priority import few_of_each_place, ordered
from miner.harvest.store import INDEX, HarvestStore, Limits, lines_of_others, read_index
from miner.harvest.verdict_table import VERDICTS, write_verdicts
from miner.live_risk.live_risk import DIRECTORY as WATCH
from miner.live_risk.live_risk import STREAMS
from miner.live_risk.summary import SUMMARY, Summary
from stage1.errors import ArtifactError, SettingsError
from stage1.monitor.audit import ExitLabel


def listed(home: Path, most: int) -> str:
    """The images that are most worth a label."""
    lines = [
        f"{one.sha256[:12]} {one.at:%Y-%m-%d %H:%M} score {one.score:+.2f} place {one.site}: {', '.join(one.reasons)}"
        for one in ordered(_unlabelled(home), _live_threshold(home), most)
    ]
    return "\n".join(lines) or "no image without a label is kept"


def tabled(home: Path, to: Path) -> str:
    """Write what is known of every image as a table in Parquet.

    Raises:
        SettingsError: nothing was kept there, or pyarrow is not installed.
    """
    images, labels = _images(home), _labels(home)
    ranked = [one.sha256 for one in ordered(_unlabelled(home), _live_threshold(home))]
    there = [one for one in images.values() if one.size]
    return f"{write_parquet(there, labels, ranked, to)} images in {to}; column rank is 1 for the most worth a label"


def counted(home: Path) -> str:
    """What is kept, and what of it is labelled."""
    images, labels = list(_images(home).values()), _labels(home)
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
        SettingsError: nothing was kept there, there is nothing to label, or the directory has such a file already.
    """
    found = _unlabelled(home)
    # A week that is over comes whole or not at all: a part of it may be used for nothing but training, and waits.
    random = [one for one in found if one.week and one.week != week_of(utc_now())]
    t0 = _live_threshold(home)
    chosen = [] if share == "picked" else ordered(random, t0)
    if share != "random":
        picked = few_of_each_place(ordered([one for one in found if not one.week], t0), per_place)
        chosen += picked if most is None else picked[: max(0, most - len(chosen))]
    if not chosen:
        raise SettingsError(f"there is nothing to label{_why_nothing(found, share)}")
    with _writing(to, f"there is no {FILES[tool]} yet: make room, and export again"):
        number = write_for(tool, _store(home), chosen, to)
    told = (
        f"{number} pictures in {to}, named in {FILES[tool]}: label them, and give the file to `cascade harvest import`"
    )
    if tool == "labelstudio":
        told += (
            f"\nLabel Studio: start it with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
            f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={to.resolve()}, paste {LABELLING_FILE} as the labeling interface, "
            f"add {to.resolve() / PICTURES[tool]} as local storage without syncing it, and import {FILES[tool]}"
        )
    return told


@contextmanager
def _writing(to: Path, remedy: str) -> Iterator[None]:
    """Within it, a disk that takes no more is told with the place and what to do.

    Raises:
        ArtifactError: in place of what was raised.
    """
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"{to}: cannot be written ({error.strerror or error}); {remedy}") from error


def _why_nothing(found: list[KeptImage], share: str) -> str:
    week = week_of(utc_now())
    if share != "picked" and any(one.week == week for one in found):
        return f": the random draws of {week} are exported when the week is over"
    return ""


def imported(home: Path, labels: Path | None, data: Path, pictures: Path | None) -> str:
    """Take labels over, and write the data of a night.

    Args:
        home: of the store.
        labels: the file of a tool; None for none, to write the data anew by what is known.
        data: directory that is written.
        pictures: directory of an export, for pictures that the store has no more.

    Raises:
        SettingsError: the file is of no tool, names no picture that was kept here, or has no label; or the directory of
            the data is a person's own.
    """
    images = _images(home)
    if others := lines_of_others(home):
        # A draw among them would be missing, and its week taken for whole.
        raise SettingsError(
            f"{home / INDEX}: {others} lines are of another version of this program: import with that one"
        )
    check_target(data)
    lines = [] if labels is None else _taken_over(home, labels, images)
    known = _labels(home)
    if not known:
        raise SettingsError("there is no label yet: name the file that a tool wrote")
    given = read_labels(home)
    if heard := {name: label for name, label in known.items() if name in images and name not in given}:
        # The audits of a certificate are forgotten one day; what a week was whole by must stay.
        with _writing(home, "no label of an audit was written down: make room, and import again"):
            add_labels(home, heard, utc_now())
    places = [one for one in (None if labels is None else labels.parent, pictures) if one is not None]
    exports = [place / folder for place in places for folder in {*PICTURES.values()}]
    with _writing(data, "what is labelled is written down: make room, and import again without a file"):
        data.mkdir(parents=True, exist_ok=True)
        going = write_data(_store(home), known, data, utc_now().date(), exports)
    later = f"{going['later']} wait until all random draws of their week or place are labelled and have their pictures"
    lines.append(f"{data}: {going['any set']} images for any set, {going['train']} for training alone; {later}")
    if lost := sum(name in images for name in known) - sum(going.values()):
        lines.append(
            f"{lost} labels are of pictures that were removed to make room, and the rest of their week waits for them: "
            "name the directory of the export with --pictures, and set harvest.max_mib higher"
        )
    if going["any set"] + going["train"]:
        lines.append(
            f"`cascade retrain --data {data}` trains on them alone; to add them to data of yours, name both folders "
            "in its sources.toml: see docs/harvest.md"
        )
    return "\n".join(lines)


def _taken_over(home: Path, labels: Path, images: Mapping[str, KeptImage]) -> list[str]:
    """Write down what a file says, and say what of it."""
    file = read_label_file(labels)
    given = {name: label for name, label in file.labels.items() if name in images}
    if not given:
        raise SettingsError(f"{labels}: {_no_label(file)}")
    before = _labels(home)
    news = {name: label for name, label in given.items() if before.get(name) != label}
    if news:
        with _writing(home, "no label was taken over: make room, and import again"):
            add_labels(home, news, utc_now())
    told = f"{len(given)} labels, {sum(name in before for name in news)} of them other than before"
    return [told, *_left_out(file, images, labels)]


def _no_label(file: LabelFile) -> str:
    if file.labels:
        first = next(iter(file.labels))
        return (
            f"none of its {len(file.labels)} labelled pictures is known here, the first is {first[:12]}: it is of "
            "another miner or another state directory, or they were removed long ago"
        )
    differing = f", and {len(file.differing)} are labelled differently by two people" if file.differing else ""
    return f"no picture in it has a label: {file.unlabelled} have none{differing}"


def _left_out(file: LabelFile, images: Mapping[str, KeptImage], path: Path) -> list[str]:
    """What of a file was not taken over."""
    told = []
    if strange := sorted(file.labels.keys() - images.keys()):
        told.append(
            f"{len(strange)} labels of pictures that are not known here were left out, the first is {strange[0][:12]}: "
            "they were removed long ago, or are of another miner"
        )
    if file.differing:
        told.append(
            f"{len(file.differing)} pictures are labelled differently by two people in {path}, and count as not "
            f"labelled, the first is {file.differing[0][:12]}: let one of them decide"
        )
    if file.unlabelled:
        told.append(f"{file.unlabelled} pictures have no label in it yet")
    return told


def taught(home: Path, to: Path) -> str:
    """Write what Stage-2 said as a table of verdicts.

    Raises:
        SettingsError: nothing was kept there, or there is nothing to teach by.
    """
    _images(home)
    number = write_verdicts(_store(home), _labels(home), to, utc_now().date())
    path = to / VERDICTS
    return (
        f"{number} pictures with what Stage-2 said of them in {path}\n"
        f"`cascade retrain --set learn.teacher={path}` trains by them as well, with the weight learn.teacher_weight"
    )


def _labels(home: Path) -> dict[str, ExitLabel]:
    """What people said of images, in an import or of an audit; an import counts for more."""
    return audit_labels(home.parent / WATCH / STREAMS) | read_labels(home)


def _unlabelled(home: Path) -> list[KeptImage]:
    labels = _labels(home)
    return [one for one in _images(home).values() if not one.gone and one.sha256 not in labels]


def _live_threshold(home: Path) -> float | None:
    """The certified t0 of the live bundle, as far as the watch on it has told."""
    summary = Summary.of(home.parent / WATCH / SUMMARY)
    return summary.certificates.get(summary.live, {}).get("t0_certified")


def _images(home: Path) -> ImageTable:
    if not (home / INDEX).exists():
        raise SettingsError(f"{home}: nothing was kept here; set harvest.enabled = true, or name the state directory")
    return read_index(home)


def _store(home: Path) -> HarvestStore:
    """The store, to read from: a miner may be writing to it."""
    return HarvestStore(home, Limits(size=0), read_only=True)
