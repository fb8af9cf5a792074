"""`cascade harvest`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from miner.cli import app
from tests.miner.harvest.test_harvest import content_of, kept, random_one, store_in


@pytest.fixture
def state(tmp_path: Path) -> Path:
    store = store_in(tmp_path / "state" / "harvest")
    for number in range(4):
        store.keep(random_one(number), content_of(number))
    for number in range(4, 8):
        store.keep(kept(number, site=number // 2), content_of(number))
    return tmp_path / "state"


def run(state: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["harvest", *words, "--set", f"state={state}"])
    return done.exit_code, done.output


def test_from_the_store_to_a_night(state: Path, tmp_path: Path) -> None:
    assert "8 pictures" in run(state, "stats")[1]
    assert len(run(state, "list", "--most", "3")[1].splitlines()) == 3
    out = tmp_path / "to label"
    status, told = run(state, "export", str(out))
    assert status == 0, told
    assert "6 pictures" in told, "one of each place of what was picked"
    lines = (out / "labels.csv").read_text().splitlines()
    (out / "labels.csv").write_text("\n".join([lines[0], *(line.replace(",,", ",1,") for line in lines[1:])]))
    status, told = run(state, "import", str(out / "labels.csv"), "--data", str(tmp_path / "data"))
    assert status == 0, told
    assert "4 images for any set, 2 for training alone; 0 wait" in told
    assert "4 of 4 labelled, whole" in run(state, "stats")[1]
    assert (tmp_path / "data" / "sources.toml").exists()


def test_a_part_of_a_draw_waits(state: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(f"image,label\nimages/{kept(0).sha256}.jpg,1\n")
    status, told = run(state, "import", str(tmp_path / "labels.csv"), "--data", str(tmp_path / "data"))
    assert status == 0, told
    assert "0 images for any set, 0 for training alone; 1 wait" in told


def test_a_strange_picture_and_an_empty_store_are_told(state: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(f"image,label\n{'a' * 64}.jpg,1\n")
    assert run(state, "import", str(tmp_path / "labels.csv"))[0] == 2
    status, told = run(tmp_path / "nowhere", "stats")
    assert status == 2
    assert "harvest.enabled" in told
