"""A frame of a video as the picture of a row; decoded when it is wanted, and never written."""

from __future__ import annotations

import importlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline.data.dataset import FileState
from offline.errors import DatasetError
from offline.pipeline.content_key import installed
from stage1.artifacts import sha256_json

EXTRA = "video"
# Of the JPEG that stands for a frame: above what any validator sends.
QUALITY = 95
# A frame is the first that is not shown before its time, less this: clocks and frames round differently.
EARLY_S = 0.005
# The bytes of a frame are made by these packages, so those of another version may be others.
MAKERS, MARK_DIGITS = ("av", "pillow"), 15
MOST_PIXELS, MOST_FRAMES = 64_000_000, 36_000


@dataclass(frozen=True)
class _State:
    """See `offline.data.dataset.FileState`; the inode is mixed with what else decides the bytes."""

    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_ino: int


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        video: the file.
        at_s: seconds from its beginning.
    """

    video: Path
    at_s: float

    def read_bytes(self) -> bytes:
        """See `offline.data.dataset.Picture`: the frame as a JPEG, the same bytes every time.

        Raises:
            OSError: the video cannot be read, or ends before.
            DatasetError: PyAV is not installed.
        """
        av = pyav()
        try:
            with av.open(str(self.video)) as container:
                picture = self._found(container)
        except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
            raise OSError(f"{self}: cannot be read ({error})") from error
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
        return buffer.getvalue()

    def _found(self, container: Any) -> Any:  # noqa: ANN401  PyAV is not always there to be checked against
        stream = container.streams.video[0]
        if stream.width * stream.height > MOST_PIXELS:
            raise ValueError(f"{stream.width} x {stream.height} pixels, the limit is {MOST_PIXELS}")
        container.seek(max(0, int(self.at_s / stream.time_base)), stream=stream)
        for number, frame in enumerate(container.decode(stream)):
            if frame.time is not None and frame.time >= self.at_s - EARLY_S:
                return frame.to_image()
            if number > MOST_FRAMES:
                break
        raise ValueError("the video ends before")

    def stat(self) -> FileState:
        """See `offline.data.dataset.Picture`: the state of the video, and of what makes a picture of it."""
        found = self.video.stat()
        made_by = sha256_json([*(installed(name) for name in MAKERS), QUALITY, EARLY_S])
        return _State(
            found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino ^ int(made_by[:MARK_DIGITS], 16)
        )

    def is_file(self) -> bool:
        """See `offline.data.dataset.Picture`."""
        return self.video.is_file()

    def __str__(self) -> str:
        return f"{self.video}, at {self.at_s:.3f} s"


def pyav() -> Any:  # noqa: ANN401  see above
    """The module `av`.

    Raises:
        DatasetError: it is not installed; names the extra.
    """
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise DatasetError(
            f"a source of kind trips needs PyAV, which is not installed: install the extra `{EXTRA}`, as in "
            f"`pip install 'streetvision-cascade[{EXTRA}]'`"
        ) from error
