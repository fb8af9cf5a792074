"""Whoever tells a training to end is heard, whenever that is."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from offline.errors import TrainingInterrupted
from offline.learning.checkpoints import Checkpoints, interruptible


def tell() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def prepared() -> None:
    with interruptible() as check:
        check()
        tell()


def trained(directory: Path) -> None:
    with Checkpoints(directory, {}, {}, 10).watch({"steps": 3}) as watch:
        watch.save()
        tell()


def failed() -> None:
    with interruptible():
        tell()
        raise KeyError


def test_a_word_that_comes_after_the_last_look_is_not_forgotten() -> None:
    """Nobody looks again: the next training would go on for hours."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterrupted):
        prepared()
    assert signal.getsignal(signal.SIGTERM) is before


def test_nor_is_one_that_comes_while_the_last_checkpoint_is_written(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        trained(tmp_path)
    assert Checkpoints(tmp_path, {}, {}, 10).restore() == {"steps": 3}


def test_an_error_is_told_and_not_the_word() -> None:
    with pytest.raises(KeyError):
        failed()
