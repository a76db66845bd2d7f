"""Camera paths in files, in nerfstudio's format: made elsewhere, or written by an earlier render and changed.

Poses are in the world of `poses_bounds.npy`; axes right, up, back.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Float

from nsff.errors import InputError
from nsff.geometry.poses import Intrinsics, Pose

NOT_SQUARE = 1e-3  # a rotation's columns may be so far from orthonormal: files hold few digits
LARGEST_SIDE = 16384  # pixels


@dataclasses.dataclass(frozen=True)
class Keyframe:
    """A camera of a path; `time` is 0 (first frame) to 1 (last), or None where the file has none."""

    c2w_world: Pose
    intrinsics: Intrinsics
    time: float | None


def read_camera_path(path: Path) -> list[Keyframe]:
    """The cameras of a file.

    Raises:
        InputError: no such file, no JSON, no path in it, or a camera that cannot be one; the camera is named.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"--camera_path {path} cannot be read as JSON ({reason})") from error
    if not isinstance(content, dict) or not isinstance(content.get("camera_path"), list) or not content["camera_path"]:
        raise InputError(f"--camera_path {path} has no list 'camera_path' with cameras in it")
    if content.get("camera_type", "perspective") != "perspective":
        raise InputError(f"--camera_path {path}: cameras of type {content['camera_type']!r} are not supported")
    height, width = (_side(content, name, path) for name in ("render_height", "render_width"))
    frames = content["camera_path"]
    return [_keyframe(frames[k], height, width, f"--camera_path {path}: camera {k}") for k in range(len(frames))]


def write_camera_path(path: Path, keyframes: list[Keyframe], fps: float) -> None:
    """A file that `read_camera_path` and nerfstudio read."""
    lens = keyframes[0].intrinsics
    cameras = [
        {
            "camera_to_world": [*keyframe.c2w_world.ravel().tolist(), 0.0, 0.0, 0.0, 1.0],
            "fov": math.degrees(2.0 * math.atan(0.5 * keyframe.intrinsics.height / keyframe.intrinsics.focal)),
            "aspect": keyframe.intrinsics.width / keyframe.intrinsics.height,
            "render_time": keyframe.time,
        }
        for keyframe in keyframes
    ]
    content = {
        "camera_type": "perspective",
        "render_height": lens.height,
        "render_width": lens.width,
        "fps": fps,
        "seconds": len(keyframes) / fps,
        "camera_path": cameras,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def _side(content: dict[str, Any], name: str, path: Path) -> int:
    value = content.get(name)
    if not _is_number(value) or not 1 <= value <= LARGEST_SIDE:
        raise InputError(f"--camera_path {path}: {name} = {value!r} must be 1 to {LARGEST_SIDE} pixels")
    return round(value)


def _keyframe(entry: Any, height: int, width: int, where: str) -> Keyframe:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is not an object with 'camera_to_world' and 'fov'")
    fov, time = entry.get("fov"), entry.get("render_time")
    if not _is_number(fov) or not 0.0 < fov < 180.0:
        raise InputError(f"{where}: fov = {fov!r} must be between 0 and 180 degrees (vertical)")
    if time is not None and not (_is_number(time) and 0.0 <= time <= 1.0):
        raise InputError(f"{where}: render_time = {time!r} must be 0 (first frame) to 1 (last)")
    focal = 0.5 * height / math.tan(math.radians(fov) / 2.0)
    return Keyframe(_pose(entry.get("camera_to_world"), where), Intrinsics(height, width, focal), time)


def _pose(value: Any, where: str) -> Pose:
    try:
        matrix = np.array(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if matrix.size not in (12, 16) or not np.isfinite(matrix).all():
        raise InputError(f"{where}: camera_to_world must be 16 finite numbers, row by row")
    if matrix.size == 16 and not np.allclose(matrix[12:], (0.0, 0.0, 0.0, 1.0)):
        raise InputError(f"{where}: the last row of camera_to_world must be 0 0 0 1")
    pose = matrix[:12].reshape(3, 4)
    return np.concatenate([_rotation(pose[:, :3], where), pose[:, 3:]], axis=1)


def _rotation(matrix: Float[np.ndarray, "3 3"], where: str) -> Float[np.ndarray, "3 3"]:
    """The rotation nearest to a matrix that is almost one."""
    left, sizes, right = np.linalg.svd(matrix)
    if sizes[-1] < NOT_SQUARE * max(1.0, sizes[0]):
        raise InputError(f"{where}: camera_to_world is singular, its axes do not span space")
    if np.abs(sizes - 1.0).max() > NOT_SQUARE or np.linalg.det(matrix) < 0.0:
        raise InputError(f"{where}: the axes of camera_to_world are no rotation (unit length, square, right-handed)")
    return left @ right


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
