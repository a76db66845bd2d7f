"""Camera paths of novel views, as published: bullet time, and the offsets of the space-time path."""

import numpy as np
from jaxtyping import Float, Shaped

from nsff.poses import Pose, Poses, homogeneous

BULLET_TIME_FRAMES = 60
BULLET_TIME_SHIFT = 48.0  # pixels that a point at depth 1 moves at the widest
SPACE_TIME_FRAMES = 40
SPACE_TIME_SHIFT = 32.0


def _inverse_of_shift(x: float, y: float, z: float) -> Shaped[np.ndarray, "4 4"]:
    """Inverse of the motion that is a mere shift by (x, y, z)."""
    motion = np.eye(4)
    motion[:3, 3] = (-x, -y, -z)
    return motion


def bullet_time(target: Pose, focal: float) -> Poses:
    """60 cameras on a small loop around `target`: c2w(target) inverse([I | (m sin a, m cos a / 3, m cos a / 3)]).

    Args:
        target: camera in the middle.
        focal: in pixels; m = 48 / focal.

    Returns:
        (60, 3, 4), float64.
    """
    radius = BULLET_TIME_SHIFT / focal
    angles = 2.0 * np.pi * np.arange(BULLET_TIME_FRAMES) / BULLET_TIME_FRAMES
    shifts = [(radius * np.sin(a), radius * np.cos(a) / 3.0, radius * np.cos(a) / 3.0) for a in angles]
    return np.stack([(homogeneous(target) @ _inverse_of_shift(*shift))[:3] for shift in shifts])


def space_time_offsets(focal: float) -> Float[np.ndarray, "40 4 4"]:
    """40 offsets inverse([I | (m sin a, m cos a / 2, 0)]), m = 32 / focal: c2w(moving) = c2w @ offset."""
    radius = SPACE_TIME_SHIFT / focal
    angles = 2.0 * np.pi * np.arange(SPACE_TIME_FRAMES) / SPACE_TIME_FRAMES
    return np.stack([_inverse_of_shift(radius * np.sin(a), radius * np.cos(a) / 2.0, 0.0) for a in angles])
