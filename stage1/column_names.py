"""Names of the columns of a person's table: one rule for whoever writes one into a file or a setting."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

INVISIBLE = "\ufeff\u200b\u2060"


@lru_cache(maxsize=4096)
def column_name(header: str) -> str:
    """The name of a column: case, blanks around it and the kind of blanks in it do not matter.

    Args:
        header: as the file has it.
    """
    text = unicodedata.normalize("NFC", header).strip(INVISIBLE).strip().strip(INVISIBLE)
    return "_".join(text.lower().split())


@lru_cache(maxsize=65_536)
def columns_called(column: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that are meant by a name: the one that has it, then those that end in a dot and the name.

    Args:
        column: the name, in any spelling; `vid_id` also means `video_info.vid_id`.
        names: names of columns (see `column_name`).
    """
    name = column_name(column)
    dotted = sorted(other for other in names if other.endswith(f".{name}"))
    return (name, *dotted) if name in names else tuple(dotted)
