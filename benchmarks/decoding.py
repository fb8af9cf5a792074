"""CPU time from the bytes of an image to the square that an engine sees, and what a scaled decoding would change.

    python -m benchmarks.decoding
    python -m benchmarks.decoding --geometry letterbox --rounds 40

`ours` is `stage1.preprocess.preprocess`. Beside it: Pillow alone; Pillow told to decode a smaller picture (`draft`);
and simplejpeg told so. The last two shrink in the transform of the JPEG, to at least twice the side of the square,
before the resize. Rounds alternate between the ways, each timed by its thread's CPU time. A ratio to `ours` is the
geometric mean over the rounds, with its 95% interval; the power is how far from 1 a ratio must be to be told from it in
nine of ten runs. The difference is in levels of 0 to 255 between the squares, to that of `ours`. Pictures are
synthetic: octaves of smooth noise, and the noise of a sensor.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from stage1.preprocess import Geometry, PreprocessSettings, framed, preprocess

Square = NDArray[np.uint8]
SENT = {"format": "JPEG", "quality": 75}
FILES: tuple[tuple[str, tuple[int, int], dict[str, Any]], ...] = (
    ("JPEG 224", (224, 224), SENT),
    ("JPEG 1080p", (1920, 1080), SENT),
    ("JPEG 4 Mpx", (2448, 1632), SENT),
    ("JPEG 20 Mpx", (5472, 3648), SENT),
    ("progressive 1080p", (1920, 1080), SENT | {"progressive": True}),
    ("PNG 1080p", (1920, 1080), {"format": "PNG"}),
)
# How much larger than the square a scaled decoding stays.
MARGIN = 2
# A timing lasts about so long, so that the clock and a warm cache weigh little.
LEAST_MS = 20.0
# Of a two-sided test at 5% that finds a difference in nine of ten runs: normal quantiles at 97.5% and 90%.
REACH = 1.96, 1.96 + 1.28


def picture(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 11):
        small = rng.uniform(-1, 1, (2**octave, 2**octave, 3)) * 150 * 0.65**octave
        for channel in range(3):
            plane = Image.fromarray(small[..., channel].astype(np.float32))
            total[..., channel] += np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC))
    total += 128 + 3 * rng.standard_normal(total.shape, np.float32)
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def by_pillow(content: bytes, settings: PreprocessSettings) -> Square:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(framed(image.convert("RGB"), settings.geometry, settings.shape)).transpose(2, 0, 1)


def by_draft(content: bytes, settings: PreprocessSettings) -> Square:
    with Image.open(io.BytesIO(content)) as image:
        image.draft("RGB", (MARGIN * settings.shape[1], MARGIN * settings.shape[0]))
        return np.asarray(framed(image.convert("RGB"), settings.geometry, settings.shape)).transpose(2, 0, 1)


def by_simplejpeg(content: bytes, settings: PreprocessSettings) -> Square:
    height, width = (MARGIN * side for side in settings.shape)
    pixels = simplejpeg.decode_jpeg(content, colorspace="RGB", min_height=height, min_width=width)
    return np.asarray(framed(Image.fromarray(pixels), settings.geometry, settings.shape)).transpose(2, 0, 1)


def cpu_ms(way: Callable[[], Square], times: int) -> float:
    before = time.thread_time()
    for _ in range(times):
        way()
    return 1000 * (time.thread_time() - before) / times


def compare(content: bytes, settings: PreprocessSettings, rounds: int, *, jpeg: bool) -> None:
    ways: dict[str, Callable[[], Square]] = {
        "ours": lambda: preprocess(content, settings),
        "Pillow": lambda: by_pillow(content, settings),
    }
    if jpeg:
        ways["Pillow, draft"] = lambda: by_draft(content, settings)
        ways["simplejpeg, scaled"] = lambda: by_simplejpeg(content, settings)
    squares = {name: way().astype(np.int16) for name, way in ways.items()}
    repeats = max(1, round(LEAST_MS / cpu_ms(ways["ours"], 1)))
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        # Whoever comes second finds a warm cache: each way is first as often as the others.
        order = [*ways][number % len(ways) :] + [*ways][: number % len(ways)]
        for name in order:
            times[name].append(cpu_ms(ways[name], repeats))
    for name, found in times.items():
        logs = [math.log(ms / ours) for ms, ours in zip(found, times["ours"], strict=True)]
        mean, error = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(rounds)
        interval, power = (math.exp(mean + sign * REACH[0] * error) for sign in (-1, 1)), math.expm1(REACH[1] * error)
        low, high = interval
        off = np.abs(squares[name] - squares["ours"])
        ratio = "" if name == "ours" else f"{math.exp(mean):.2f} [{low:.2f}, {high:.2f}] +-{power:.0%}"
        far = "" if name == "ours" else f"{off.mean():.2f} / {np.percentile(off, 99):.0f} / {off.max()}"
        print(f"  {name:<20}{statistics.median(found):>9.2f}{ratio:>30}{far:>20}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="at least 2")
    parser.add_argument("--side", type=int, default=224, help="see size_px of PreprocessSettings")
    parser.add_argument("--geometry", choices=get_args(Geometry), default="squash")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds must be at least 2: an interval needs two rounds")
    rng = np.random.default_rng(0)
    settings = PreprocessSettings(size_px=options.side, geometry=options.geometry)
    height, width = settings.shape
    print(f"{options.geometry} to {width} x {height} px, {options.rounds} rounds")
    print(f"{'':<22}{'CPU ms':>9}{'ratio to ours, power':>30}{'off: mean/99%/max':>20}")
    for title, size, how in FILES:
        content = encoded(picture(*size, rng), how)
        print(f"{title}, {size[0]} x {size[1]}, {len(content) / 1000:.0f} kB")
        compare(content, settings, options.rounds, jpeg=how["format"] == "JPEG")


if __name__ == "__main__":
    main()
