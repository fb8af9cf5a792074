"""Synthetic street scenes, drawn procedurally, with and without roadwork.

They exist so that the whole product can be run, tested and demonstrated on a machine with no data. They are not
photographs and say nothing about accuracy on real streets; every file name and label row carries the word `synthetic`.

A scene is one place seen in one or two frames (the camera drives on between them), and frames of a scene are as
dependent as frames of a drive are, so `group` is the scene.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from offline.data.sources.labels_csv import LABELS_FILE
from offline.data.sources.scene_plan import Scene, plan_scene
from offline.errors import DatasetError

WIDTH, HEIGHT = 320, 240
JPEG_QUALITY = 75
COLUMNS = ("image", "label", "group", "source", "daytime", "weather", "visibility")

SOURCE_NAME = "synthetic"

Colour = tuple[int, int, int]
ORANGE: Colour = (240, 106, 20)
WHITE: Colour = (235, 235, 230)
RED: Colour = (200, 30, 34)
YELLOW: Colour = (236, 178, 24)
CAR_COLOURS: tuple[Colour, ...] = (
    (40, 44, 52),
    (190, 192, 196),
    (148, 26, 30),
    (34, 66, 130),
    (90, 100, 92),
    (226, 112, 36),
    (230, 196, 60),
)


class _Canvas:
    """A street seen from the driver's seat: world positions on the ground, drawn far to near."""

    def __init__(self, rng: np.random.Generator, scale: int) -> None:
        self.rng, self.zoom = rng, scale
        self.width, self.height = scale * WIDTH, scale * HEIGHT
        self.horizon = self.height * rng.uniform(0.36, 0.48)
        self.vanish = self.width * rng.uniform(0.4, 0.6)
        self.image = Image.new("RGB", (self.width, self.height))
        self.draw = ImageDraw.Draw(self.image)

    def ground(self, lateral: float, depth: float) -> tuple[float, float, float]:
        """Pixel `(x, y)` of a point of the ground and the pixels of one metre there."""
        scale = (self.height - self.horizon) / 1.5 / depth
        return self.vanish + lateral * scale, self.horizon + 1.5 * scale, scale

    def box(self, x: float, y: float, width: float, height: float, fill: Colour) -> None:
        """A filled box standing on `(x, y)`, at least one pixel in size."""
        self.draw.rectangle((x - width / 2, y - max(height, 1), x + max(width, 1) / 2, y), fill=fill)

    def jitter(self, colour: Colour, amount: int = 22) -> Colour:
        """The colour under another light."""
        shift = self.rng.integers(-amount, amount + 1) + self.rng.integers(-6, 7, 3)
        red, green, blue = np.clip(np.asarray(colour) + shift, 0, 255)
        return int(red), int(green), int(blue)


def _backdrop(canvas: _Canvas) -> None:
    rng, draw, horizon = canvas.rng, canvas.draw, canvas.horizon
    top, low = canvas.jitter((110, 150, 205), 40), canvas.jitter((190, 205, 220), 30)
    for y in range(int(horizon) + 1):
        t = y / horizon
        draw.line((0, y, canvas.width, y), fill=tuple(int(a + (b - a) * t) for a, b in zip(top, low, strict=True)))
    draw.rectangle((0, horizon, canvas.width, canvas.height), fill=canvas.jitter((112, 118, 96), 25))
    road = [canvas.ground(side * 5.5, depth)[:2] for side, depth in ((-1, 40), (1, 40), (1, 0.8), (-1, 0.8))]
    draw.polygon(road, fill=canvas.jitter((84, 86, 90), 18))
    for side in (-1, 1):
        draw.line(
            (*canvas.ground(side * 5.3, 40)[:2], *canvas.ground(side * 5.3, 0.8)[:2]),
            fill=(200, 200, 196),
            width=2 * canvas.zoom,
        )
    for start in np.arange(1.0, 24.0, 1.6):
        a, b = canvas.ground(-0.08, start), canvas.ground(0.08, start + 0.8)
        draw.polygon([a[:2], (a[0] + 0.16 * a[2], a[1]), b[:2], (b[0] - 0.16 * b[2], b[1])], fill=(214, 214, 206))
    for side in (-1, 1):
        for depth in (9.0, 6.5, 4.5, 3.2, 2.3):
            if rng.random() < 0.75:
                _building(canvas, side * rng.uniform(9, 13), depth)
            if rng.random() < 0.45:
                _tree(canvas, side * rng.uniform(6.5, 8.5), depth * rng.uniform(0.8, 1.0))


