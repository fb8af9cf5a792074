"""Challenges: which distortions a level has, what is never done, and the bytes that are sent."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from offline.stream import challenge as challenges
from offline.stream.challenge import CELLS, Cell, challenge, drawn_cell, sent
from stage1.certificate.stream import ERAS
from stage1.errors import ImageError
from stage1.preprocess import Pixels, PreprocessSettings, preprocess
from tests.support.challenges import jpeg, patches, placed

SETTINGS = PreprocessSettings(size_px=64)


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_there_are_two_eras_of_four_levels_and_one_without() -> None:
    assert [(cell.era, cell.level) for cell in CELLS] == [
        *(("challenges-2026-01", level) for level in range(4)),
        *(("challenges-2026-04", level) for level in range(4)),
        ("challenges-2026-05", 0),
    ]
    assert [str(cell) for cell in CELLS[-2:]] == ["challenges-2026-04, level 3", "challenges-2026-05"]


def test_eras_are_drawn_by_their_shares_and_levels_evenly() -> None:
    rng = seeded()
    drawn = Counter(drawn_cell(dict.fromkeys(ERAS, 1 / 3), rng) for _ in range(12_000))
    assert set(drawn) == set(CELLS)
    for cell, count in drawn.items():
        share = 1 / 3 if cell.era == "challenges-2026-05" else 1 / 12
        assert count / 12_000 == pytest.approx(share, abs=4 * (share * (1 - share) / 12_000) ** 0.5)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_challenge_is_a_square_of_224_pixels_or_the_whole_picture(cell: Cell) -> None:
    out = challenge(patches(), cell, seeded())
    assert (out.mode, out.size) == ("RGB", (1280, 720) if cell.era == "challenges-2026-05" else (224, 224))


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_nothing_is_ever_mirrored(cell: Cell) -> None:
    """0 of 200 in both directions, as measured: red still grows to the right and green downwards."""
    picture, rng = placed(256, 144), seeded()
    for _ in range(200 if cell.level < 2 else 20):
        out = np.asarray(challenge(picture, cell, rng)).astype(float)
        rows, columns = np.nonzero(out[..., 2] > 60)
        lit = out[rows, columns]
        assert np.corrcoef(columns, lit[:, 0])[0, 1] > 0.2
        assert np.corrcoef(rows, lit[:, 1])[0, 1] > 0.2


@pytest.mark.parametrize(("level", "strongest"), [(0, ()), (1, ()), (2, (1, 1, 1)), (3, (2, 2, 2, 2, 2))])
@pytest.mark.parametrize("era", ["challenges-2026-01", "challenges-2026-04"])
def test_each_distortion_of_a_level_is_drawn_by_itself_with_both_ends(
    monkeypatch: pytest.MonkeyPatch, era: str, level: int, strongest: tuple[int, ...]
) -> None:
    noted: list[tuple[int, int]] = []

    def noting(place: int) -> Callable[[Pixels, int, np.random.Generator], Pixels]:
        def distort(pixels: Pixels, strength: int, _rng: np.random.Generator) -> Pixels:
            noted.append((place, strength))
            return pixels

        return distort

    monkeypatch.setattr(challenges, "DISTORTIONS", tuple(noting(place) for place in range(5)))
    picture, rng, times = placed(64, 36), seeded(), 600
    for _ in range(times):
        before = len(noted)
        challenge(picture, Cell(era, level), rng)  # type: ignore[arg-type]
        places = [place for place, _ in noted[before:]]
        assert places == sorted(places)
    counts = Counter(noted)
    assert set(counts) == {(place, k) for place, most in enumerate(strongest) for k in range(1, most + 1)}
    for (place, _), count in counts.items():
        share = 1 / (strongest[place] + 1)
        assert count / times == pytest.approx(share, abs=4 * (share * (1 - share) / times) ** 0.5)


def test_in_april_a_rotated_picture_keeps_its_bars_and_is_not_cut() -> None:
    white = Image.new("RGB", (1280, 720), (255, 255, 255))
    for seed in range(20):
        black = (np.asarray(challenge(white, Cell("challenges-2026-04", 1), seeded(seed))) == 0).all(-1).mean()
        assert 0.43 < black < 0.46


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_what_is_sent_is_a_jpeg_of_quality_75_with_halved_colour_and_no_metadata(cell: Cell) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a street"
    buffer = io.BytesIO()
    patches().save(buffer, "JPEG", exif=exif, icc_profile=b"profile")
    content = sent(buffer.getvalue(), cell, seeded(), SETTINGS)
    image = Image.open(io.BytesIO(content))
    expected = io.BytesIO()
    Image.new("RGB", (16, 16)).save(expected, "JPEG")
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    assert image.quantization == Image.open(expected).quantization  # type: ignore[attr-defined]
    assert JpegImagePlugin.get_sampling(image) == 2
    assert not image.getexif()
    assert "icc_profile" not in image.info


def test_a_picture_that_is_sent_whole_is_only_compressed_again() -> None:
    picture = patches()
    content = jpeg(picture)
    expected = jpeg(Image.open(io.BytesIO(content)), quality=75)
    assert sent(content, Cell("challenges-2026-05", 0), seeded(), SETTINGS) == expected


def test_a_picture_is_sent_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    placed(120, 60).save(buffer, "PNG", exif=exif)
    content = sent(buffer.getvalue(), Cell("challenges-2026-05", 0), seeded(), SETTINGS)
    assert Image.open(io.BytesIO(content)).size == (60, 120)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_generator_decides_everything(cell: Cell) -> None:
    content = jpeg(patches().resize((320, 180)))
    first = sent(content, cell, seeded(3), SETTINGS)
    assert sent(content, cell, seeded(3), SETTINGS) == first
    drawn = {sent(content, cell, seeded(seed), SETTINGS) for seed in range(6)}
    assert (len(drawn) > 1) == (cell.level > 0)


def test_what_is_no_picture_is_refused_as_it_is_everywhere() -> None:
    with pytest.raises(ImageError, match="not a readable"):
        sent(b"no picture", CELLS[0], seeded(), SETTINGS)
    content = jpeg(patches())
    with pytest.raises(ImageError, match="the limit is 1000 pixels"):
        sent(content, CELLS[0], seeded(), PreprocessSettings(max_pixels=1000))


def test_an_engine_sees_what_is_sent_through_the_preprocess_that_serves() -> None:
    content = sent(jpeg(patches()), Cell("challenges-2026-04", 0), seeded(), SETTINGS)
    assert preprocess(content, SETTINGS).shape == (3, 64, 64)
    assert (preprocess(content, SETTINGS)[:, :10].max(), preprocess(content, SETTINGS)[:, 30:34].max()) > (0, 100)
