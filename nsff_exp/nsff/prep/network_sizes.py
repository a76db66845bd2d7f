"""Sizes of the frames that networks, optical flow and geometry are computed on, derived from the given ones."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from nsff.io import Image, Mask

Limits = tuple[int | None, int | None]  # largest width and height that the user gave; None = no limit
NO_LIMITS: Limits = (None, None)
WORKING_LONG_SIDE = 480  # Below it, thresholds in pixels miss what moves: at 128 pixels, motion masks come out empty.
MOVING_FRACTION = 0.5  # Of the area of a pixel that a mask must cover to cover the pixel of a smaller image.


def long_side_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Size (width, height) with a longer side of `long_side` pixels and the aspect ratio of the frame.

    Note:
        As published, smaller frames are enlarged.
    """
    longer = max(width, height)
    return max(1, round(width * long_side / longer)), max(1, round(height * long_side / longer))


def network_size(width: int, height: int, limits: Limits, long_side: int) -> tuple[int, int]:
    """Largest size (width, height) within the user's limits; `long_side_size` if there are no limits."""
    if limits == NO_LIMITS:
        return long_side_size(width, height, long_side)
    sides = zip((width, height), limits, strict=True)
    scale = min(limit / side for side, limit in sides if limit is not None)
    return max(1, round(scale * width)), max(1, round(scale * height))


def resize_image(image: Image, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Resize an image to (width, height): area average where it shrinks, bilinear where it grows."""
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def working_size(source: tuple[int, int], training: tuple[int, int]) -> tuple[int, int]:
    """Size (width, height) at which static and moving pixels are told apart.

    The training size where its longer side has `WORKING_LONG_SIDE` pixels, else the source shrunk to that, so that the
    result does not depend on a small training size.

    Args:
        source: size of the source frames; a smaller one is not enlarged, except to the training size.
        training: training size.
    """
    if max(training) >= min(WORKING_LONG_SIDE, max(source)):
        return training
    return long_side_size(*source, min(WORKING_LONG_SIDE, max(source)))


def shrink_mask(mask: Mask, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Resize a mask to a (width, height) at most as large; a pixel is in it if half of its area is."""
    if mask.shape == size[::-1]:
        return mask
    return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= MOVING_FRACTION


def shrink_disparity(
    disparity: Float[np.ndarray, "H W"], moving: Mask, size: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """Average the inverse depth over each pixel of a (width, height) at most as large.

    A pixel that `shrink_mask` counts as moving takes the mean of its moving part, and a static one that of its static
    part, so that the two do not mix along the edges of what moves.
    """
    if disparity.shape == size[::-1]:
        return disparity

    def area_mean(values: np.ndarray) -> Float[np.ndarray, "h w"]:
        return cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)

    in_majority = shrink_mask(moving, size)
    fraction = area_mean(moving)
    of_moving, of_static = area_mean(disparity * moving), area_mean(disparity * ~moving)
    return np.where(in_majority, of_moving, of_static) / np.where(in_majority, fraction, 1.0 - fraction)
