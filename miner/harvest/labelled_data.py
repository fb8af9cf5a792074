"""Labelled images of the harvest as a data directory of a night, with what each may be used for."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

from miner.harvest.kept_image import Destination, KeptImage, broken_weeks, destination, open_places, whole_weeks
from miner.harvest.store import HarvestStore
from stage1.artifacts import write_atomic
from stage1.errors import SettingsError
from stage1.monitor.audit import ExitLabel

SOURCES_FILE, LABELS_FILE = "sources.toml", "labels.csv"
FOLDERS: Mapping[Destination, str] = {"any set": "random", "train": "picked"}
GROUP = "site-"
WRITTEN_HERE = "# Written by `cascade harvest import`, anew each time."
# Callers sent all of it, so what they do to pictures was done to it already.
SOURCE: Mapping[Destination, str] = {
    "any set": """
[[source]]
kind = "folder"
name = "harvest-random"
path = "random"
groups = "harvest"
as_sent = true
""",
    # What was picked by a score or a disagreement is not exchangeable with the stream. Places are shared by both, so
    # that no picture of a place that certifies trains.
    "train": """
[[source]]
kind = "folder"
name = "harvest-picked"
path = "picked"
groups = "harvest"
as_sent = true
train_only = true
""",
}


def check_target(to: Path) -> None:
    """Refuse a directory of a person's own data, whose files would be replaced or not be read any more.

    Raises:
        SettingsError: it is one.
    """
    sources = to / SOURCES_FILE
    if sources.exists() and not sources.read_text(errors="replace").startswith(WRITTEN_HERE):
        what = f"a {SOURCES_FILE} that somebody else wrote"
    elif (to / LABELS_FILE).exists():
        what = f"a {LABELS_FILE} of its own, which would not be read any more"
    else:
        return
    raise SettingsError(
        f"{to} has {what}: give another directory, such as --data {to / 'harvest'}, and name its folders in {sources}"
    )


def write_data(
    store: HarvestStore, labels: Mapping[str, ExitLabel], to: Path, today: date, exports: Iterable[Path] = ()
) -> Counter[Destination]:
    """Write `random/` and `picked/`, each with `labels.csv`, and `sources.toml`, which declares those that have rows.

    Pictures that the store has no more are those that were written here before, or those of an export.

    Args:
        store: where the pictures are.
        labels: by hash.
        to: directory, created if it is not there.
        today: UTC.
        exports: directories of pictures that were exported, named by their hashes.

    Returns:
        How many labels go where. Those of a random draw wait until all of its week is labelled and has its pictures,
        and with them wait those of the same places, and those of places of which a picture may still be drawn, unless
        they have trained. Labels whose picture is nowhere are not among them.

    Raises:
        OSError: it cannot be written. Each list is there as it was or as a whole.
        SettingsError: a list that was written here earlier is not as it was.
    """
    images = list(store.images.values())
    whole, broken = whole_weeks(images, labels, today), broken_weeks(images, labels)
    certifying, trained = (_rows_of(to / folder) for folder in FOLDERS.values())
    only_train = set(trained.values()) - set(certifying.values())
    # A place may be met for longer than what was kept of it tells. Its later draws can only train, as it does, and the
    # other draws of their weeks would be those of places that nobody had a reason to pick.
    broken |= {one.week for one in images if one.week and one.site in only_train and one.sha256 not in certifying}
    going: dict[Destination, list[KeptImage]] = {"any set": [], "train": [], "later": []}
    for image in images:
        if image.sha256 in labels:
            going[destination(image, whole, broken)].append(image)
    folders = tuple(to / folder for folder in FOLDERS.values())
    where = (*(one / "images" for one in folders), *exports)
    drawn = _placed(store, going["any set"], to / FOLDERS["any set"], where)
    # Which pictures had to make room depends on what they show, so a week goes with all of its draws or not at all.
    there = {one.sha256 for one, _ in drawn}
    whole -= {one.week for one in going["any set"] if one.sha256 not in there}
    waiting = {one.site for one in images if one.week and one.week not in whole | broken} | open_places(images, today)
    # What has trained does so for ever, and this list is all that remembers it.
    waiting -= only_train
    # What trains ties its place to training: of draws that may yet certify only those of easier places would be left.
    taught = [one for one in going["train"] if one.site not in waiting]
    found: dict[Destination, list[tuple[KeptImage, Path]]] = {
        "any set": [one for one in drawn if one[0].week in whole],
        "train": _placed(store, taught, to / FOLDERS["train"], where),
        "later": [one for one in drawn if one[0].week not in whole],
    }
    # Of what waits it is not known yet whether it will be needed.
    late = [*going["later"], *(one for one in going["train"] if one.site in waiting)]
    found["later"] += [(one, store.path(one)) for one in late]
    for kind, folder in FOLDERS.items():
        write_atomic(to / folder / LABELS_FILE, _list(found[kind], labels).encode())
    if declared := [SOURCE[kind] for kind in FOLDERS if found[kind]]:
        write_atomic(to / SOURCES_FILE, "\n".join([WRITTEN_HERE, *declared]).encode())
    return Counter({kind: len(some) for kind, some in found.items()})


def _rows_of(folder: Path) -> dict[str, int]:
    """The hash and the place of each row that was written earlier."""
    path = folder / LABELS_FILE
    if not path.exists():
        return {}
    try:
        # With or without the mark that spreadsheets put first.
        with path.open(newline="", encoding="utf-8-sig") as handle:
            # A person may have put in rows of other places.
            return {
                Path(row["image"]).stem: int(row["group"].removeprefix(GROUP))
                for row in csv.DictReader(handle, strict=True)
                if row["group"].startswith(GROUP)
            }
    except (csv.Error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{path}: is not as it was written here, and it tells which places have trained, so that none of them "
            f"certifies: put it back from a copy ({error!r})"
        ) from error


def _placed(
    store: HarvestStore, images: Sequence[KeptImage], home: Path, elsewhere: Sequence[Path]
) -> list[tuple[KeptImage, Path]]:
    """Those whose pictures are below `home` now, with their paths."""
    (home / "images").mkdir(parents=True, exist_ok=True)
    placed = []
    for image in images:
        name = store.path(image).name
        target = home / "images" / name
        if not target.exists():
            content = _content(image, [store.path(image), *(one / name for one in elsewhere)])
            if content is None:
                continue
            write_atomic(target, content)
        placed.append((image, target))
    return placed


def _content(image: KeptImage, paths: Iterable[Path]) -> bytes | None:
    """The picture, from the first of these places that has it whole."""
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if hashlib.sha256(content).hexdigest() == image.sha256:
            return content
    return None


def _list(images: Sequence[tuple[KeptImage, Path]], labels: Mapping[str, ExitLabel]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "label", "group", "captured_at"))
    # Pictures of one place depend on each other.
    writer.writerows(
        (f"images/{path.name}", labels[one.sha256], f"{GROUP}{one.site}", one.at.isoformat()) for one, path in images
    )
    return text.getvalue()
