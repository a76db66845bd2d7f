"""Input sizes of the networks and of optical flow, derived from the size of the frames."""

import cv2
import numpy as np
from jaxtyping import UInt8

from nsff.io import Image

Limits = tuple[int | None, int | None]  # largest width and height that the user gave; None = no limit
NO_LIMITS: Limits = (None, None)


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
