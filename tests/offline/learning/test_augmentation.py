"""Augmentation: what validators do to images, drawn from the generator that is passed in."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from offline.data.dataset import Dataset, Row
from offline.learning import augmentation
from offline.learning.augmentation import (
    BARRED,
    CUT,
    NATIVE,
    as_validators_do,
    augmenter,
    frame_aspects,
    light,
    usual_stack,
)

KINDS: tuple[Any, ...] = ("light", "validators", "strong")
WIDE = 16 / 9


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def scene(count: int, size: int = 64) -> Tensor:
    """Smooth pictures, none of whose pixels is black, all different."""
    generator = seeded(9)
    rough = 40 + 180 * torch.rand((count, 3, 5, 5), generator=generator)
    smooth: Tensor = torch.nn.functional.interpolate(rough, (size, size), mode="bilinear")
    return smooth.to(torch.uint8)


def drawn(monkeypatch: pytest.MonkeyPatch, *, way: int, level: int) -> None:
    """Every image goes one way, at one level."""
    real, wanted = torch.randint, iter([way, level])

    def fixed(*arguments: Any, **more: Any) -> Tensor:
        same: Tensor = torch.full_like(real(*arguments, **more), next(wanted))
        return same

    monkeypatch.setattr("offline.learning.augmentation.torch.randint", fixed)


def black(images: Tensor) -> Tensor:
    """Share of black pixels of each image; JPEG rings by a few grey values beside an edge."""
    share: Tensor = (images.float().amax(1) < 12).float().mean((1, 2))
    return share


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_shape_and_type_and_changes_pixels(kind: Any) -> None:
    images = scene(16)
    out = augmenter(kind)(images, torch.full((16,), WIDE), seeded())
    assert (out.shape, out.dtype) == (images.shape, torch.uint8)
    assert not torch.equal(out, images)
    assert torch.equal(images, scene(16))


@pytest.mark.parametrize("kind", KINDS)
def test_everything_comes_from_the_generator(kind: Any) -> None:
    images, aspects = scene(12), torch.full((12,), WIDE)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = augmenter(kind)(images, aspects, seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.random.seed(5)  # noqa: NPY002  the global generator is what must not matter
    assert torch.equal(augmenter(kind)(images, aspects, seeded(3)), first)
    assert not torch.equal(augmenter(kind)(images, aspects, seeded(4)), first)


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_that_is_put_back_draws_the_same_again(kind: Any) -> None:
    """So a training that resumes sees what it would have seen."""
    generator, aspects = seeded(), torch.ones(4)
    augmenter(kind)(scene(4), aspects, generator)
    state = generator.get_state()
    expected = augmenter(kind)(scene(4), aspects, generator)
    generator.set_state(state)
    assert torch.equal(augmenter(kind)(scene(4), aspects, generator), expected)


def test_light_only_mirrors_and_dims() -> None:
    images = scene(64)
    out = light(images, seeded()).float()
    ratios = [out / base.float() for base in (images, images.flip(-1))]
    spread = torch.stack([ratio.amax((1, 2, 3)) - ratio.amin((1, 2, 3)) for ratio in ratios])
    # Truncation to whole values is all that is left after the right guess of the mirror.
    assert (spread.amin(0) < 0.03).all()
    mirrored = spread.argmin(0).float().mean()
    assert 0.3 < mirrored < 0.7
    gains = out.mean((1, 2, 3)) / images.float().mean((1, 2, 3))
    assert ((gains > 0.78) & (gains < 1.2)).all()
    assert gains.std() > 0.08


def test_a_frame_that_is_sent_as_it_is_is_only_a_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(monkeypatch, way=NATIVE, level=3)
    images = scene(4)
    out = as_validators_do(images, torch.full((4,), WIDE), seeded())
    for image, found in zip(images, out, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=75)
        expected = np.asarray(Image.open(buffer)).transpose(2, 0, 1)
        assert np.array_equal(found.numpy(), expected)


def pil_centre_cut(frame: Image.Image, side: int) -> np.ndarray:
    short = min(frame.size)
    left, top = (frame.width - short) // 2, (frame.height - short) // 2
    return np.asarray(frame.crop((left, top, left + short, top + short)).resize((side, side), 2))


def pil_letterbox(frame: Image.Image, side: int) -> np.ndarray:
    scale = side / max(frame.size)
    small = frame.resize((int(frame.width * scale), int(frame.height * scale)), 2)
    square = Image.new("RGB", (side, side))
    square.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return np.asarray(square)


@pytest.mark.parametrize("size", [(320, 180), (180, 320), (256, 256)])
@pytest.mark.parametrize(("way", "reference"), [(CUT, pil_centre_cut), (BARRED, pil_letterbox)])
def test_level_0_is_what_validators_do_to_the_frame(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], way: int, reference: Any
) -> None:
    """From the squashed square, up to resampling, the same as Pillow makes of the frame."""
    drawn(monkeypatch, way=way, level=0)
    rough = np.random.default_rng(0).integers(40, 220, (9, 9, 3), dtype=np.uint8)
    frame = Image.fromarray(rough).resize(size, 3)
    squashed = torch.from_numpy(np.asarray(frame.resize((128, 128), 2)).transpose(2, 0, 1).copy())[None]
    out = as_validators_do(squashed, torch.tensor([size[0] / size[1]]), seeded())[0]
    difference = np.abs(out.permute(1, 2, 0).numpy().astype(int) - reference(frame, 128))
    assert difference.mean() < 4
    assert np.median(difference) <= 2


def test_a_wide_frame_has_its_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """7 of 16 rows of a 16:9 frame: 44 % of the square, 45 % as measured of the validators' own."""
    drawn(monkeypatch, way=BARRED, level=0)
    out = as_validators_do(scene(8, 224), torch.full((8,), WIDE), seeded())
    assert black(out).mean() == pytest.approx(0.4375, abs=0.02)
    assert (out[:, :, :40].float().mean((1, 2, 3)) < 2).all()
    assert (out[:, :, 60:160].float().mean((1, 2, 3)) > 40).all()