def _building(canvas: _Canvas, lateral: float, depth: float) -> None:
    rng = canvas.rng
    x, y, scale = canvas.ground(lateral, depth)
    width, height = rng.uniform(5, 8) * scale, rng.uniform(5, 12) * scale
    canvas.box(x, y, width, height, canvas.jitter((150, 132, 118), 45))
    for row in np.arange(0.15, 0.9, 0.22):
        for column in np.arange(-0.35, 0.4, 0.24):
            canvas.box(
                x + column * width, y - row * height, 0.1 * width, 0.1 * height, canvas.jitter((70, 84, 100), 30)
            )
    if rng.random() < 0.18:
        stripes = 8
        for k in range(stripes):
            colour = RED if k % 2 else WHITE
            canvas.box(
                x + (k / stripes - 0.44) * width,
                y - 0.22 * height,
                width / stripes,
                0.07 * height,
                canvas.jitter(colour),
            )


def _tree(canvas: _Canvas, lateral: float, depth: float) -> None:
    rng = canvas.rng
    x, y, scale = canvas.ground(lateral, depth)
    crown = canvas.jitter((204, 112, 40) if rng.random() < 0.15 else (62, 98, 50), 25)
    canvas.box(x, y, 0.35 * scale, 2.6 * scale, (82, 62, 44))
    radius = rng.uniform(1.2, 1.9) * scale
    canvas.draw.ellipse((x - radius, y - 2.4 * scale - radius, x + radius, y - 2.4 * scale + radius), fill=crown)


def _vehicle(canvas: _Canvas, lateral: float, depth: float, *, van: bool = False) -> None:
    x, y, scale = canvas.ground(lateral, depth)
    colour = canvas.jitter(CAR_COLOURS[canvas.rng.integers(len(CAR_COLOURS))])
    width, height = (2.1, 2.3) if van else (1.8, 0.85)
    canvas.box(x, y, width * scale, height * scale, colour)
    if not van:
        canvas.box(x, y - height * scale, 1.35 * scale, 0.6 * scale, canvas.jitter((60, 70, 82)))
    canvas.box(x, y - 0.72 * height * scale, 1.3 * scale, 0.25 * height * scale, canvas.jitter((58, 68, 80)))
    for side in (-1, 1):
        canvas.box(x + side * 0.6 * scale, y + 0.12 * scale, 0.3 * scale, 0.3 * scale, (22, 22, 24))
        canvas.box(x + side * 0.7 * scale, y - 0.4 * scale, 0.26 * scale, 0.16 * scale, (176, 30, 26))


def _street_furniture(canvas: _Canvas, lateral: float, depth: float) -> None:
    """An ordinary sign or a lamp: not roadwork, some of it red, yellow or orange."""
    x, y, scale = canvas.ground(lateral, depth)
    canvas.box(x, y, 0.1 * scale, 2.6 * scale, (120, 122, 126))
    kind, radius, top = canvas.rng.integers(4), 0.42 * scale, y - 2.6 * scale
    bounds = (x - radius, top - radius, x + radius, top + radius)
    if kind == 0:
        canvas.draw.ellipse(bounds, fill=RED)
        canvas.draw.ellipse((x - 0.6 * radius, top - 0.6 * radius, x + 0.6 * radius, top + 0.6 * radius), fill=WHITE)
    elif kind == 1:
        canvas.draw.rectangle(bounds, fill=canvas.jitter((36, 84, 170)))
    elif kind == 2:
        canvas.draw.polygon([(x, top - radius), (x + radius, top), (x, top + radius), (x - radius, top)], fill=YELLOW)
    else:
        canvas.box(x, top + radius, 3.2 * radius, 1.6 * radius, canvas.jitter((226, 128, 44)))


def _cone(canvas: _Canvas, lateral: float, depth: float) -> None:
    x, y, scale = canvas.ground(lateral, depth)
    colour = canvas.jitter(ORANGE)
    canvas.box(x, y, 0.62 * scale, 0.1 * scale, colour)
    canvas.draw.polygon([(x - 0.26 * scale, y), (x + 0.26 * scale, y), (x, y - 0.95 * scale)], fill=colour)
    canvas.box(x, y - 0.38 * scale, 0.3 * scale, 0.16 * scale, WHITE)


def _barrel(canvas: _Canvas, lateral: float, depth: float) -> None:
    x, y, scale = canvas.ground(lateral, depth)
    canvas.box(x, y, 0.66 * scale, 1.05 * scale, canvas.jitter(ORANGE))
    for height in (0.3, 0.68):
        canvas.box(x, y - height * scale, 0.66 * scale, 0.15 * scale, WHITE)


