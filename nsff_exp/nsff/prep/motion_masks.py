"""Motion masks: what does not move as the epipolar geometry of two cameras asks of a point that stands still."""

import re

import cv2
import numpy as np
from jaxtyping import Float

from nsff.errors import UsageError
from nsff.io import Flow, Mask

TINY = 1e-8  # keeps the distance finite at the epipole; as published
OPEN_RADIUS, GROW_RADIUS = 1, 2  # pixels of the training size, as published
CONFIRMED_SHARE, LEAST_PART = 0.4, 0.001  # of a part, of the frame
LEAST_SHARE, MOST_SHARE = 0.005, 0.6  # of a frame: a mask outside of this is worth a warning


def disk(radius: int) -> np.ndarray:
    """All pixels within a distance; OpenCV's ellipse of 5 x 5 is not one."""
    across = np.arange(-radius, radius + 1)
    return (across[:, None] ** 2 + across[None] ** 2 <= radius**2).astype(np.uint8)


def fundamental(
    first: Float[np.ndarray, "3 4"], second: Float[np.ndarray, "3 4"], intrinsics: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "3 3"]:
    """F with x2^T F x1 = 0 for a point that stands still (Hartley and Zisserman, equation 9.2).

    Args:
        first: w2c of the first camera, axes right, down, forward.
        second: w2c of the second.
        intrinsics: of both, in pixels.
    """
    rotation = second[:, :3] @ first[:, :3].T
    x, y, z = second[:, 3] - rotation @ first[:, 3]
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    inverse = np.linalg.inv(intrinsics)
    return inverse.T @ cross @ rotation @ inverse


def epipolar_distance(flow: Flow, matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "H W"]:
    """Distance in pixels of where the flow arrives from the epipolar line of where it starts."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    a, b, c = np.moveaxis(np.stack([x, y, np.ones_like(x)], axis=-1) @ matrix.T, -1, 0)
    return np.abs(a * (x + flow[..., 0]) + b * (y + flow[..., 1]) + c) / (np.hypot(a, b) + TINY)


def epipolar_mask(distances: list[Float[np.ndarray, "H W"]], consistency: list[Mask], threshold: float) -> Mask:
    """Where the larger distance, of the consistent ones, is above the threshold; specks are dropped."""
    largest = np.max([distance * mask for distance, mask in zip(distances, consistency, strict=True)], axis=0)
    return cv2.morphologyEx((largest > threshold).astype(np.uint8), cv2.MORPH_OPEN, disk(OPEN_RADIUS)) > 0


def motion_mask(epipolar: Mask, semantic: Mask | None = None) -> Mask:
    """Unite both masks and grow the union by a disk of radius 2. `semantic`: movable things, at the same size."""
    moving = epipolar if semantic is None else epipolar | semantic
    return cv2.dilate(moving.astype(np.uint8), disk(GROW_RADIUS)) > 0


def common_mask(unexplained: Mask, epipolar: Mask) -> Mask:
    """The parts of the one (no still point is there) that the other confirms (no still point moves so).

    Where something moves along the epipolar lines, only part of it is confirmed; where a mask errs, it errs alone.

    Args:
        unexplained: what depth from neighbours found to move.
        epipolar: `motion_mask` of the epipolar distances.
    """
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(unexplained.astype(np.uint8), connectivity=4)
    areas = statistics[:, cv2.CC_STAT_AREA]
    confirmed = np.bincount(labels.ravel(), epipolar.ravel().astype(float), count)
    kept = (confirmed >= CONFIRMED_SHARE * areas) & (areas >= LEAST_PART * unexplained.size)
    kept[0] = False  # the background
    return kept[labels]


def parse_threshold(text: str, width: int) -> float:
    """Pixels (`1.0`), or a share of the width (`0.002w`).

    Raises:
        UsageError: neither.
    """
    match = re.fullmatch(r"(\d*\.?\d+(?:e-?\d+)?)(w?)", text.strip())
    if not match or float(match[1]) <= 0.0:
        raise UsageError(f"--epi_threshold {text} is neither pixels (1.0) nor a share of the width (0.002w)")
    return float(match[1]) * (width if match[2] else 1.0)
