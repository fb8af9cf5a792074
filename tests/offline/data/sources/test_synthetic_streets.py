"""Synthetic scenes: repeatable, balanced, harder where they are told to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from offline.data.sources.scene_plan import plan_scene
from offline.data.sources.source import read_dataset
from offline.data.sources.synthetic_streets import HEIGHT, WIDTH, draw_frame, write_scenes
from stage1.preprocess import PreprocessSettings


def test_the_same_scene_has_the_same_pixels() -> None:
    scene = plan_scene(3, seed=1, difficulty=0.5)
    first, second = draw_frame(scene, 0), draw_frame(scene, 0)
    assert first.size == (WIDTH, HEIGHT)
    assert np.array_equal(np.asarray(first), np.asarray(second))
    assert not np.array_equal(np.asarray(first), np.asarray(draw_frame(scene, 1)))


def test_scenes_differ_and_both_classes_are_common() -> None:
    scenes = [plan_scene(index, seed=0, difficulty=0.3) for index in range(400)]
    assert len({scene.name for scene in scenes}) == 400
    assert 0.4 < np.mean([scene.label for scene in scenes]) < 0.6


def test_difficulty_lowers_visibility() -> None:
    def visibility(difficulty: float) -> float:
        return float(np.mean([plan_scene(i, seed=0, difficulty=difficulty).visibility for i in range(300)]))

    assert visibility(0.0) > visibility(0.5) > visibility(1.0)


def test_roadwork_changes_the_picture() -> None:
    scene = next(s for s in (plan_scene(i, seed=0, difficulty=0.0) for i in range(50)) if s.label)
    without = draw_frame(type(scene)(**{**scene.__dict__, "label": 0}), 0)
    changed = np.abs(np.asarray(draw_frame(scene, 0), int) - np.asarray(without, int)).max(2) > 60
    assert changed.mean() > 0.005


def test_a_written_set_is_a_readable_one_and_calls_itself_synthetic(tmp_path: Path) -> None:
    assert list(write_scenes(tmp_path, scenes=12, seed=4)) == list(range(1, 13))
    data = read_dataset(tmp_path)
    assert len(set(data.groups)) == 12
    assert {row.source for row in data.rows} == {"synthetic"}
    assert all("synthetic" in row.image for row in data.rows)
    assert {"daytime", "weather", "visibility"} <= set(data.rows[0].metadata)
    assert data.array(PreprocessSettings()).std() > 10


def test_a_larger_picture_shows_the_same_scene_with_more_detail() -> None:
    small = plan_scene(3, seed=1, difficulty=0.2)
    large = draw_frame(plan_scene(3, seed=1, difficulty=0.2, scale=3), 0)
    assert large.size == (3 * WIDTH, 3 * HEIGHT)
    shrunk = np.asarray(large.resize((WIDTH, HEIGHT), Image.Resampling.BOX), float)
    other = np.asarray(draw_frame(plan_scene(4, seed=1, difficulty=0.2), 0), float)
    difference, apart = np.abs(shrunk - np.asarray(draw_frame(small, 0), float)), np.abs(shrunk - other)
    assert difference.mean() < apart.mean() / 3
