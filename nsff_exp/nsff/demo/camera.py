"""Pinhole cameras of the synthetic scene, in numpy and float64.

World and camera axes are (right, up, back); cameras look along -z. Pixel (0, 0) is centred at integer 0; the principal
point is (W / 2, H / 2).
"""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Camera:
    """Pinhole camera.

    Attributes:
        c2w: axes right, up, back, then the centre.
        width: pixels.
        height: pixels.
        focal: focal length, pixels.
    """

    c2w: Float[np.ndarray, "3 4"]
    width: int
    height: int
    focal: float


def look_at(centre: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 4"]:
    """Pose (c2w) of an upright camera at `centre` whose optical axis passes through `target`."""
    back = (centre - target) / np.linalg.norm(centre - target)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back, centre], axis=1)


def rotation(axis: int, angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotation matrix about axis 0, 1 or 2 by an angle in radians, by the right-hand rule."""
    matrix, first, second = np.eye(3), (axis + 1) % 3, (axis + 2) % 3
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[second, first] = np.sin(angle)
    matrix[first, second] = -matrix[second, first]
    return matrix


def ray_directions(uv: Float[np.ndarray, "*b 2"], camera: Camera) -> Float[np.ndarray, "*b 3"]:
    """World directions through pixels (right, down), of length 1 along the viewing axis: ray lengths are depths."""
    right = (uv[..., 0] - camera.width / 2) / camera.focal
    up = -(uv[..., 1] - camera.height / 2) / camera.focal
    return np.stack([right, up, -np.ones_like(right)], axis=-1) @ camera.c2w[:, :3].T


def project(
    points: Float[np.ndarray, "*b 3"], camera: Camera
) -> tuple[Float[np.ndarray, "*b 2"], Float[np.ndarray, "*b"]]:
    """Project world points to pixels (right, down) and depths."""
    x, y, z = np.moveaxis((points - camera.c2w[:, 3]) @ camera.c2w[:, :3], -1, 0)
    uv = np.stack([camera.width / 2 - camera.focal * x / z, camera.height / 2 + camera.focal * y / z], axis=-1)
    return uv, -z
