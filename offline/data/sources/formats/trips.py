"""Trips of NATIX's driving sets: clips of several cameras, tables of GPS fixes, and events that somebody has named.

A trip is a directory with a `fixed_metadata.json`, below a country and perhaps a state. In it a directory for each time
of day holds one folder a camera, `<CAMERA>_FOLDER`, with clips (`*.mp4`) and tables (`*.csv`). Events are in
`data/edge-case.json`. A row is a frame at a GPS fix within an event; all frames of a trip are one group. Frames without
an event have no label, and are no rows.

The names of the columns and of the parts of an event are not published, so those that are usual are understood, and
the message names what is there where none of them is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import structlog
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from offline.data.dataset import Picture, Row
from offline.data.place_and_time import LATITUDE_COLUMNS, LONGITUDE_COLUMNS
from offline.data.sources.csv_table import Table, read_table
from offline.data.sources.formats.json_file import read_json
from offline.data.sources.formats.video import Frame
from offline.data.sources.settings import TripSource
from offline.data.values import number
from offline.errors import DatasetError
from stage1.column_names import columns_called
from stage1.settings import first_problem

log = structlog.get_logger(__name__)

TRIP, EVENTS, FOLDER = "fixed_metadata.json", "data/edge-case.json", "_FOLDER"
TIMES = ("time_s", "seconds", "time", "timestamp_ms", "timestamp", "t")
# A larger number is a clock and no time into the clip; this many seconds are eleven days.
LONGEST_CLIP_S = 1e6
# Seconds, milliseconds, microseconds and nanoseconds since 1970 differ by so much.
UNITS = (1.0, 1e3, 1e6, 1e9)
LATEST_S = 4.2e9


class Event(BaseModel):
    """Something that somebody has seen in a clip.

    Attributes:
        clip: path of the clip, or the end of it.
        kind: what it is, in words.
        start_s: when it begins, seconds into the clip.
        end_s: when it ends; None for the end of the clip.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    clip: str = Field(
        min_length=1, validation_alias=AliasChoices("clip", "video", "path", "file", "file_name", "video_path", "mp4")
    )
    kind: str = Field(
        min_length=1, validation_alias=AliasChoices("kind", "type", "category", "event_type", "event", "label", "tag")
    )
    start_s: float = Field(
        default=0.0, ge=0, validation_alias=AliasChoices("start_s", "start", "start_time", "start_seconds", "from")
    )
    end_s: float | None = Field(
        default=None, ge=0, validation_alias=AliasChoices("end_s", "end", "end_time", "end_seconds", "to")
    )


class _Events(BaseModel):
    events: list[Event]


@dataclass(frozen=True)
class Clip:
    """A clip of a camera.

    Attributes:
        path: the file.
        trip: path of its trip below the set.
        fixes: its table of GPS fixes; None if there is none beside it.
    """

    path: Path
    trip: PurePosixPath
    fixes: Path | None


@dataclass(frozen=True)
class Fix:
    """A line of a table of GPS fixes: seconds into the clip, and degrees."""

    at_s: float
    latitude: str
    longitude: str