def test_the_random_square_is_as_large_as_the_validators(monkeypatch: pytest.MonkeyPatch) -> None:
    """On 1280 x 720 they measured sides of 452, 592 and 712 pixels at 5, 50 and 95 %, and 1.6 % black corners."""
    count = 4000
    way, level = torch.full((count,), CUT), torch.ones(count, dtype=torch.long)
    theta = augmentation._geometry(way, level, torch.full((count,), WIDE), seeded())
    # The determinant is the area of the square by the area of the frame.
    sides = (torch.linalg.det(theta[:, :, :2].double()) * 1280 * 720).sqrt()
    assert np.quantile(sides, [0.05, 0.5, 0.95]) == pytest.approx([452, 592, 712], abs=12)
    assert sides.max() <= 720.5
    # Before the rotation the square is inside the frame: without one, so are its corners.
    corners = torch.tensor([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)])
    still = augmentation._geometry(way, level, torch.full((count,), WIDE), seeded())
    assert torch.equal(still, theta)
    monkeypatch.setattr(augmentation, "ROTATION_DEGREES", 0.0)
    upright = augmentation._geometry(way, level, torch.full((count,), WIDE), seeded())
    assert ((upright @ corners.T).abs() <= 1 + 1e-5).all()
    assert (theta[:, 1, 0] != 0).float().mean() > 0.99


def test_rotated_squares_have_a_few_black_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(monkeypatch, way=CUT, level=1)
    share = black(as_validators_do(scene(200), torch.full((200,), WIDE), seeded()))
    assert share.mean() == pytest.approx(0.016, abs=0.008)
    assert share.max() < 0.15


def test_rotation_is_rigid_in_the_frame() -> None:
    """In the squashed square it is a shear as well; worked out in the frame's proportions it is a pure rotation."""
    way, level = torch.full((50,), CUT), torch.ones(50, dtype=torch.long)
    theta = augmentation._geometry(way, level, torch.full((50,), WIDE), seeded()).double()
    linear = torch.diag(torch.tensor([WIDE, 1.0], dtype=torch.double)) @ theta[:, :, :2]
    gram = linear.transpose(1, 2) @ linear
    assert torch.allclose(gram[:, 0, 1], torch.zeros(50, dtype=torch.double), atol=1e-6)
    assert torch.allclose(gram[:, 0, 0], gram[:, 1, 1], atol=1e-6)
    degrees = torch.rad2deg(torch.atan2(linear[:, 1, 0], linear[:, 0, 0]))
    assert degrees.abs().max() <= 20.001
    assert degrees.abs().max() > 15


def test_distortions_start_at_level_2_and_noise_at_level_3() -> None:
    images = scene(300).float()
    changed = {
        level: (augmentation._distort(images.clone(), torch.full((300,), level), seeded()) != images).any((1, 2, 3))
        for level in range(4)
    }
    assert not changed[0].any()
    assert not changed[1].any()
    # Three distortions, each there or not; then five, each at none of two strengths.
    assert changed[2].float().mean() == pytest.approx(1 - 1 / 8, abs=0.06)
    assert changed[3].float().mean() == pytest.approx(1 - 1 / 3**5, abs=0.02)


