"""Depth of what stands still, from photographs of one time after another: a plane sweep.

Planes at many depths are tried: the neighbours are warped onto the frame as if all of it lay there, and where a
plane fits, they agree. The costs are smoothed along the edges of the frame before the best plane is taken
(Rhemann et al. 2011, Fast cost-volume filtering; guided filter: He et al. 2010). Unlike optical flow alone this
holds where neighbours are many pixels apart, and at the edges of what is near. Not part of the paper.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Float

from nsff.io import Image

LEAST_PLANES, MOST_PLANES = 32, 160
NEARER = 0.6  # the nearest plane, as a share of the nearest depth that the cameras' points have
WORST = 0.03  # difference of colour (0..1) from which on a neighbour says no more than that it differs
RADIUS, FLATNESS = 4, 1e-3  # of the guided filter: pixels; variance of grey (0..1) below which nothing is an edge


def inverse_depth_planes(
    neighbours: Float[np.ndarray, "k 3 4"], camera: Float[np.ndarray, "3 4"], focal: float, nearest: float
) -> Float[np.ndarray, " d"]:
    """Inverse depths from 0 on, a pixel apart in the farthest neighbour (more than that if it takes too many)."""
    centres = np.stack([-pose[:, :3].T @ pose[:, 3] for pose in [camera, *neighbours]])
    most = 1.0 / (NEARER * nearest)
    shift = focal * np.linalg.norm(centres[1:] - centres[0], axis=1).max() * most
    return np.linspace(0.0, most, int(np.clip(np.ceil(shift) + 1, LEAST_PLANES, MOST_PLANES)))


def sweep(
    frame: Image,
    others: Sequence[Image],
    neighbours: Float[np.ndarray, "k 3 4"],
    camera: Float[np.ndarray, "3 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    planes: Float[np.ndarray, " d"],
) -> Float[np.ndarray, "H W"]:
    """Inverse depth of every pixel of a frame; what moves gets some value as well.

    Args:
        frame: the frame.
        others: its neighbours.
        neighbours: w2c of each, axes right, down, forward.
        camera: w2c of the frame.
        intrinsics: of all.
        planes: inverse depths to try, evenly spaced.
    """
    height, width = frame.shape[:2]
    picture = frame.astype(np.float32) / 255.0
    smooth = _guided_by(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
    pictures = [other.astype(np.float32) / 255.0 for other in others]
    rotations = neighbours[:, :, :3] @ camera[:, :3].T
    shifts = neighbours[:, :, 3] - rotations @ camera[:, 3]
    half = max(1, len(others) // 2)  # a neighbour may not see the pixel, or something may have moved in front of it
    costs = np.empty((len(planes), height, width), np.float32)
    for plane, rho in enumerate(planes):
        each = []
        for other, rotation, shift in zip(pictures, rotations, shifts, strict=True):
            homography = intrinsics @ (rotation + rho * np.outer(shift, [0.0, 0.0, 1.0])) @ np.linalg.inv(intrinsics)
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            warped = cv2.warpPerspective(other, homography, (width, height), flags=flags, borderValue=(9.0, 9.0, 9.0))
            differs = np.abs(warped - picture).mean(-1)
            each.append(np.where(differs > 1.0, np.inf, cv2.blur(np.minimum(differs, WORST), (3, 3))))
        costs[plane] = smooth(_mean_of_best(np.stack(each), half))
    return _lowest(costs, planes)


def _mean_of_best(costs: Float[np.ndarray, "k H W"], most: int) -> Float[np.ndarray, "H W"]:
    """Mean of at most so many of the lowest costs; infinite ones are outside of the neighbour and do not count."""
    best = np.sort(costs, axis=0)[:most]
    inside = np.isfinite(best)
    total, count = np.where(inside, best, 0.0).sum(0), inside.sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), WORST).astype(np.float32)


def _guided_by(guide: Float[np.ndarray, "H W"]) -> Callable[[Float[np.ndarray, "H W"]], Float[np.ndarray, "H W"]]:
    """The guided filter: a picture becomes, in each window, what a line through the guide says of it."""
    size = (2 * RADIUS + 1, 2 * RADIUS + 1)
    mean = cv2.blur(guide, size)
    variance = cv2.blur(guide * guide, size) - mean * mean

    def smooth(values: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
        mean_values = cv2.blur(values, size)
        slope = (cv2.blur(guide * values, size) - mean * mean_values) / (variance + FLATNESS)
        return cv2.blur(slope, size) * guide + cv2.blur(mean_values - slope * mean, size)

    return smooth


def _lowest(costs: Float[np.ndarray, "d H W"], planes: Float[np.ndarray, " d"]) -> Float[np.ndarray, "H W"]:
    """The best plane, and between planes the lowest point of a parabola through it and its neighbours."""
    best = costs.argmin(axis=0).clip(1, len(planes) - 2)
    before, here, after = (np.take_along_axis(costs, (best + step)[None], axis=0)[0] for step in (-1, 0, 1))
    bend = before - 2.0 * here + after
    offset = np.where(bend > 1e-9, (before - after) / (2.0 * np.maximum(bend, 1e-9)), 0.0).clip(-0.5, 0.5)
    return planes[0] + (best + offset) * (planes[1] - planes[0])