def _barrier(canvas: _Canvas, lateral: float, depth: float) -> None:
    x, y, scale = canvas.ground(lateral, depth)
    stripes, width = 6, 2.0 * scale
    for side in (-1, 1):
        canvas.box(x + side * 0.42 * width, y, 0.12 * scale, 1.1 * scale, (150, 150, 150))
    for k in range(stripes):
        colour = canvas.jitter(RED) if k % 2 else WHITE
        left = x - width / 2 + k * width / stripes
        for height in (0.6, 1.05):
            top = y - height * scale
            slant = 0.12 * scale
            canvas.draw.polygon(
                [
                    (left + slant, top),
                    (left + width / stripes + slant, top),
                    (left + width / stripes, top + 0.3 * scale),
                    (left, top + 0.3 * scale),
                ],
                fill=colour,
            )


def _warning_sign(canvas: _Canvas, lateral: float, depth: float) -> None:
    x, y, scale = canvas.ground(lateral, depth)
    size, top = 0.75 * scale, y - 1.6 * scale
    canvas.box(x, y, 0.12 * scale, 1.2 * scale, (110, 110, 112))
    diamond = [(x, top - size), (x + size, top), (x, top + size), (x - size, top)]
    canvas.draw.polygon(diamond, fill=canvas.jitter(ORANGE), outline=(20, 20, 20))
    canvas.box(x, top + 0.35 * size, 0.3 * size, 0.7 * size, (20, 20, 20))


def _machine(canvas: _Canvas, lateral: float, depth: float) -> None:
    x, y, scale = canvas.ground(lateral, depth)
    colour = canvas.jitter(YELLOW)
    canvas.box(x, y, 3.0 * scale, 0.6 * scale, (44, 44, 46))
    canvas.box(x, y - 0.6 * scale, 2.4 * scale, 1.0 * scale, colour)
    canvas.box(x - 0.5 * scale, y - 1.6 * scale, 1.1 * scale, 1.0 * scale, canvas.jitter((70, 80, 88)))
    elbow, tip = (x + 2.0 * scale, y - 3.4 * scale), (x + 3.0 * scale, y - 0.9 * scale)
    canvas.draw.line((x + 0.8 * scale, y - 1.4 * scale, *elbow), fill=colour, width=max(2, int(0.32 * scale)))
    canvas.draw.line((*elbow, *tip), fill=colour, width=max(2, int(0.26 * scale)))
    canvas.box(tip[0], tip[1] + 0.4 * scale, 0.8 * scale, 0.6 * scale, (60, 58, 52))


ROADWORK: tuple[Callable[[_Canvas, float, float], None], ...] = (_cone, _barrel, _barrier, _warning_sign, _machine)


def _roadwork(scene: Scene, canvas: _Canvas, zoom: float) -> list[tuple[float, Callable[[], None]]]:
    """A work zone: one or two kinds of object in a row, and what hides it."""
    rng, side = canvas.rng, canvas.rng.choice((-1, 1))
    kinds = rng.choice(len(ROADWORK), size=2, p=(0.34, 0.2, 0.2, 0.14, 0.12))
    count = int(rng.integers(3, 7))
    items: list[tuple[float, Callable[[], None]]] = []
    for k in range(count):
        draw = ROADWORK[kinds[0] if k % 3 else kinds[1]]
        depth = scene.depth / zoom * (1 + 0.22 * k)
        lateral = side * (rng.uniform(1.6, 3.4) + 0.25 * k)
        items.append((depth, lambda draw=draw, lateral=lateral, depth=depth: draw(canvas, lateral, depth)))  # type: ignore[misc]
    if scene.hidden > 0:
        blocker = scene.depth / zoom * 0.82
        offset = side * (2.4 + (1 - scene.hidden) * 1.8)
        items.append((blocker, lambda: _vehicle(canvas, offset, blocker, van=True)))
    return items


