"""Draws the pictures that the demonstration uploads, so that none has to be shipped."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw

SIZE = (2400, 1600)


def fractal() -> Image.Image:
    """The Mandelbrot set, tinted."""
    gray = Image.effect_mandelbrot(SIZE, (-2.2, -1.2, 1.0, 1.2), 60)
    return Image.merge("RGB", (gray, ImageChops.invert(gray), gray.point(lambda value: value // 2)))


def landscape() -> Image.Image:
    """Hills under a sun."""
    width, height = SIZE
    sky = Image.linear_gradient("L").resize(SIZE)
    image = Image.merge("RGB", (sky, sky.point(lambda value: 90 + value // 2), Image.new("L", SIZE, 230)))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width * 0.7, height * 0.12, width * 0.7 + 260, height * 0.12 + 260), fill="gold")
    for hill, colour in enumerate(("#6b8e7a", "#47705c", "#24503d")):
        ridge = height * (0.55 + 0.14 * hill)
        outline = [(x, ridge + 90 * math.sin(x / (210 + 90 * hill) + hill)) for x in range(0, width + 20, 20)]
        draw.polygon([(0, height), *outline, (width, height)], fill=colour)
    return image


def rings() -> Image.Image:
    """Circles in circles."""
    image = Image.new("RGB", SIZE, "#102030")
    draw = ImageDraw.Draw(image)
    centre_x, centre_y = SIZE[0] // 2, SIZE[1] // 2
    for ring in range(40, 0, -1):
        radius = ring * 24
        colour = (ring * 6, 255 - ring * 5, 120 + ring * 3)
        draw.ellipse((centre_x - radius, centre_y - radius, centre_x + radius, centre_y + radius), fill=colour)
    return image


def grain() -> Image.Image:
    """Film grain over a gradient."""
    noise = Image.effect_noise(SIZE, 60)
    glow = Image.radial_gradient("L").resize(SIZE)
    return Image.merge("RGB", (ImageChops.add(noise, glow, scale=2), glow, ImageChops.invert(noise)))


def draw_all(folder: Path) -> list[Path]:
    """Draws what is not there yet; returns all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for draw, suffix in ((fractal, "png"), (landscape, "jpg"), (rings, "png"), (grain, "jpg")):
        path = folder / f"{draw.__name__}.{suffix}"
        if not path.exists():
            draw().save(path, quality=92)
        paths.append(path)
    return paths
