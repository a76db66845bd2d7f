"""Plane sweep: depth of static things from frames of several times. Not part of the paper.

Neighbours are warped onto the frame by the homographies of many fronto-parallel planes. Where a plane is right, the
warped neighbours match. Matching costs are smoothed along the edges of the frame before the best plane is taken
(Rhemann et al. 2011, Fast cost-volume filtering; guided filter: He et al. 2010). Unlike optical flow alone this works
across baselines of many pixels, and at the edges of near things.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Float

from nsff.io import Image

MIN_PLANES, MAX_PLANES = 32, 160  # The number of planes follows the parallax, within these bounds.
NEAREST_PLANE_RATIO = 0.6  # Depth of the nearest plane over the nearest depth of the reconstructed points.
MAX_COST = 0.03  # Truncate colour differences (0..1), so that one occluded neighbour cannot outvote the others.
# Radius in pixels, and the variance of grey (0..1) below which the guided filter sees no edge.
FILTER_RADIUS, FILTER_EPSILON = 4, 1e-3
OUTSIDE = 9.0  # Colour of pixels outside of a neighbour, far beyond 0..1.
OUTSIDE_COST = 1.0  # Cost there: above any sum of costs that are averaged, and a whole number.
MEAN_OF_CHANNELS = np.full((1, 3), 1.0 / 3.0, np.float32)


def inverse_depth_planes(
    neighbours: Float[np.ndarray, "k 3 4"], camera: Float[np.ndarray, "3 4"], focal: float, nearest: float
) -> Float[np.ndarray, " d"]:
    """Inverse depths of the planes, evenly spaced from 0.

    Neighbouring planes are one pixel apart in the farthest neighbour, or more where that takes over `MAX_PLANES`.

    Args:
        neighbours: w2c of the neighbours.
        camera: w2c of the frame.
        focal: focal length, pixels.
        nearest: nearest depth of the reconstructed points.
    """
    centres = np.stack([-pose[:, :3].T @ pose[:, 3] for pose in [camera, *neighbours]])
    largest = 1.0 / (NEAREST_PLANE_RATIO * nearest)
    shift = focal * np.linalg.norm(centres[1:] - centres[0], axis=1).max() * largest
    return np.linspace(0.0, largest, int(np.clip(np.ceil(shift) + 1, MIN_PLANES, MAX_PLANES)))


def sweep(
    frame: Image,
    neighbour_frames: Sequence[Image],
    neighbours: Float[np.ndarray, "k 3 4"],
    camera: Float[np.ndarray, "3 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    planes: Float[np.ndarray, " d"],
    filter_radius: int = FILTER_RADIUS,
) -> Float[np.ndarray, "H W"]:
    """Estimate the inverse depth of every pixel of a frame; arbitrary where the scene moves.

    Args:
        frame: the frame.
        neighbour_frames: its neighbours.
        neighbours: w2c of each neighbour, axes right, down, forward.
        camera: w2c of the frame.
        intrinsics: intrinsics of all.
        planes: inverse depths to try, evenly spaced.
        filter_radius: radius of the smoothing of costs, pixels.
    """
    height, width = frame.shape[:2]
    target = frame.astype(np.float32) / 255.0
    smooth = _guided_filter(cv2.cvtColor(target, cv2.COLOR_RGB2GRAY), filter_radius)
    images = [image.astype(np.float32) / 255.0 for image in neighbour_frames]
    rotations = neighbours[:, :, :3] @ camera[:, :3].T
    translations = neighbours[:, :, 3] - rotations @ camera[:, 3]
    inverse_intrinsics = np.linalg.inv(intrinsics)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    n_best = max(1, len(images) // 2)  # the pixel is occluded or outside in some neighbours
    costs = np.empty((len(planes), height, width), np.float32)
    # Reused for all planes: memory that is new to the process costs more than the arithmetic.
    warped, difference = np.empty_like(target), np.empty((height, width), np.float32)
    plane_costs = [np.empty_like(difference) for _ in images]
    for plane, inverse_depth in enumerate(planes):
        for cost, image, rotation, translation in zip(plane_costs, images, rotations, translations, strict=True):
            through_plane = rotation + inverse_depth * np.outer(translation, [0.0, 0.0, 1.0])
            homography = intrinsics @ through_plane @ inverse_intrinsics
            cv2.warpPerspective(image, homography, (width, height), warped, flags, borderValue=(OUTSIDE,) * 3)
            cv2.transform(cv2.absdiff(warped, target, warped), MEAN_OF_CHANNELS, difference)
            outside = difference > 1.0
            cv2.blur(np.minimum(difference, MAX_COST, out=difference), (3, 3), cost)
            np.copyto(cost, OUTSIDE_COST, where=outside)
        costs[plane] = smooth(_mean_of_lowest(plane_costs, n_best))
    return _best_inverse_depth(costs, planes)


def sweep_reduced(
    frame: Image,
    neighbour_frames: Sequence[Image],
    neighbours: Float[np.ndarray, "k 3 4"],
    camera: Float[np.ndarray, "3 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    nearest: float,
    scale: float,
) -> Float[np.ndarray, "H W"]:
    """Sweep planes on frames reduced by a factor, and enlarge the inverse depth again.

    Args:
        frame: as of `sweep`, like the next four.
        neighbour_frames: see there.
        neighbours: see there.
        camera: see there.
        intrinsics: see there.
        nearest: nearest depth of the reconstructed points.
        scale: size of the frames in the sweep over their own; 1 = not reduced.
    """
    if scale == 1.0:
        planes = inverse_depth_planes(neighbours, camera, intrinsics[0, 0], nearest)
        return sweep(frame, neighbour_frames, neighbours, camera, intrinsics, planes)
    height, width = frame.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small, *small_neighbours = (
        cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (frame, *neighbour_frames)
    )
    reduced = np.diag([scale, scale, 1.0]) @ intrinsics
    planes = inverse_depth_planes(neighbours, camera, reduced[0, 0], nearest)
    radius = max(1, round(FILTER_RADIUS * scale))
    inverse_depth = sweep(small, small_neighbours, neighbours, camera, reduced, planes, radius)
    return cv2.resize(inverse_depth, (width, height), interpolation=cv2.INTER_LINEAR)


def _mean_of_lowest(costs: list[Float[np.ndarray, "H W"]], count: int) -> Float[np.ndarray, "H W"]:
    """Mean of the `count` lowest costs per pixel, `OUTSIDE_COST` not counted; overwrites the costs."""
    costs, spare = list(costs), np.empty_like(costs[0])
    for k in range(count):  # a selection, several times faster than a sort along the first axis
        for other in range(k + 1, len(costs)):
            np.minimum(costs[k], costs[other], out=spare)
            np.maximum(costs[k], costs[other], out=costs[other])
            costs[k], spare = spare, costs[k]
    total = sum(costs[1:count], costs[0])
    n_outside = np.floor(total)  # sums of other costs stay below OUTSIDE_COST = 1
    n_inside = count - n_outside
    return np.where(n_inside > 0.0, (total - n_outside) / np.maximum(n_inside, 1.0), np.float32(MAX_COST))


def _guided_filter(
    guide: Float[np.ndarray, "H W"], radius: int
) -> Callable[[Float[np.ndarray, "H W"]], Float[np.ndarray, "H W"]]:
    """Make a guided filter: smoothing by local linear regression on a guide image (He et al. 2010)."""
    size = (2 * radius + 1, 2 * radius + 1)
    mean = cv2.blur(guide, size)
    variance = cv2.blur(guide * guide, size) - mean * mean

    def smooth(values: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
        mean_values = cv2.blur(values, size)
        slope = (cv2.blur(guide * values, size) - mean * mean_values) / (variance + FILTER_EPSILON)
        return cv2.blur(slope, size) * guide + cv2.blur(mean_values - slope * mean, size)

    return smooth


def _best_inverse_depth(costs: Float[np.ndarray, "d H W"], planes: Float[np.ndarray, " d"]) -> Float[np.ndarray, "H W"]:
    """Take the plane of lowest cost, refined to the vertex of a parabola through it and its neighbours."""
    best = costs.argmin(axis=0).clip(1, len(planes) - 2)
    below, centre, above = (np.take_along_axis(costs, (best + step)[None], axis=0)[0] for step in (-1, 0, 1))
    curvature = below - 2.0 * centre + above
    offset = np.where(curvature > 1e-9, (below - above) / (2.0 * np.maximum(curvature, 1e-9)), 0.0).clip(-0.5, 0.5)
    return planes[0] + (best + offset) * (planes[1] - planes[0])
