"""Painting of pictures with numpy and OpenCV: shapes, words, noise.

Pictures are in display colours (sRGB, 0..1) with the first row on top; `to_texture` makes albedo of them.
"""

import math

import cv2
import numpy as np
from jaxtyping import Float, UInt8

Picture = Float[np.ndarray, "H W 3"]
Colour = tuple[float, float, float]

GAMMA = 2.2  # Of the display.
FONT = cv2.FONT_HERSHEY_DUPLEX


def to_texture(picture: Picture) -> Picture:
    """Convert a picture to albedo (linear, first row at the bottom)."""
    return np.ascontiguousarray(picture[::-1].clip(0.02, 1.0) ** GAMMA, dtype=np.float32)


def to_display(colour: Picture) -> UInt8[np.ndarray, "H W 3"]:
    """Convert linear colours to 8-bit display colours."""
    return (255.0 * colour.clip(0.0, 1.0) ** (1.0 / GAMMA)).round().astype(np.uint8)


def band_noise(
    rng: np.random.Generator, shape: tuple[int, int], low: float, high: float, stretch: float = 1.0
) -> Float[np.ndarray, "H W"]:
    """Periodic noise of unit variance with `low` to `high` waves per tile, amplitude falling as 1 / frequency.

    Args:
        rng: random generator.
        shape: height, width.
        low: least number of waves.
        high: largest number of waves.
        stretch: ratio of the lengths of waves downwards and sideways.
    """
    down, right = np.fft.fftfreq(shape[0], 1.0 / shape[0]), np.fft.rfftfreq(shape[1], 1.0 / shape[1])
    radius = np.hypot(stretch * down[:, None], right[None])
    gain = np.where((radius >= low) & (radius < high), 1.0 / np.maximum(radius, 1.0), 0.0)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * gain, s=shape)
    return noise / max(noise.std(), 1e-9)  # no wave of the band fits into a very small picture


def weather(rng: np.random.Generator, picture: Picture, strength: float = 1.0) -> Picture:
    """Add stains and grain, so that no surface is without detail."""
    shape = picture.shape[:2]
    return picture * (1.0 + 0.06 * strength * band_noise(rng, shape, 3.0, 60.0)[..., None])


def grid_of(shape: tuple[int, int]) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Position of every pixel in its picture (down, right), 0..1."""
    down, right = ((np.arange(size) + 0.5) / size for size in shape)
    return np.broadcast_to(down[:, None], shape), np.broadcast_to(right[None], shape)


def plain(shape: tuple[int, int], colour: Colour) -> Picture:
    """A picture of one colour."""
    return np.full((*shape, 3), colour, np.float32)


def rectangle(picture: Picture, top: float, left: float, bottom: float, right: float, colour: Colour) -> None:
    """Fill a rectangle; positions are fractions of the picture's sides."""
    height, width = picture.shape[:2]
    picture[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = colour


def disc(picture: Picture, down: float, right: float, radius: float, colour: Colour, squash: float = 1.0) -> None:
    """Fill a disc; the radius is a fraction of the height, and `squash` the ratio of its height and width."""
    height, width = picture.shape[:2]
    high, wide = (math.ceil(radius * height * factor) + 1 for factor in (squash, 1.0))
    row, column = round(down * height), round(right * width)
    rows, columns = slice(max(0, row - high), row + high + 1), slice(max(0, column - wide), column + wide + 1)
    y, x = np.arange(height)[rows, None] + 0.5 - down * height, np.arange(width)[columns] + 0.5 - right * width
    inside = radius * height - np.hypot(y / squash, x)
    coverage = (inside + 0.5).clip(0.0, 1.0)[..., None]  # smooth over a pixel
    picture[rows, columns] += coverage * (np.array(colour) - picture[rows, columns])


def text(picture: Picture, words: str, down: float, right: float, size: float, colour: Colour) -> None:
    """Write words around a position; the size is that of capitals, a fraction of the picture's height."""
    height, width = picture.shape[:2]
    (_, base_height), _ = cv2.getTextSize(words, FONT, 1.0, 1)
    scale = size * height / base_height
    thickness = max(1, round(0.16 * size * height))
    (text_width, text_height), _ = cv2.getTextSize(words, FONT, scale, thickness)
    corner = round(right * width - text_width / 2), round(down * height + text_height / 2)
    ink = np.zeros((height, width), np.uint8)  # cv2 writes smooth letters into 8-bit pictures only
    cv2.putText(ink, words, corner, FONT, scale, 255, thickness, cv2.LINE_AA)
    coverage = (ink / 255.0)[..., None]
    picture[:] = picture + coverage * (np.array(colour) - picture)
