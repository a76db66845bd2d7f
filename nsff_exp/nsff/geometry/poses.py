"""Camera poses: conversion, scale, recentring, interpolation. numpy, in the precision of the input.

A pose `c2w` is (3, 4): axes right, up, back, then the centre; the camera looks along -z.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Shaped
from scipy.spatial.transform import Rotation, Slerp

Pose = Shaped[np.ndarray, "3 4"]
Poses = Shaped[np.ndarray, "n 3 4"]


@dataclasses.dataclass(frozen=True)
class Intrinsics:
    """Size and focal length in pixels. The principal point is (width / 2, height / 2) and pixel (0, 0) lies at
    integer 0, with no half-pixel offset, as published."""

    height: int
    width: int
    focal: float

    def divided_by(self, factor: int) -> "Intrinsics":
        """The camera of a frame rendered `factor` times smaller; at least one pixel."""
        height, width = max(1, self.height // factor), max(1, self.width // factor)
        return Intrinsics(height, width, self.focal / factor)


def from_llff(
    poses_bounds: Float[np.ndarray, "n 17"],
) -> tuple[Poses, Float[np.ndarray, "n 3"], Float[np.ndarray, "n 2"]]:
    """Split the rows of `poses_bounds.npy` and turn axes [down, right, back] into [right, up, back].

    Returns:
        c2w (n, 3, 4) in the units of the file; (height, width, focal) in pixels of `images/`; (near, far).
    """
    matrix = poses_bounds[:, :15].reshape(-1, 3, 5)
    down, right, back, centre = (matrix[:, :, k] for k in range(4))
    return np.stack([right, -down, back, centre], axis=-1), matrix[:, :, 4], poses_bounds[:, 15:17]


def scene_scale(bounds: Float[np.ndarray, "n 2"], bd_factor: float) -> float:
    """Factor that brings the near plane of NDC to `bd_factor` of the near bounds (their 5th percentile).

    Note:
        Bounds come from static points, and nothing in front of the near plane can be rendered. The published 0.9
        cuts off what moves closer to the camera than anything static.
    """
    return float(1.0 / (np.percentile(bounds[:, 0], 5) * bd_factor))


def average(poses: Poses) -> Pose:
    """Mean camera: mean centre, mean viewing axis, mean up made orthogonal."""
    centre, back, up = poses[:, :, 3].mean(0), poses[:, :, 2].sum(0), poses[:, :, 1].sum(0)
    back = back / np.linalg.norm(back)
    right = np.cross(up, back)
    right = right / np.linalg.norm(right)
    up = np.cross(back, right)
    return np.stack([right, up / np.linalg.norm(up), back, centre], axis=1)


def homogeneous(pose: Pose) -> Shaped[np.ndarray, "4 4"]:
    """The pose with the row (0, 0, 0, 1) below, float64."""
    return np.concatenate([pose, np.array([[0.0, 0.0, 0.0, 1.0]])])


def recentre(poses: Poses) -> Poses:
    """Poses in the frame of their average camera."""
    to_average = np.linalg.inv(homogeneous(average(poses)))
    return np.stack([(to_average @ homogeneous(pose))[:3] for pose in poses])


def interpolate(first: Pose, second: Pose, share: float) -> Pose:
    """Camera between two: spherical for the rotation, linear for the centre.

    Args:
        first: pose at share 0.
        second: pose at share 1.
        share: 0..1.
    """
    rotations = Rotation.from_matrix(np.stack([first[:, :3], second[:, :3]]))
    rotation = Slerp([0.0, 1.0], rotations)(share).as_matrix()
    centre = (1.0 - share) * first[:, 3] + share * second[:, 3]
    return np.concatenate([rotation, centre[:, None]], axis=1)
