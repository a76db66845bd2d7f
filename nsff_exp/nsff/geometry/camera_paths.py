"""Camera paths of novel views: bullet time and the offsets of the space-time path as published, and more."""

import numpy as np
from jaxtyping import Float, Shaped

from nsff.geometry.poses import Pose, Poses, homogeneous

BULLET_TIME_FRAMES = 60
BULLET_TIME_SHIFT = 48.0  # pixels that a point at depth 1 moves at the widest
DOLLY = 0.15  # scaled world units; the near plane is at 1
SPACE_TIME_FRAMES = 40
SPACE_TIME_SHIFT = 32.0


def _inverse_of_shift(x: float, y: float, z: float) -> Shaped[np.ndarray, "4 4"]:
    """Inverse of the motion that is a mere shift by (x, y, z)."""
    motion = np.eye(4)
    motion[:3, 3] = (-x, -y, -z)
    return motion


def bullet_time_loop(target: Pose, focal: float, n_poses: int = BULLET_TIME_FRAMES) -> Poses:
    """The small loop of bullet time: c2w(target) inverse([I | (m sin a, m cos a / 3, m cos a / 3)]).

    Args:
        target: camera in the middle.
        focal: in pixels; m = 48 / focal.
        n_poses: cameras on the loop, 60 as published.

    Returns:
        (n_poses, 3, 4), float64.
    """
    radius, turn = BULLET_TIME_SHIFT / focal, _turn(n_poses)
    shifts = np.stack([radius * np.sin(turn), radius * np.cos(turn) / 3.0, radius * np.cos(turn) / 3.0], axis=1)
    return np.stack([(homogeneous(target) @ _inverse_of_shift(*shift))[:3] for shift in shifts])


def spiral(target: Pose, focal: float, focus: float, n_poses: int) -> Poses:
    """Two turns that go forward and back, all cameras looking at one point (LLFF, arXiv:1905.00889).

    Args:
        target: camera in the middle.
        focal: in pixels; the loop is as wide as that of `bullet_time_loop`.
        focus: distance in front of `target` of the point looked at, in scaled world units.
        n_poses: cameras.

    Returns:
        (n_poses, 3, 4), float64.
    """
    radius, turn = BULLET_TIME_SHIFT / focal, _turn(n_poses)
    offsets = np.stack([np.cos(2.0 * turn), -np.sin(2.0 * turn) / 3.0, np.sin(turn) / 3.0], axis=1)
    return _looking_at(target, radius * offsets, focus)


def lemniscate(target: Pose, focal: float, focus: float, n_poses: int) -> Poses:
    """A figure of eight lying on its side (Gerono's: sin a, sin a cos a), all cameras looking at one point.

    Arguments and result as those of `spiral`.
    """
    radius, turn = BULLET_TIME_SHIFT / focal, _turn(n_poses)
    offsets = np.stack([np.sin(turn), np.sin(turn) * np.cos(turn), np.zeros_like(turn)], axis=1)
    return _looking_at(target, radius * offsets, focus)


def dolly(target: Pose, n_poses: int) -> Poses:
    """Forward along the viewing axis of `target`, back through it, and home; (n_poses, 3, 4), float64."""
    pose = homogeneous(target)
    return np.stack([(pose @ _inverse_of_shift(0.0, 0.0, DOLLY * np.sin(a)))[:3] for a in _turn(n_poses)])


def _turn(n_poses: int) -> Float[np.ndarray, " n"]:
    """Angles of one turn, its end left out: clips are played in a loop."""
    return 2.0 * np.pi * np.arange(n_poses) / n_poses


def _looking_at(target: Pose, offsets: Float[np.ndarray, "n 3"], focus: float) -> Poses:
    """Cameras at offsets (in the axes of `target`), turned to the point `focus` in front of it, upright as it is."""
    point = target[:, 3] - focus * target[:, 2]
    poses = []
    for centre in target[:, 3] + offsets @ target[:, :3].T:
        back = (centre - point) / np.linalg.norm(centre - point)
        right = np.cross(target[:, 1], back)
        right = right / np.linalg.norm(right)
        poses.append(np.stack([right, np.cross(back, right), back, centre], axis=1))
    return np.stack(poses)


def space_time_offsets(focal: float) -> Float[np.ndarray, "40 4 4"]:
    """40 offsets inverse([I | (m sin a, m cos a / 2, 0)]), m = 32 / focal: c2w(moving) = c2w @ offset."""
    radius = SPACE_TIME_SHIFT / focal
    angles = 2.0 * np.pi * np.arange(SPACE_TIME_FRAMES) / SPACE_TIME_FRAMES
    return np.stack([_inverse_of_shift(radius * np.sin(a), radius * np.cos(a) / 2.0, 0.0) for a in angles])
