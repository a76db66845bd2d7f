"""Generate camera paths for novel views: the two published ones (bullet time, space-time offsets) and further ones."""

import numpy as np
from jaxtyping import Float, Shaped
from scipy.spatial.transform import Rotation

from nsff.errors import InputError
from nsff.geometry.poses import Pose, Poses, homogeneous

BULLET_TIME_FRAMES = 60
BULLET_TIME_SHIFT = 48.0  # pixels by which a point at depth 1 moves at the widest offset
DOLLY_AMPLITUDE = 0.15  # scaled world units; the near plane of NDC is at 1
PARALLEL_WEIGHT = 1e-2  # of the focus in the point that cameras look at, against their axes: it decides where parallel
SPACE_TIME_FRAMES = 40
SPACE_TIME_SHIFT = 32.0  # pixels at depth 1, as above


def _inverse_translation(x: float, y: float, z: float) -> Shaped[np.ndarray, "4 4"]:
    """Build the inverse of a pure translation by (x, y, z)."""
    inverse = np.eye(4)
    inverse[:3, 3] = (-x, -y, -z)
    return inverse


def bullet_time_loop(target: Pose, focal: float, n_poses: int = BULLET_TIME_FRAMES) -> Poses:
    """Circle around a camera: c2w(target) inverse([I | (m sin a, m cos a / 3, m cos a / 3)]), as published.

    Args:
        target: Camera at the centre of the loop.
        focal: Focal length in pixels; m = 48 / focal.
        n_poses: Number of cameras, 60 as published.

    Returns:
        (n_poses, 3, 4), float64.
    """
    radius, angles = BULLET_TIME_SHIFT / focal, _turn_angles(n_poses)
    shifts = np.stack([radius * np.sin(angles), radius * np.cos(angles) / 3.0, radius * np.cos(angles) / 3.0], axis=1)
    return np.stack([(homogeneous(target) @ _inverse_translation(*shift))[:3] for shift in shifts])


def spiral(target: Pose, focal: float, focus: float, n_poses: int) -> Poses:
    """Make two turns around a camera while moving forward and back, aimed at one point (LLFF, arXiv:1905.00889).

    Args:
        target: Camera at the centre of the spiral.
        focal: Focal length in pixels; the spiral is as wide as `bullet_time_loop`.
        focus: Distance of the aim point in front of `target`, in scaled world units.
        n_poses: Number of cameras.

    Returns:
        (n_poses, 3, 4), float64.
    """
    radius, angles = BULLET_TIME_SHIFT / focal, _turn_angles(n_poses)
    offsets = np.stack([np.cos(2.0 * angles), -np.sin(2.0 * angles) / 3.0, np.sin(angles) / 3.0], axis=1)
    return _aimed_at(target, radius * offsets, focus)


def lemniscate(target: Pose, focal: float, focus: float, n_poses: int) -> Poses:
    """Trace a horizontal figure of eight (Gerono's lemniscate: sin a, sin a cos a), aimed at one point.

    Arguments and result are those of `spiral`.
    """
    radius, angles = BULLET_TIME_SHIFT / focal, _turn_angles(n_poses)
    offsets = np.stack([np.sin(angles), np.sin(angles) * np.cos(angles), np.zeros_like(angles)], axis=1)
    return _aimed_at(target, radius * offsets, focus)


def dolly(target: Pose, n_poses: int) -> Poses:
    """Move forward along the viewing axis of `target`, back past it, and home; (n_poses, 3, 4), float64."""
    pose = homogeneous(target)
    return np.stack(
        [(pose @ _inverse_translation(0.0, 0.0, DOLLY_AMPLITUDE * np.sin(a)))[:3] for a in _turn_angles(n_poses)]
    )


def looked_at(c2w: Poses, focus: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """Find the point nearest to the viewing axes of cameras (least squares); on parallel axes, that next to `focus`."""
    across = np.eye(3) - c2w[:, :, 2, None] * c2w[:, None, :, 2]  # projections of offsets from each axis
    weight = PARALLEL_WEIGHT * len(c2w)
    left = across.sum(0) + weight * np.eye(3)
    return np.linalg.solve(left, (across @ c2w[:, :, 3, None]).sum(0)[:, 0] + weight * focus)


def orbit(c2w: Shaped[np.ndarray, "m 3 4"], target: Pose, focus: float, n_poses: int) -> Poses:
    """Turn a camera around what all cameras look at, as far as they went, to both ends and back.

    Args:
        c2w: Cameras of the video, in its order.
        target: Camera to turn; the axis is the mean of the cameras' up.
        focus: Distance of the point in front of `target` where all cameras look in one direction.
        n_poses: Number of cameras.

    Returns:
        (n_poses, 3, 4), float64.

    Raises:
        InputError: The cameras look away from each other.
    """
    centre = looked_at(c2w, target[:, 3] - focus * target[:, 2])
    offset = target[:, 3] - centre
    if offset @ target[:, 2] <= 0.0:
        raise InputError("--path orbit: the cameras look away from each other, at no common point; choose another path")
    up = c2w[:, :, 1].sum(0) / np.linalg.norm(c2w[:, :, 1].sum(0))
    ahead = offset - (offset @ up) * up
    ahead = ahead / np.linalg.norm(ahead)
    around = c2w[:, :, 3] - centre
    azimuths = np.unwrap(np.arctan2(around @ np.cross(up, ahead), around @ ahead))
    low, high = azimuths.min(), azimuths.max()
    angles = 0.5 * (low + high) + 0.5 * (high - low) * np.sin(_turn_angles(n_poses))
    turns = Rotation.from_rotvec(angles[:, None] * up).as_matrix()
    return np.concatenate([turns @ target[:, :3], (turns @ offset + centre)[..., None]], axis=2)


def _turn_angles(n_poses: int) -> Float[np.ndarray, " n"]:
    """Sample the angles of one turn, without its end point, so that the video loops without a repeated frame."""
    return 2.0 * np.pi * np.arange(n_poses) / n_poses


def _aimed_at(target: Pose, offsets: Float[np.ndarray, "n 3"], focus: float) -> Poses:
    """Place cameras at offsets in the axes of `target`, aimed at a point `focus` in front of it, with the same up."""
    aim_point = target[:, 3] - focus * target[:, 2]
    poses = []
    for centre in target[:, 3] + offsets @ target[:, :3].T:
        back = (centre - aim_point) / np.linalg.norm(centre - aim_point)
        right = np.cross(target[:, 1], back)
        right = right / np.linalg.norm(right)
        poses.append(np.stack([right, np.cross(back, right), back, centre], axis=1))
    return np.stack(poses)


def space_time_offsets(focal: float) -> Float[np.ndarray, "40 4 4"]:
    """Compute the published 40 offsets inverse([I | (m sin a, m cos a / 2, 0)]), m = 32 / focal.

    The moving camera is `c2w @ offset`.
    """
    radius = SPACE_TIME_SHIFT / focal
    angles = 2.0 * np.pi * np.arange(SPACE_TIME_FRAMES) / SPACE_TIME_FRAMES
    return np.stack([_inverse_translation(radius * np.sin(a), radius * np.cos(a) / 2.0, 0.0) for a in angles])