def test_grey_keeps_luminance_and_shrinks_colour() -> None:
    images = scene(4).float()
    grey = augmentation._greyer(images, 0.3)
    weights = torch.tensor(augmentation.LUMA).view(1, 3, 1, 1)
    assert torch.allclose((grey * weights).sum(1), (images * weights).sum(1), atol=1e-3)
    assert torch.allclose(grey[:, 0] - grey[:, 2], 0.3 * (images[:, 0] - images[:, 2]), atol=1e-3)


@pytest.mark.parametrize("variance", [0.001, 0.002])
def test_noise_has_the_variance_of_its_channels(variance: float) -> None:
    noise = augmentation._noise(torch.zeros(8, 3, 64, 64), variance, seeded()) / 255
    luma = (noise * torch.tensor(augmentation.LUMA).view(1, 3, 1, 1)).sum(1)
    assert float(luma.var()) == pytest.approx(variance, rel=0.05)
    assert float((noise[:, 0] - luma).var()) == pytest.approx(1.402**2 * variance, rel=0.05)


def test_blur_is_a_gaussian_that_keeps_the_mean() -> None:
    spike = torch.zeros(1, 1, 21, 21)
    spike[0, 0, 10, 10] = 1e6
    blurred = augmentation._blurred(spike, 7)
    assert float(blurred.sum()) == pytest.approx(1e6, rel=1e-3)
    rows = torch.arange(21.0) - 10
    variance = (blurred.sum((0, 1, 3)) * rows**2).sum() / blurred.sum()
    # Seven taps cut a Gaussian of standard deviation 7 / 6 at three standard deviations.
    assert float(variance) == pytest.approx((7 / 6) ** 2, rel=0.03)
    assert int((blurred > 0).sum()) == 49


def test_coarse_loses_detail_and_not_the_mean() -> None:
    images = scene(2).float() + 20 * torch.randn((2, 3, 64, 64), generator=seeded())
    coarse = augmentation._coarse(images, 2)
    assert float((coarse.mean() - images.mean()).abs()) < 0.5
    assert coarse.diff(dim=-1).abs().mean() < 0.6 * images.diff(dim=-1).abs().mean()


def test_the_usual_stack_varies_every_image_by_itself() -> None:
    images = scene(1).expand(16, -1, -1, -1).clone()
    out = usual_stack(images, seeded())
    assert len({bytes(image.numpy().tobytes()) for image in out}) == 16


def test_frames_tell_their_proportions(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "wide.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "lying.jpg", exif=exif)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    known = {"width": "1280", "height": "720"}
    rows = [
        Row(image="wide.jpg", label=0, group="a"),
        Row(image="lying.jpg", label=0, group="a"),
        Row(image="broken.jpg", label=0, group="a"),
        Row(image="absent.jpg", label=0, group="a"),
        Row(image="absent2.jpg", label=0, group="a", metadata=known),
        Row(image="wide.jpg", label=0, group="a", metadata={"width": "1280", "height": "0"}),
    ]
    assert frame_aspects(Dataset(tmp_path, tuple(rows))).tolist() == pytest.approx([2, 0.5, 1, 1, WIDE, 2])


NO_SIDES = [
    {"width": width, "height": height}
    for width, height in (
        ("nan", "720"),
        ("1280", "nan"),
        ("inf", "720"),
        ("1280", "inf"),
        ("inf", "inf"),
        ("0", "720"),
        ("1280", "0"),
        ("-1280", "720"),
        ("-1280", "-720"),
        ("1e308", "1e-308"),
        ("1e-30", "1e30"),
        ("wide", "720"),
    )
]


@pytest.mark.parametrize("columns", NO_SIDES, ids=str)
def test_columns_that_are_no_sides_of_a_frame_are_not_believed(tmp_path: Path, columns: dict[str, str]) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "wide.jpg")
    row = Row(image="wide.jpg", label=0, group="a", metadata=columns)
    assert frame_aspects(Dataset(tmp_path, (row,))).tolist() == [2]


@pytest.mark.parametrize("entry", [b"\x02\0\x02\0\0\0006\0\0\0", b"\x03\0\x01\0\0\0\x09\0\0\0"], ids=["text", "nine"])
def test_a_frame_whose_orientation_is_none_stands_as_it_is_stored(tmp_path: Path, entry: bytes) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01" + entry + b"\0\0\0\0"
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert frame_aspects(Dataset(tmp_path, (Row(image="a.jpg", label=0, group="a"),))).tolist() == [2]


def test_kornia_does_not_need_torchvision() -> None:
    """The build of torchvision on PyPI does not work beside a torch without CUDA."""
    script = (
        "import sys; sys.modules['torchvision'] = None; import torch; "
        "from offline.learning.augmentation import usual_stack; "
        "usual_stack(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.Generator())"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=900)
