"""A second name without a second copy, on every kind of file system."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import engines.store.shared_file
from engines.store.shared_file import replace_by_share, share


def refuses(source: Path, target: Path) -> None:
    """As exFAT and SMB do."""
    raise OSError(errno.EPERM, "Operation not permitted", str(source), None, str(target))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"w" * 5000)
    return path


def test_where_there_are_links_nothing_is_copied(weights: Path, tmp_path: Path) -> None:
    share(weights, tmp_path / "second")
    assert (tmp_path / "second").samefile(weights)


def test_where_there_are_none_there_is_one_copy(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.store.shared_file, "WAYS", (refuses, refuses))
    share(weights, tmp_path / "second")
    assert (tmp_path / "second").read_bytes() == weights.read_bytes()
    assert not (tmp_path / "second").samefile(weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["second", "weights"]


def test_blocks_are_shared_or_nothing_is_left(weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "second"
    try:
        engines.store.shared_file._clone(weights, target)
    except OSError:
        assert not target.exists()
    else:
        assert target.read_bytes() == weights.read_bytes()


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.store.shared_file, "WAYS", (refuses,))
    with pytest.raises(OSError, match="No such file"):
        share(tmp_path / "missing", tmp_path / "second")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_in_one_step_and_only_if_it_is_another(weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "second"
    target.write_text("old")
    replace_by_share(weights, target)
    assert target.samefile(weights)
    replace_by_share(weights, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["second", "weights"]
