"""New views of training pictures, as validators would send them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from offline.data.dataset import Dataset, Row
from offline.data.originals import Copies
from offline.errors import DatasetError
from offline.learning.augmentation import unchanged
from offline.learning.challenge_views import ChallengeViews, certified_views
from offline.learning.supervised.inputs import FreshViews
from offline.learning.training_views import training_views
from offline.stream.challenge import Cell, drawn_cell, sent
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.stream import era_shares, even_weights
from stage1.preprocess import Geometry, PreprocessSettings, preprocess
from tests.support.challenges import jpeg, patches

SETTINGS = PreprocessSettings(size_px=64)


@pytest.fixture
def views(tmp_path: Path) -> ChallengeViews:
    """Of six pictures."""
    whole = patches()
    for n in range(6):
        (tmp_path / f"{n}.jpg").write_bytes(jpeg(whole.crop((100 * n, 60 * n, 100 * n + 320, 60 * n + 200))))
    rows = tuple(Row(image=f"{n}.jpg", label=n % 2, group=f"{n}") for n in range(6))
    return ChallengeViews(Dataset(tmp_path, rows), SETTINGS, even_weights())


@pytest.mark.parametrize("geometry", get_args(Geometry))
def test_training_draws_the_very_transforms_that_are_certified(views: ChallengeViews, geometry: Geometry) -> None:
    """From the file and by the same functions, up to the serving preprocess; there is no second implementation."""
    settings = PreprocessSettings(size_px=64, geometry=geometry)
    views = replace(views, settings=settings)
    for row, seed in ((0, 3), (5, 8), (2, 11)):
        rng = np.random.default_rng(seed)
        cell = drawn_cell(era_shares("mixture", even_weights()), rng)
        content = sent((views.data.root / f"{row}.jpg").read_bytes(), cell, rng, settings)
        assert np.array_equal(views([row], [seed])[0], preprocess(content, settings))


def test_views_are_of_the_stream_that_is_to_be_certified(views: ChallengeViews) -> None:
    made = certified_views(views.data, SETTINGS, CalibrationSettings(stream="challenges-2026-05"))
    assert made is not None
    whole = Cell("challenges-2026-05", 0)
    content = sent((views.data.root / "2.jpg").read_bytes(), whole, np.random.default_rng(0), SETTINGS)
    assert np.array_equal(made([2], [5])[0], preprocess(content, SETTINGS))
    mixture = certified_views(views.data, SETTINGS, CalibrationSettings(stream="mixture"))
    assert mixture == replace(views, data=views.data.through_copies())
    assert certified_views(views.data, SETTINGS, CalibrationSettings(stream="originals")) is None


def test_a_view_is_the_same_whichever_are_made_beside_it(views: ChallengeViews) -> None:
    rows, seeds = [4, 1, 4, 0], [7, 8, 9, 10]
    together = views(rows, seeds)
    assert together.shape == (4, 3, 64, 64)
    for place, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
        assert np.array_equal(views([row], [seed])[0], together[place])
    assert not np.array_equal(together[0], together[2])


def test_each_epoch_shows_other_views_and_a_generator_that_is_put_back_the_same(views: ChallengeViews) -> None:
    squares = views.data.array(SETTINGS)
    inputs = FreshViews(squares, unchanged, torch.device("cpu"), views)
    generator = torch.Generator().manual_seed(0)
    everything = np.arange(6)
    first = inputs.draw(everything, generator)
    state = generator.get_state()
    second = inputs.draw(everything, generator)
    # A picture that is sent whole twice is the same twice.
    assert (first != second).flatten(1).any(1).sum() >= 4
    generator.set_state(state)
    assert torch.equal(inputs.draw(everything, generator), second)


def test_a_picture_that_is_gone_is_named(views: ChallengeViews) -> None:
    (views.data.root / "3.jpg").unlink()
    with pytest.raises(DatasetError, match=r"3\.jpg: .*No such file"):
        views([3], [0])


class TestOriginals:
    """What trains is cut from the file, and what is small in it is seen near."""

    @pytest.fixture
    def trained(self, views: ChallengeViews, tmp_path: Path) -> ChallengeViews:
        copies = Copies(tmp_path / "copies", SETTINGS)
        made = training_views(views.data, SETTINGS, CalibrationSettings(), "strong", copies)
        assert made.originals is not None
        return made

    def test_files_that_are_small_are_sent_themselves(self, views: ChallengeViews, tmp_path: Path) -> None:
        copies = Copies(tmp_path / "copies", SETTINGS)
        whole = training_views(views.data, SETTINGS, CalibrationSettings(), "validators", copies)
        assert not copies.directory.exists()
        assert np.array_equal(whole([4, 1], [7, 8]), views([4, 1], [7, 8]))

    def test_only_what_sees_challenges_has_originals(self, views: ChallengeViews, tmp_path: Path) -> None:
        made = training_views(views.data, SETTINGS, CalibrationSettings(), "light", Copies(tmp_path / "c", SETTINGS))
        assert made.originals is None

    def test_a_crop_is_the_same_whichever_are_made_beside_it(self, trained: ChallengeViews) -> None:
        together = trained([4, 1, 4], [7, 8, 9])
        assert np.array_equal(trained([1], [8])[0], together[1])
        assert not np.array_equal(together[0], together[2])

    def test_a_crop_shows_columns_that_the_input_of_the_whole_frame_blurs(self, tmp_path: Path) -> None:
        """Columns of four pixels in a frame of 512 px are half a pixel wide at 64 px, and wider in a crop of it."""
        pixels = np.zeros((512, 512, 3), np.uint8)
        pixels[:, np.arange(512) % 8 < 4] = 255
        Image.fromarray(pixels).save(tmp_path / "0.png")
        data = Dataset(tmp_path, (Row(image="0.png", label=0, group="0"),))
        only = CalibrationSettings(stream_weights={"challenges-2026-05": 1})
        contrast = {}
        for kind in ("validators", "strong"):
            made = training_views(data, SETTINGS, only, kind, Copies(tmp_path / "copies", SETTINGS))
            contrast[kind] = made([0] * 8, range(8)).astype(np.float64).std(axis=(1, 2, 3)).max()
        assert contrast["strong"] > 2 * contrast["validators"]

    def test_what_decides_a_view_tells_crops_and_copies_apart(
        self, views: ChallengeViews, trained: ChallengeViews
    ) -> None:
        several = [views, trained, replace(trained, crops=False)]
        assert len({repr(each.decides) for each in several}) == 3