def _weathered(scene: Scene, image: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels, zoom = np.asarray(image, dtype=np.float64), scene.scale
    if scene.daytime == "night":
        yy, xx = np.mgrid[0 : image.height, 0 : image.width] / zoom
        beam = np.exp(-(((xx - WIDTH / 2) / 130) ** 2) - ((yy - HEIGHT * 0.8) / 80) ** 2)[..., None]
        pixels = pixels * (0.30 + 0.5 * beam) * np.asarray((0.95, 0.97, 1.1))
    if scene.weather == "rain":
        pixels = 0.72 * pixels + 0.28 * pixels.mean()
    pixels = pixels * rng.uniform(0.85, 1.12) + rng.normal(0, rng.uniform(2, 7), pixels.shape)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if scene.weather == "rain":
        draw = ImageDraw.Draw(image)
        for _ in range(60):
            x, y, length = zoom * rng.uniform(0, WIDTH), zoom * rng.uniform(0, HEIGHT), zoom * rng.uniform(4, 11)
            draw.line((x, y, x - 0.25 * length, y + length), fill=(170, 178, 186), width=zoom)
        image = image.filter(ImageFilter.GaussianBlur(0.6 * zoom))
    return image


def draw_frame(scene: Scene, frame: int) -> Image.Image:
    """Draw one frame; the same scene and frame always give the same pixels.

    Args:
        scene: what to draw.
        frame: 0 .. `scene.frames - 1`; the camera is a little nearer in each later frame.
    """
    canvas = _Canvas(np.random.default_rng((*scene.seed, 1)), scene.scale)
    zoom = 1.0 + 0.15 * frame
    _backdrop(canvas)
    rng = canvas.rng
    items: list[tuple[float, Callable[[], None]]] = []
    for _ in range(int(rng.integers(0, 5))):
        lateral, depth = float(rng.choice((-3.9, -1.9, 1.9, 3.9))), float(rng.uniform(2.2, 9)) / zoom
        items.append((depth, lambda lateral=lateral, depth=depth: _vehicle(canvas, lateral, depth)))  # type: ignore[misc]
    for _ in range(int(rng.integers(1, 4))):
        lateral, depth = float(rng.choice((-1, 1)) * rng.uniform(5.8, 7.0)), float(rng.uniform(1.8, 7)) / zoom
        items.append((depth, lambda lateral=lateral, depth=depth: _street_furniture(canvas, lateral, depth)))  # type: ignore[misc]
    if scene.label:
        items += _roadwork(scene, canvas, zoom)
    for _, draw in sorted(items, key=lambda item: -item[0]):
        draw()
    return _weathered(scene, canvas.image, np.random.default_rng((*scene.seed, 2, frame)))


def _draw_scene(task: tuple[Scene, Path]) -> list[tuple[str, ...]]:
    scene, images = task
    rows: list[tuple[str, ...]] = []
    for frame in range(scene.frames):
        buffer = io.BytesIO()
        draw_frame(scene, frame).save(buffer, format="JPEG", quality=JPEG_QUALITY)
        name = f"{scene.name}_{frame}.jpg"
        (images / name).write_bytes(buffer.getvalue())
        row = (f"images/{name}", str(scene.label), scene.name, SOURCE_NAME)
        rows.append((*row, scene.daytime, scene.weather, f"{scene.visibility:.3f}"))
    return rows


def _refuse_to_overwrite(labels: Path) -> None:
    if not labels.exists():
        return
    try:
        with labels.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.reader(handle))
    except (UnicodeDecodeError, csv.Error):
        rows = []
    if rows[:1] != [list(COLUMNS)] or any(row[COLUMNS.index("source") :][:1] != [SOURCE_NAME] for row in rows[1:]):
        raise DatasetError(
            f"{labels}: is there already and lists other pictures than synthetic scenes; name another directory"
        )


def write_scenes(
    directory: Path, *, scenes: int, seed: int = 0, difficulty: float = 0.25, scale: int = 1
) -> Iterator[int]:
    """Draw a labelled set into `directory` (`images/` and `labels.csv`), in parallel.

    `labels.csv` is written last, so a directory that has one is complete.

    Args:
        directory: created if it is not there.
        scenes: number of scenes; about 1.25 frames each.
        seed: seed of the set.
        difficulty: see `plan_scene`.
        scale: see `Scene`.

    Yields:
        The number of scenes drawn so far.

    Raises:
        DatasetError: there is a labels file with other rows than synthetic ones.
    """
    _refuse_to_overwrite(directory / LABELS_FILE)
    images = directory / "images"
    images.mkdir(parents=True, exist_ok=True)
    tasks = [(plan_scene(index, seed=seed, difficulty=difficulty, scale=scale), images) for index in range(scenes)]
    rows: list[tuple[str, ...]] = []
    workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done, drawn in enumerate(pool.map(_draw_scene, tasks, chunksize=16), start=1):
            rows += drawn
            yield done
    partial = directory / f".{LABELS_FILE}.partial"
    with partial.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    partial.replace(directory / LABELS_FILE)
