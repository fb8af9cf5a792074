"""What a cell of a table means: words for nothing, numbers, ids and labels. What its columns are called is in `stage1`.

Every table of a person is read by these rules, so that two spellings of one thing are one thing everywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from offline.errors import DatasetError

# What databases, spreadsheets, pandas and annotation tools write where there is no value; compared without case.
NOTHING = frozenset(
    {"", "-", "--", "?", "nan", "nat", "none", "null", "nil", "na", "<na>", "n/a", "n.a.", "unknown", "undefined"}
    | {"\\n", "#n/a", "#nv", "#value!", "#ref!", "#name?", "#num!", "#div/0!", "#null!"}
)
LABELS = {"true": 1, "false": 0, "yes": 1, "no": 0}

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d{1,40}([.,]0*)?")
# What spreadsheets put between thousands, as the country has it: 1,234,567 and 1.234.567 and 1'234'567 and 1 234 567,
# and 12,34,567 in India.
_THOUSANDS = re.compile(
    r"[+-]?[1-9]\d{0,2}(?P<mark>[.,'\u2019 \u00a0\u2009\u202f])\d{3}((?P=mark)\d{3})*((?!(?P=mark))[.,]0*)?"
    r"|[+-]?[1-9]\d?(,\d{2})+,\d{3}([.]0*)?"
)
# A thousand, or one with three decimals.
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2}[.,]000")
# 123456789012345678 becomes 1.23457E+17 in a cell of a spreadsheet, and so does its neighbour.
_ROUNDED = re.compile(r"\d(?:[.,](\d*))?E\+(\d+)", re.IGNORECASE)


def said(text: str) -> str | None:
    """What a cell says, None if it is empty or holds a word for nothing."""
    bare = text.strip()
    return None if bare.lower() in NOTHING else bare


@lru_cache(maxsize=65_536)
def word(text: str) -> str:
    """One spelling of a value that names a kind: `Night`, ` NIGHT` and `night` are one, and so are 1, 01 and 1.0."""
    bare = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return str(int(re.split("[.,]", bare)[0])) if _WHOLE.fullmatch(bare) else bare


def one_of(text: str, known: Iterable[str]) -> str | None:
    """The known value that a cell means in whatever spelling; None if it means none, or more than one.

    Args:
        text: a cell.
        known: values; one that is spelled as the cell comes first.
    """
    values, bare = tuple(known), text.strip()
    if bare in values:
        return bare
    meant = [value for value in values if word(value) == word(bare)]
    return meant[0] if len(meant) == 1 else None


def number(text: str) -> float | None:
    """The number that a cell holds, with a decimal point or comma; None if it is no finite number."""
    bare = text.strip()
    if not _NUMBER.fullmatch(bare):
        return None
    found = float(bare.replace(",", "."))
    return found if abs(found) != float("inf") else None


def rounded_to(text: str) -> float | None:
    """The step to which a spreadsheet has rounded a large number, 1e12 for `1.23457E+17`; None if it has not.

    Args:
        text: a cell.
    """
    found = _ROUNDED.fullmatch(text.strip())
    if found is None:
        return None
    step = 10.0 ** min(int(found[2]) - len(found[1] or ""), 300)
    return step if step > 1 else None


def identity(text: str) -> str:
    """One spelling of an id: 1, 01 and 1.0 are one group, so are 1234567 and 1,234,567, and letters composed anyhow.

    Digits of every script are digits. 1.5, 1e3 and 0x10 are text.

    Raises:
        DatasetError: it may be two ids: a spreadsheet has rounded it, or it is a thousand or one with three decimals.
    """
    bare = unicodedata.normalize("NFC", text.strip())
    if rounded_to(bare) is not None:
        raise DatasetError(
            f"the id {bare!r} was rounded by a spreadsheet, and different ids may have become the same: export the "
            "column as text"
        )
    plain = "".join(str(unicodedata.decimal(sign, sign)) for sign in bare)
    if _EITHER.fullmatch(plain):
        whole = plain[:-4]
        raise DatasetError(
            f"the id {bare!r} may be {whole}000, with a separator of thousands, or {whole}, with three decimals: "
            "export the column as whole numbers without either, or put a letter before an id that is neither"
        )
    found = _THOUSANDS.fullmatch(plain)
    plain = plain if found is None else plain.replace(found["mark"] or ",", "")
    return str(int(re.split("[.,]", plain)[0])) if _WHOLE.fullmatch(plain) else bare


def label_of(text: str) -> int | None:
    """0 or 1 for `0`, `1`, `0.0`, `1.0`, `false`, `true`, `no` and `yes` in any case; None for everything else."""
    bare = text.strip().lower()
    if bare in LABELS:
        return LABELS[bare]
    found = number(bare)
    return int(found) if found in {0.0, 1.0} else None