class Trips:
    """Frames of trips, within events.

    Args:
        root: the data directory.
        settings: of the source.
        name: what the ids of its rows begin with.
    """

    def __init__(self, root: Path, settings: TripSource, name: str) -> None:
        self._home, self._settings, self._prefix = root / settings.path, settings, name
        self.name, self.train_only = str(self._home), settings.train_only
        self.pictures: dict[str, Picture] = {}

    def rows(self) -> tuple[Row, ...]:
        """See `DataSource.rows`; no clip is opened.

        Raises:
            DatasetError: there is no trip or no event, an event is of no clip, or a table cannot be read.
        """
        clips = [clip for trip in self._trips() for clip in self._clips(trip)]
        events, rows, ambiguous = self._events(clips), list[Row](), 0
        for clip in clips:
            mine = events.get(clip.path, [])
            for fix in self._spaced(fixes_of(clip.fixes)) if mine and clip.fixes is not None else ():
                label, kinds = self._label(mine, fix.at_s)
                if label is None:
                    ambiguous += bool(kinds)
                    continue
                rows.append(self._row(clip, fix, label, kinds))
        if ambiguous:
            log.warning("frames_left_out", source=self.name, frames=ambiguous, reason="events of other kinds")
        return tuple(rows)

    def _trips(self) -> list[Path]:
        if not self._home.is_dir():
            raise DatasetError(f"{self._home}: no such directory")
        found = sorted(path.parent for path in self._home.rglob(TRIP))
        if not found:
            raise DatasetError(f"{self._home}: no trip in it; a trip is a directory with a {TRIP}")
        return found

    def _clips(self, trip: Path) -> Iterator[Clip]:
        """The clips of the camera, each with the table that has its name or is the only one in the folder."""
        camera = self._settings.camera.lower()
        for folder in sorted(path for path in trip.glob(f"*/*{FOLDER}") if path.name.lower().startswith(camera)):
            tables = sorted(folder.glob("*.csv"))
            inside = PurePosixPath(trip.relative_to(self._home).as_posix())
            for clip in sorted(folder.glob("*.mp4")):
                own = [table for table in tables if table.stem == clip.stem] or (tables if len(tables) == 1 else [])
                yield Clip(clip, inside, own[0] if own else None)

    def _events(self, clips: Sequence[Clip]) -> dict[Path, list[Event]]:
        path = self._home / EVENTS
        read = read_json(path, TypeAdapter(list[Event] | _Events), "a list of events, each with a clip and a kind")
        events = read if isinstance(read, list) else read.events
        every = list(self._home.rglob("*.mp4"))
        found: dict[Path, list[Event]] = {}
        for event in events:
            meant = [clip for clip in every if _ends_in(clip, event.clip)]
            if len(meant) != 1:
                many = f"{len(meant)} clips" if meant else "no clip"
                raise DatasetError(f"{path}: {many} below {self._home} can be meant by {event.clip!r}")
            # An event is seen by all cameras that ran at the time.
            for clip in clips:
                if clip.path == meant[0] or clip.path.parent.parent == meant[0].parent.parent:
                    found.setdefault(clip.path, []).append(event)
        return found

    def _spaced(self, fixes: Sequence[Fix]) -> Iterator[Fix]:
        last = -float("inf")
        for fix in fixes:
            if fix.at_s - last >= self._settings.every_s:
                last = fix.at_s
                yield fix

    def _label(self, events: Sequence[Event], at_s: float) -> tuple[int | None, str]:
        """The label of a frame, None for one without, and the kinds of the events that it is in."""
        mine = [event for event in events if event.start_s <= at_s and (event.end_s is None or at_s <= event.end_s)]
        kinds = "; ".join(sorted({event.kind for event in mine}))
        if not mine:
            return None, ""
        if any(word.lower() in event.kind.lower() for event in mine for word in self._settings.roadwork):
            return 1, kinds
        return (0 if self._settings.others == "negative" else None), kinds

    def _row(self, clip: Clip, fix: Fix, label: int, kinds: str) -> Row:
        inside = clip.path.relative_to(self._home).with_suffix("").as_posix()
        image = f"{self._prefix}/{inside}/{round(fix.at_s * 1000):08d}.jpg"
        country, *state = clip.trip.parts[:-1] or ("",)
        about = {"country": country, "state": state[0] if state else "", "event": kinds}
        if fix.latitude and fix.longitude:
            about["gps"] = f"{fix.latitude},{fix.longitude}"
        try:
            row = Row(
                image=image,
                label=label,
                group=f"{self._prefix}/{clip.trip}",
                source=self._prefix,
                metadata={name: text for name, text in about.items() if text},
            )
        except ValidationError as error:
            raise DatasetError(f"{clip.path}: {first_problem(error, otherwise='the frame')}") from error
        self.pictures[image] = Frame(clip.path, fix.at_s)
        return row


def _ends_in(clip: Path, text: str) -> bool:
    wanted = PurePosixPath(text.replace("\\", "/")).parts
    return bool(wanted) and clip.parts[-len(wanted) :] == wanted


def fixes_of(path: Path) -> list[Fix]:
    """The fixes of a table, by time.

    Raises:
        DatasetError: it cannot be read, or has no column of times or of places; names those that it has.
    """
    table = read_table(path, (*TIMES, *LATITUDE_COLUMNS, *LONGITUDE_COLUMNS))
    time, latitude, longitude = (_column(table, names) for names in (TIMES, LATITUDE_COLUMNS, LONGITUDE_COLUMNS))
    if time is None:
        raise DatasetError(
            f"{path}: no column of times, which is called {' or '.join(TIMES)}; it has {', '.join(table.columns)}"
        )
    found: list[tuple[float, str, str]] = []
    for record in table.records:
        at = number(record.cells[time])
        if at is None:
            raise DatasetError(f"{path}, line {record.line}: {time} is {record.cells[time]!r}, expected a number")
        north, east = (record.cells[name] if name is not None else "" for name in (latitude, longitude))
        found.append((at / _unit(at, time), north, east))
    found.sort(key=lambda fix: fix[0])
    first = found[0][0] if found and found[0][0] > LONGEST_CLIP_S else 0.0
    return [Fix(at - first, north, east) for at, north, east in found]


def _unit(at: float, column: str) -> float:
    if column.endswith("_ms"):
        return 1e3
    return next((unit for unit in UNITS if at / unit < LATEST_S), UNITS[-1])


def _column(table: Table, names: Sequence[str]) -> str | None:
    there = tuple(table.columns)
    return next((found[0] for name in names if (found := columns_called(name, there))), None)
