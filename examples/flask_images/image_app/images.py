"""What can be done to a picture. Plain Pillow: nothing here knows of tasks or of Flask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image, ImageDraw, ImageFilter, ImageFont

Operation = dict[str, Any]


def resize(image: Image.Image, *, width: int) -> Image.Image:
    """Scales to `width` pixels, keeping the proportions."""
    height = max(1, round(image.height * width / image.width))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def grayscale(image: Image.Image) -> Image.Image:
    """Takes the colour out."""
    return image.convert("L").convert("RGB")


def blur(image: Image.Image, *, radius: float = 4) -> Image.Image:
    """Softens with a Gaussian of `radius` pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def rotate(image: Image.Image, *, degrees: float) -> Image.Image:
    """Turns counter-clockwise; the canvas grows so that nothing is cut off."""
    return image.rotate(degrees, resample=Image.Resampling.BICUBIC, expand=True, fillcolor="white")


def watermark(image: Image.Image, *, text: str) -> Image.Image:
    """Writes `text` half-transparent into the lower right corner."""
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    font = ImageFont.load_default(size=max(12, image.height // 18))
    draw = ImageDraw.Draw(layer)
    margin = image.height // 30
    corner = (image.width - margin, image.height - margin)
    draw.text(
        corner,
        text,
        font=font,
        anchor="rd",
        fill=(255, 255, 255, 170),
        stroke_width=2,
        stroke_fill=(0, 0, 0, 120),
    )
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


OPERATIONS: dict[str, Callable[..., Image.Image]] = {
    "resize": resize,
    "grayscale": grayscale,
    "blur": blur,
    "rotate": rotate,
    "watermark": watermark,
}


def check(operations: object) -> list[Operation]:
    """Returns the operations when every one is known, else raises `ValueError` in words for the caller."""
    if not isinstance(operations, list) or not operations:
        message = 'operations must be a list such as [{"name": "blur", "radius": 4}]'
        raise ValueError(message)
    for operation in operations:
        if not isinstance(operation, dict) or operation.get("name") not in OPERATIONS:
            message = f"unknown operation {operation!r}; known: {', '.join(OPERATIONS)}"
            raise ValueError(message)
    return operations


def apply(image: Image.Image, operation: Operation) -> Image.Image:
    """Carries out one operation."""
    arguments = {key: value for key, value in operation.items() if key != "name"}
    return OPERATIONS[operation["name"]](image, **arguments)
