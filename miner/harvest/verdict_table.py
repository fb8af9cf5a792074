"""What Stage-2 said of kept images, as a table of verdicts that may teach: weak labels, which train and nothing else.

A night takes it as `learn.teacher`: such pictures train by what the table says, with the weight of a teacher, and none
of them is ever in a set that chooses, certifies or reports.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path

from miner.harvest.kept_image import KeptImage, broken_weeks, open_places
from miner.harvest.store import HarvestStore
from stage1.artifacts import write_atomic
from stage1.errors import SettingsError
from stage1.monitor.audit import ExitLabel

VERDICTS = "verdicts.csv"


def teaching(images: Iterable[KeptImage], labels: Mapping[str, ExitLabel], today: date) -> list[KeptImage]:
    """Images of which Stage-2 has said something that may be taught.

    What a person has labelled has a better label. A random draw, and what is of its place, may certify one day; and so
    may a place of which a picture may still be drawn.

    Args:
        images: of the store.
        labels: what people said, by hash.
        today: UTC.
    """
    known = list(images)
    broken = broken_weeks(known, labels)
    certifying = {one.site for one in known if one.week and one.week not in broken} | open_places(known, today)
    return [
        one
        for one in known
        if one.stage2_probability is not None
        and not one.gone
        and one.sha256 not in labels
        and one.site not in certifying
    ]


def write_verdicts(store: HarvestStore, labels: Mapping[str, ExitLabel], to: Path, today: date) -> int:
    """Write pictures, and the table of what Stage-2 said of them.

    Args:
        store: where the pictures are.
        labels: what people said, by hash.
        to: directory, created if it is not there; the table of an earlier call is replaced.
        today: UTC.

    Returns:
        How many pictures it names.

    Raises:
        SettingsError: there is nothing to teach by.
    """
    found = teaching(store.images.values(), labels, today)
    if not found:
        raise SettingsError(
            "Stage-2 has said nothing of a picture that may only train and that nobody has labelled: there is nothing "
            "to teach by"
        )
    (to / "images").mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "probability", "at", "site"))
    number = 0
    for image in found:
        name = store.path(image).name
        target = to / "images" / name
        if not target.exists():
            try:
                write_atomic(target, store.path(image).read_bytes())
            except FileNotFoundError:
                # The miner made room meanwhile.
                continue
        writer.writerow((f"images/{name}", image.stage2_probability, image.at.isoformat(), image.site))
        number += 1
    write_atomic(to / VERDICTS, text.getvalue().encode())
    return number
