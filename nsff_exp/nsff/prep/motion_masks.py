"""Motion masks: pixels whose flow contradicts the epipolar geometry of a static point."""

import re

import cv2
import numpy as np
from jaxtyping import Float

from nsff.errors import UsageError
from nsff.io import Flow, Mask

EPSILON = 1e-8  # Keeps the distance finite at the epipole; as published.
OPENING_RADIUS, DILATION_RADIUS = 1, 2  # Pixels at the working size; published: at training size.
MIN_CONFIRMED_FRACTION = 0.4  # Of the area of a region; below it `confirmed_regions` drops the region.
MIN_REGION_FRACTION = 0.001  # Of the frame; smaller regions are dropped.
MIN_MOVING_FRACTION, MAX_MOVING_FRACTION = 0.005, 0.6  # Of a frame; warn about masks outside of this range.


def disk(radius: int) -> np.ndarray:
    """All pixels within a distance, as a structuring element; OpenCV's ellipse of 5 x 5 is not a disk."""
    across = np.arange(-radius, radius + 1)
    return (across[:, None] ** 2 + across[None] ** 2 <= radius**2).astype(np.uint8)


def fundamental(
    first: Float[np.ndarray, "3 4"], second: Float[np.ndarray, "3 4"], intrinsics: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "3 3"]:
    """Fundamental matrix F, with x2^T F x1 = 0 for a static point (Hartley and Zisserman, equation 9.2).

    Args:
        first: w2c of the first camera, axes right, down, forward.
        second: w2c of the second camera.
        intrinsics: intrinsics of both, in pixels.
    """
    rotation = second[:, :3] @ first[:, :3].T
    x, y, z = second[:, 3] - rotation @ first[:, 3]
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    inverse = np.linalg.inv(intrinsics)
    return inverse.T @ cross @ rotation @ inverse


def epipolar_distance(flow: Flow, matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "H W"]:
    """Distance, in pixels, between the target of the flow and the epipolar line of its source pixel."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    a, b, c = np.moveaxis(np.stack([x, y, np.ones_like(x)], axis=-1) @ matrix.T, -1, 0)
    return np.abs(a * (x + flow[..., 0]) + b * (y + flow[..., 1]) + c) / (np.hypot(a, b) + EPSILON)


def epipolar_mask(distances: list[Float[np.ndarray, "H W"]], consistency: list[Mask], threshold: float) -> Mask:
    """Mask the pixels whose largest distance among consistent flows exceeds the threshold; opening drops specks."""
    largest = np.max([distance * mask for distance, mask in zip(distances, consistency, strict=True)], axis=0)
    return cv2.morphologyEx((largest > threshold).astype(np.uint8), cv2.MORPH_OPEN, disk(OPENING_RADIUS)) > 0


def motion_mask(epipolar: Mask, semantic: Mask | None = None) -> Mask:
    """Unite the epipolar mask with a mask of movable things of the same size, and dilate by a disk of radius 2."""
    moving = epipolar if semantic is None else epipolar | semantic
    return cv2.dilate(moving.astype(np.uint8), disk(DILATION_RADIUS)) > 0


def confirmed_regions(unexplained: Mask, epipolar: Mask) -> Mask:
    """Keep the regions that multi-view depth cannot explain and whose flow contradicts the epipolar geometry too.

    Regions are kept whole or dropped: motion along the epipolar lines confirms only part of a region, while errors of
    the two masks rarely coincide.

    Args:
        unexplained: pixels that depth from neighbours found to move.
        epipolar: `motion_mask` of the epipolar distances.
    """
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(unexplained.astype(np.uint8), connectivity=4)
    areas = statistics[:, cv2.CC_STAT_AREA]
    n_confirmed = np.bincount(labels.ravel(), epipolar.ravel().astype(float), count)
    confirmed = (n_confirmed >= MIN_CONFIRMED_FRACTION * areas) & (areas >= MIN_REGION_FRACTION * unexplained.size)
    confirmed[0] = False  # the background
    return confirmed[labels]


def parse_threshold(text: str, width: int) -> float:
    """Parse a threshold in pixels (`1.0`) or as a fraction of the image width (`0.002w`) into pixels.

    Raises:
        UsageError: the text is neither.
    """
    match = re.fullmatch(r"(\d*\.?\d+(?:e-?\d+)?)(w?)", text.strip())
    if not match or float(match[1]) <= 0.0:
        raise UsageError(f"--epi_threshold {text} is neither pixels (1.0) nor a fraction of the width (0.002w)")
    return float(match[1]) * (width if match[2] else 1.0)
