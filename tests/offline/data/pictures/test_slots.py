"""Records that are many and old are begun anew; all others stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from offline.data.pictures.slots import BEGUN, Slots, forget_old

DAY = 86_400.0


def records(directory: Path, count: int) -> None:
    Slots(directory, "pixels.u8", 3).append({number.to_bytes(16, "big"): b"abc" for number in range(count)})


@pytest.mark.parametrize(
    ("count", "days", "goes"), [(21, 91, True), (20, 91, False), (21, 89, False)], ids=["goes", "few", "young"]
)
def test_what_is_many_and_old_goes(tmp_path: Path, count: int, days: float, goes: bool) -> None:
    home = tmp_path / "view"
    records(home, count)
    now = 1_000 * DAY
    # Nobody has written down when they were begun, so they are young.
    assert not forget_old(home, 20, now - 90 * DAY)
    if count > 20:
        os.utime(home / BEGUN, (now - days * DAY,) * 2)
    assert forget_old(home, 20, now - 90 * DAY) == goes
    assert home.exists() != goes
    records(home, 3)
    assert len(Slots(home, "pixels.u8", 3)) == (3 if goes else count)
    assert not forget_old(tmp_path / "nowhere", 0, now)
