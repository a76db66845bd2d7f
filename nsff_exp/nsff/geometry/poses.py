"""Convert, scale, recentre and interpolate camera poses, in numpy and the precision of the input.

A pose `c2w` is (3, 4): columns right, up, back, then the camera centre; the camera looks along -z.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Shaped
from scipy.spatial.transform import Rotation, Slerp

MIN_COMMON_AXIS = 1e-3  # length of the mean viewing axis below which it is rounding and chance

Pose = Shaped[np.ndarray, "3 4"]
Poses = Shaped[np.ndarray, "n 3 4"]


@dataclasses.dataclass(frozen=True)
class Intrinsics:
    """Image size and focal length in pixels.

    Note:
        As published, the principal point is (width / 2, height / 2) and the centre of pixel (0, 0) lies at integer 0,
        without a half-pixel offset.
    """

    height: int
    width: int
    focal: float

    def divided_by(self, factor: int) -> "Intrinsics":
        """Intrinsics of an image smaller by `factor` on each side, at least one pixel.

        Note:
            A side that `factor` does not divide is cropped around its middle: 270 / 4 leaves the view of 268 pixels.
        """
        height, width = max(1, self.height // factor), max(1, self.width // factor)
        return Intrinsics(height, width, self.focal / factor)


def from_llff(
    poses_bounds: Float[np.ndarray, "n 17"],
) -> tuple[Poses, Float[np.ndarray, "n 3"], Float[np.ndarray, "n 2"]]:
    """Split the rows of `poses_bounds.npy` and convert axes [down, right, back] to [right, up, back].

    Returns:
        c2w (n, 3, 4) in the units of the file; (height, width, focal) (n, 3) in pixels of `images/`; (near, far) (n, 2)
        depths in the units of the file.
    """
    matrix = poses_bounds[:, :15].reshape(-1, 3, 5)
    down, right, back, centre = (matrix[:, :, k] for k in range(4))
    return np.stack([right, -down, back, centre], axis=-1), matrix[:, :, 4], poses_bounds[:, 15:17]


def to_llff(
    c2w: Poses, sizes_and_focals: Float[np.ndarray, "n 3"], bounds: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 17"]:
    """Join the rows of `poses_bounds.npy`, axes [down, right, back]: the inverse of `from_llff`.

    Args:
        c2w: poses in the units of the file.
        sizes_and_focals: (height, width, focal) in pixels of `images/`.
        bounds: (near, far) depths in the units of the file.
    """
    right, up, back, centre = (c2w[:, :, k] for k in range(4))
    matrix = np.stack([-up, right, back, centre, sizes_and_focals], axis=-1)
    return np.concatenate([matrix.reshape(-1, 15), bounds], axis=1)


def scene_scale(bounds: Float[np.ndarray, "n 2"], bd_factor: float) -> float:
    """Compute the scale that puts the near plane of NDC at `bd_factor` times the near bound (5th percentile).

    Note:
        NDC cannot represent points in front of the near plane, and the bounds come from static points: the published
        0.9 clips objects that move closer to the camera than 0.9 times the nearest static depth.
    """
    return float(1.0 / (np.percentile(bounds[:, 0], 5) * bd_factor))


def average(poses: Poses) -> Pose:
    """Average camera: mean centre, mean viewing axis, and the mean up vector made orthogonal to it.

    Where cameras stand all around, their viewing axes cancel, and that of the first stands in.
    """
    centre, back, up = poses[:, :, 3].mean(0), poses[:, :, 2].sum(0), poses[:, :, 1].sum(0)
    if np.linalg.norm(back) < MIN_COMMON_AXIS * len(poses):
        back = poses[0, :, 2]
    back = back / np.linalg.norm(back)
    right = np.cross(up, back)
    right = right / np.linalg.norm(right)
    up = np.cross(back, right)
    return np.stack([right, up / np.linalg.norm(up), back, centre], axis=1)


def homogeneous(pose: Pose) -> Shaped[np.ndarray, "4 4"]:
    """Append the row (0, 0, 0, 1) to a pose; float64."""
    return np.concatenate([pose, np.array([[0.0, 0.0, 0.0, 1.0]])])


def recentre(poses: Poses) -> Poses:
    """Express poses in the coordinates of their average camera."""
    to_average = np.linalg.inv(homogeneous(average(poses)))
    return np.stack([(to_average @ homogeneous(pose))[:3] for pose in poses])


def interpolate(first: Pose, second: Pose, fraction: float) -> Pose:
    """Interpolate between two cameras: rotation spherically (slerp), centre linearly.

    Args:
        first: Pose at fraction 0.
        second: Pose at fraction 1.
        fraction: Position between the two, 0 to 1.
    """
    rotations = Rotation.from_matrix(np.stack([first[:, :3], second[:, :3]]))
    rotation = Slerp([0.0, 1.0], rotations)(fraction).as_matrix()
    centre = (1.0 - fraction) * first[:, 3] + fraction * second[:, 3]
    return np.concatenate([rotation, centre[:, None]], axis=1)
