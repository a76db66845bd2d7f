"""Motion masks as tools write them: labels, 0/1, palettes, colours, 1 to 16 bits, alpha, frames of a video.

What is moving is decided from all files of a folder together:

* Where some pixels are transparent and others opaque, alpha is the mask. Else the largest channel is.
* Every level but black moves. Levels of a mask are flat regions or, at edges, a ramp.
* Black of a video is 16, not 0, and compression adds noise to it. Levels near the darkest one that are scattered like
  noise are static then, and what moves begins halfway to the darkest flat region above.
"""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
from jaxtyping import Int, UInt8

from nsff.errors import InputError
from nsff.io import Mask, read_or_raise

log = logging.getLogger("nsff")

RULES = "1"  # Of the rules above; files made with other ones are outdated.
NOISE = 24  # Grey levels above the darkest one that may be noise.
MIN_NOISY_FRACTION = 1e-3  # Of all pixels; fewer scattered ones are taken as they are, as published.
MIN_SCATTERED = 0.03  # Of the dark pixels that are not black; with fewer they are labels or soft edges.
MAX_FLAT_STEP = 4  # Grey levels within 3x3 pixels of a flat region.
DARKEST_PERCENTILE = 1.0  # Of the flat pixels above the noise: level of the darkest region that moves.
MIN_VIDEO_BLACK, MAX_BLACK = 8, 127  # Range of the darkest level of a folder that counts as black, if it is not 0.
MIN_OPAQUE = 128  # Alpha from which a pixel may count as opaque.
COVERS_MOST, COVERS_ALL = 0.6, 0.9  # Fractions of the pixels from which masks are doubted, and can be of no use.

Levels = UInt8[np.ndarray, "H W"]


@dataclasses.dataclass(frozen=True)
class LevelCounts:
    """Numbers of pixels of each grey level in some files.

    Attributes:
        all: pixels per level.
        scattered: those above or below both neighbours in a row or a column; on ramps and in flat regions none is.
        flat: those in flat regions.
        dim_file: a file holds nothing but dark grey: an empty frame of a video.
    """

    all: Int[np.ndarray, "256"]
    scattered: Int[np.ndarray, "256"]
    flat: Int[np.ndarray, "256"]
    dim_file: bool

    @staticmethod
    def of(levels: Levels) -> "LevelCounts":
        """Count the levels of a file."""
        padded = np.pad(levels, 1, mode="edge")
        scattered = _is_extreme(levels, padded[1:-1, :-2], padded[1:-1, 2:])
        scattered |= _is_extreme(levels, padded[:-2, 1:-1], padded[2:, 1:-1])
        square = np.ones((3, 3), np.uint8)
        flat = cv2.dilate(levels, square) - cv2.erode(levels, square) <= MAX_FLAT_STEP
        count = functools.partial(np.bincount, minlength=256)
        is_dim = bool(levels.min() >= MIN_VIDEO_BLACK and levels.max() <= NOISE)
        return LevelCounts(count(levels.ravel()), count(levels[scattered]), count(levels[flat]), is_dim)

    def __add__(self, other: "LevelCounts") -> "LevelCounts":
        return LevelCounts(
            self.all + other.all,
            self.scattered + other.scattered,
            self.flat + other.flat,
            self.dim_file or other.dim_file,
        )


def _is_extreme(levels: Levels, before: Levels, after: Levels) -> Mask:
    """Mask the pixels above or below both of their neighbours."""
    return ((levels > before) & (levels > after)) | ((levels < before) & (levels < after))


@dataclasses.dataclass(frozen=True)
class MaskRule:
    """Rule of what counts as moving in a folder of masks.

    Attributes:
        alpha: the mask is the alpha channel, in files that have one.
        threshold: grey level from which a pixel moves; 256 if none does.
        coverage: fraction of the pixels of all files that move.
    """

    alpha: bool
    threshold: int
    coverage: float


