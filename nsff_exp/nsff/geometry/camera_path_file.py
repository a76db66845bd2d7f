"""Read and write camera paths in nerfstudio's JSON format, so that a path can come from its viewer or be edited.

Poses are in the world of `poses_bounds.npy`; axes right, up, back.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Float

from nsff.errors import InputError, reason_of
from nsff.geometry.poses import Intrinsics, Pose
from nsff.io import read_text

ROTATION_TOLERANCE = 1e-3  # reject a matrix whose singular values differ from 1 by more; files hold few digits
MAX_FPS = 1000
MAX_IMAGE_SIDE = 16384  # pixels; larger renders are refused


@dataclasses.dataclass(frozen=True)
class Keyframe:
    """One camera of a path.

    `c2w_world` is (3, 4) in the units of `poses_bounds.npy`. `time` runs from 0 (first frame) to 1 (last frame); it is
    None where the file gives no time.
    """

    c2w_world: Pose
    intrinsics: Intrinsics
    time: float | None


def read_camera_path(path: Path) -> list[Keyframe]:
    """Read all cameras of a path file, in order.

    Raises:
        InputError: The file is missing, is not JSON or holds no path, or a camera is invalid; the message names it.
    """
    content = _read_json(path)
    if content.get("camera_type", "perspective") != "perspective":
        raise InputError(f"--camera_path {path}: cameras of type {content['camera_type']!r} are not supported")
    height, width = (_image_side(content, name, path) for name in ("render_height", "render_width"))
    frames = content["camera_path"]
    return [_keyframe(frames[k], height, width, f"--camera_path {path}: camera {k}") for k in range(len(frames))]


def read_path_fps(path: Path) -> float | None:
    """Frames per second of a path file: its `fps`, else its cameras over its `seconds`; None if it has neither.

    Raises:
        InputError: The file cannot be read, see `read_camera_path`, or the number is outside of 0 to `MAX_FPS`.
    """
    content = _read_json(path)
    fps, seconds = content.get("fps"), content.get("seconds")
    if fps is None and _is_number(seconds) and seconds > 0:
        fps = len(content["camera_path"]) / seconds
    if fps is not None and not (_is_number(fps) and 0 < fps <= MAX_FPS):
        raise InputError(f"--camera_path {path}: fps = {fps!r} must be above 0 and at most {MAX_FPS}")
    return fps


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"--camera_path {path} does not exist")
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        reason = reason_of(error)
        raise InputError(f"--camera_path {path} cannot be read as JSON ({reason})") from error
    if not isinstance(content, dict) or not isinstance(content.get("camera_path"), list) or not content["camera_path"]:
        raise InputError(f"--camera_path {path} has no list 'camera_path' of at least one camera")
    return content


def write_camera_path(path: Path, keyframes: list[Keyframe], fps: float) -> None:
    """Write a path that `read_camera_path` and nerfstudio can read.

    The format has one image size per file, that of the first camera, and a vertical field of view per camera.
    """
    intrinsics = keyframes[0].intrinsics
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
        "render_height": intrinsics.height,
        "render_width": intrinsics.width,
        "fps": fps,
        "seconds": len(keyframes) / fps,
        "camera_path": cameras,
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _image_side(content: dict[str, Any], name: str, path: Path) -> int:
    value = content.get(name)
    if not _is_number(value) or not 1 <= value <= MAX_IMAGE_SIDE:
        raise InputError(f"--camera_path {path}: {name} = {value!r} must be 1 to {MAX_IMAGE_SIDE} pixels")
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
    pose = parse_pose(entry.get("camera_to_world"), where, "camera_to_world")
    return Keyframe(pose, Intrinsics(height, width, focal), time)


def parse_pose(value: Any, where: str, name: str) -> Pose:
    """A pose from its 12 or 16 numbers, nested or not, in row-major order.

    Args:
        value: content of a JSON file.
        where: place in the file, for messages.
        name: of the value, for messages.

    Raises:
        InputError: it is no pose.
    """
    try:
        matrix = np.array(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if matrix.size not in (12, 16) or not np.isfinite(matrix).all():
        raise InputError(f"{where}: {name} must be 16 finite numbers in row-major order")
    if matrix.size == 16 and not np.allclose(matrix[12:], (0.0, 0.0, 0.0, 1.0)):
        raise InputError(f"{where}: the last row of {name} must be 0 0 0 1")
    pose = matrix[:12].reshape(3, 4)
    return np.concatenate([_rotation(pose[:, :3], where, name), pose[:, 3:]], axis=1)


def _rotation(matrix: Float[np.ndarray, "3 3"], where: str, name: str) -> Float[np.ndarray, "3 3"]:
    """Project a near-rotation onto the nearest rotation (polar decomposition by SVD)."""
    left, singular_values, right = np.linalg.svd(matrix)
    if singular_values[-1] < ROTATION_TOLERANCE * max(1.0, singular_values[0]):
        raise InputError(f"{where}: {name} is singular: its axes do not span three dimensions")
    if np.abs(singular_values - 1.0).max() > ROTATION_TOLERANCE or np.linalg.det(matrix) < 0.0:
        raise InputError(f"{where}: the axes of {name} must be a rotation: unit, orthogonal, right-handed")
    return left @ right


def _is_number(value: Any) -> TypeGuard[float]:
    """Accept JSON numbers only; the bound excludes NaN, infinity and integers that no float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