class MaskFolder:
    """Reads the masks of a folder by one rule, which is found from all of them when the first one is read.

    Masks of motion that cover most of the frames are warned about: the usual sign of exchanged black and white.

    Args:
        paths: all masks of the folder.
        of_motion: white means moving; False for masks of other things, which may cover any part of a frame.
    """

    def __init__(self, paths: Sequence[Path], of_motion: bool = True):
        self.paths, self.of_motion = paths, of_motion

    @functools.cached_property
    def rule(self) -> MaskRule:
        """The rule of the folder.

        Raises:
            InputError: a file cannot be read.
        """
        counts = {"grey": [], "alpha": []}  # type: dict[str, list[LevelCounts]]
        for path in self.paths:
            grey, alpha = _read_levels(path)
            counts["grey"].append(LevelCounts.of(grey))
            if alpha is not None:
                counts["alpha"].append(LevelCounts.of(alpha))
        if counts["alpha"]:
            of_alpha = functools.reduce(LevelCounts.__add__, counts["alpha"])
            if of_alpha.all[0] and of_alpha.all[MIN_OPAQUE:].any():
                return self._rule(of_alpha, alpha=True)
        return self._rule(functools.reduce(LevelCounts.__add__, counts["grey"]), alpha=False)

    def _rule(self, counts: LevelCounts, alpha: bool) -> MaskRule:
        threshold = threshold_of(counts)
        rule = MaskRule(alpha, threshold, float(counts.all[threshold:].sum() / counts.all.sum()))
        if self.of_motion and rule.coverage >= COVERS_MOST:
            log.warning("%s: are black and white exchanged?", coverage_text(rule, self.paths[0]))
        return rule

    def read(self, path: Path) -> Mask:
        """Mask the moving pixels of a file, at its own size.

        Raises:
            InputError: the file cannot be read, or nothing is left of what is bright in it.
        """
        grey, alpha = _read_levels(path)
        levels = alpha if self.rule.alpha and alpha is not None else grey
        moving = levels >= self.rule.threshold
        if self.rule.threshold <= 255 and not moving.any() and levels.max() > max(2 * NOISE, levels.min() + NOISE):
            raise InputError(
                f"{path}: grey levels up to {levels.max()} are taken as noise, because other masks of the folder are "
                f"brighter (what moves begins at {self.rule.threshold}); paint static things black and moving ones "
                "white in all masks"
            )
        return moving


def threshold_of(counts: LevelCounts) -> int:
    """Grey level from which pixels move, of all files of a folder; 256 if none does."""
    (present,) = np.nonzero(counts.all)
    darkest, brightest, n_pixels = int(present[0]), int(present[-1]), counts.all.sum()
    dark = slice(darkest + 1, darkest + NOISE + 1)
    between = slice(dark.stop, max(dark.stop, (darkest + brightest) // 2))
    n_dark, n_ramp = counts.all[dark].sum(), (counts.all - counts.flat)[between].sum()
    noisy = n_dark > max(MIN_NOISY_FRACTION * n_pixels, n_ramp) and (
        counts.scattered[dark].sum() > MIN_SCATTERED * n_dark
    )
    video_black = (counts.dim_file and brightest > 2 * NOISE) or MIN_VIDEO_BLACK <= darkest <= MAX_BLACK
    if not noisy and not video_black:
        return 1
    black = darkest + int(counts.all[darkest : dark.stop].argmax())
    bright_flat = counts.flat[dark.stop :]
    if not bright_flat.any():
        bright_flat = counts.all[dark.stop :]
    if not bright_flat.any():
        return 256 if darkest < NOISE else 1
    share = np.cumsum(bright_flat) / bright_flat.sum()
    level = dark.stop + int(np.searchsorted(share, DARKEST_PERCENTILE / 100.0))
    return (black + level + 1) // 2


def coverage_text(rule: MaskRule, path: Path) -> str:
    """Tell how much the masks beside `path` cover, and what that means."""
    return f"the masks in {path.parent} cover {rule.coverage:.0%} of the frames; white means moving"


def _read_levels(path: Path) -> tuple[Levels, Levels | None]:
    """Grey levels (the largest channel, 0 only where all are) and alpha, if the file has it."""

    def read() -> tuple[Levels, Levels | None]:
        with PIL.Image.open(path) as image:
            if image.mode in ("RGB", "RGBA") and image.tile and "16" in str(image.tile[0][3]):
                content = np.fromfile(path, np.uint8)  # Pillow drops half of the bits
                return _split(_to_bytes(cv2.imdecode(content, cv2.IMREAD_UNCHANGED)))
            if image.has_transparency_data:
                return _split(np.asarray(image.convert("RGBA")))
            if image.mode == "P":
                colours, labels = np.asarray(image.convert("RGB")), np.asarray(image)
                return _split(colours if colours.any() else labels)
            if image.mode in ("1", "CMYK", "YCbCr", "LAB", "HSV"):
                return _split(np.asarray(image.convert("L" if image.mode == "1" else "RGB")))
            return _split(_to_bytes(np.asarray(image)))

    return read_or_raise(path, read)


def _split(pixels: UInt8[np.ndarray, "H W *c"]) -> tuple[Levels, Levels | None]:
    if pixels.ndim == 2:
        return pixels, None
    return pixels[..., :3].max(axis=-1), pixels[..., 3] if pixels.shape[2] == 4 else None


def _to_bytes(pixels: Any) -> UInt8[np.ndarray, "H W *c"]:
    """Scale to 8 bits such that nothing but 0 becomes 0."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == "f":
        pixels = np.nan_to_num(pixels)
        return np.ceil(np.clip(pixels * (255.0 if pixels.max() <= 1.0 else 1.0), 0.0, 255.0)).astype(np.uint8)
    return np.clip((pixels.astype(np.int64) + 256) // 257, 0, 255).astype(np.uint8)
