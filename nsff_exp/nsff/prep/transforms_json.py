"""Cameras of nerfstudio's `transforms.json` (also instant-ngp's): one entry per frame, in any order.

Poses are c2w with axes right, up, back; `file_path` is relative to the file. `applied_transform` was applied to the
world of the reconstruction and is undone. The depth of what each frame sees comes from the point cloud that the file
names (`ply_file_path`), else it is measured between neighbouring frames.
"""

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from nsff.errors import InputError, reason_of
from nsff.geometry.camera_path_file import parse_pose
from nsff.geometry.poses import Pose, homogeneous
from nsff.images import find_image, image_size, is_image, natural_order
from nsff.io import read_text
from nsff.prep.ply import read_ply_points
from nsff.prep.sparse_model import SparseModel, common_intrinsics
from nsff.prep.two_view_points import measure_points
from nsff.scene_folder import SceneFolder

log = logging.getLogger("nsff")

TRANSFORMS = "transforms.json"
CAMERA_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE")  # Of nerfstudio; the first is taken without distortion only.
DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
MAX_DISTORTION = 1e-6  # Below it, no pixel of a frame is shifted by a hundredth of a pixel.
SIMILARITY_TOLERANCE = 1e-3  # Of applied_transform: of its axes' lengths and angles.


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One frame of the file: where its image is, its pose in the world of the file, and its camera."""

    path: Path
    c2w: Pose
    size: tuple[int, int]
    intrinsics: tuple[float, float, float, float]  # fx, fy, cx, cy


def read_transforms(folder: SceneFolder) -> SparseModel:
    """Read `transforms.json` of a scene; images elsewhere are copied to `images/` if that does not exist yet.

    Raises:
        InputError: the file is broken, an image is missing, or the cameras have distortion or differ.
    """
    path = folder.root / TRANSFORMS
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({reason_of(error)})") from error
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{path} has no list 'frames' of at least one frame")
    entries = [_entry(content, frame, path, k) for k, frame in enumerate(frames)]
    entries.sort(key=lambda entry: natural_order(entry.path.name))
    names = _names_in_images(entries, folder)
    size, focal, principal_point = common_intrinsics(
        str(path), names, [entry.size for entry in entries], np.array([entry.intrinsics for entry in entries])
    )
    to_world, scale = _undo_applied(content, path)
    w2c = np.stack([_to_w2c(entry.c2w, to_world, scale) for entry in entries])
    model = SparseModel(names, size, focal, principal_point, w2c, np.zeros((0, 3)), [np.zeros(0, int)] * len(names))
    cloud = path.parent / str(content["ply_file_path"]) if content.get("ply_file_path") else None
    if cloud is not None and cloud.is_file():
        points = (homogeneous_points(read_ply_points(cloud)) @ to_world.T)[:, :3]
        observed = [_visible(model, points, frame) for frame in range(len(names))]
        return dataclasses.replace(model, points=points, observed=observed)
    log.info("%s names no point cloud: depth is measured between neighbouring frames", path)
    return measure_points(model, [folder.images / name for name in names])


def homogeneous_points(points: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "m 4"]:
    """Append 1 to each point."""
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


def _entry(content: dict[str, Any], frame: Any, path: Path, index: int) -> _Entry:
    where = f"{path}: frame {index}"
    if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
        raise InputError(f"{where} has no file_path")

    def value(name: str) -> Any:
        return frame.get(name, content.get(name))

    def number(name: str, default: Callable[[], float]) -> float:
        given = value(name)
        if given is None:
            return default()
        if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
            raise InputError(f"{where}: {name} = {given!r} is no number")
        return float(given)

    model = value("camera_model")
    bent = [name for name in DISTORTION if abs(number(name, lambda: 0.0)) > MAX_DISTORTION]
    if bent or model not in (None, *CAMERA_MODELS):
        raise InputError(
            f"{where} has lens distortion ({' '.join([str(model or 'camera'), *bent])}); undistort frames and cameras "
            "with COLMAP's image_undistorter, or make both anew: run_colmap.py --images "
            f"{path.parent / 'images'} --data_path SCENE"
        )
    image = path.parent / frame["file_path"]
    if not is_image(image):  # as in synthetic scenes, without suffix
        image = find_image(image.parent, image.name, ".png")
    if not image.is_file():
        raise InputError(f"{image} is missing, which {path} names; put it back")
    stored = image_size(image)
    width, height = number("w", lambda: stored[0]), number("h", lambda: stored[1])

    def focal_of_angle(name: str, side: float) -> float:
        angle = number(name, lambda: math.nan)
        return 0.5 * side / math.tan(0.5 * angle) if 0.0 < angle < math.pi else math.nan

    fx = number("fl_x", lambda: focal_of_angle("camera_angle_x", width))
    fy = number("fl_y", lambda: fx)
    if not (width >= 1 and height >= 1 and fx > 0.0 and fy > 0.0):
        raise InputError(f"{where} has no focal length (fl_x or camera_angle_x), or a size or focal length <= 0")
    intrinsics = (fx, fy, number("cx", lambda: width / 2), number("cy", lambda: height / 2))
    return _Entry(
        image, parse_pose(frame.get("transform_matrix"), where, "transform_matrix"), (round(width), round(height)),
        intrinsics,
    )  # fmt: skip


def _names_in_images(entries: list[_Entry], folder: SceneFolder) -> list[str]:
    """Names of the frames in `images/`; they are copied there if it does not exist.

    Raises:
        InputError: two frames have one name.
    """
    names = [entry.path.name for entry in entries]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{folder.root / TRANSFORMS} names two frames {twice}; give frames different names")
    if not folder.images.exists():
        log.info("copying %d images from %s to %s", len(names), entries[0].path.parent, folder.images)
        folder.images.mkdir()
        for entry in entries:
            shutil.copy(entry.path, folder.images / entry.path.name)
    return names


def _undo_applied(content: dict[str, Any], path: Path) -> tuple[Float[np.ndarray, "4 4"], float]:
    """Transformation from the world of the file to that of the reconstruction, and its scale.

    Raises:
        InputError: `applied_transform` is no rotation, translation and scale.
    """
    given = content.get("applied_transform")
    if given is None:
        return np.eye(4), 1.0
    try:
        matrix = np.array(given, dtype=np.float64).reshape(-1, 4)[:3]
        lengths = np.linalg.svd(matrix[:, :3], compute_uv=False)
    except (TypeError, ValueError, np.linalg.LinAlgError):
        matrix, lengths = np.zeros((3, 4)), np.zeros(3)
    if (
        matrix.shape != (3, 4) or not np.isfinite(matrix).all() or np.linalg.det(matrix[:, :3]) <= 0.0
        or np.ptp(lengths) > SIMILARITY_TOLERANCE * lengths[0]
    ):  # fmt: skip
        raise InputError(f"{path}: applied_transform must be a rotation, a translation and one scale, 3 rows of 4")
    return np.linalg.inv(homogeneous(matrix)), float(1.0 / lengths.mean())


def _to_w2c(c2w: Pose, to_world: Float[np.ndarray, "4 4"], scale: float) -> Pose:
    """The pose in the world of the reconstruction as w2c, axes right, down, forward."""
    moved = (to_world @ homogeneous(c2w))[:3]
    rotation = (moved[:, :3] / scale * [1.0, -1.0, -1.0]).T
    return np.concatenate([rotation, -rotation @ moved[:, 3:]], axis=1)


def _visible(model: SparseModel, points: Float[np.ndarray, "m 3"], frame: int) -> Int[np.ndarray, "..."]:
    """Indices of the points that project into a frame."""
    in_camera = homogeneous_points(points) @ model.w2c[frame].T
    (width, height), front = model.size, in_camera[:, 2] > 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = in_camera[:, :2] / in_camera[:, 2:] * model.focal + model.principal_point
    return np.flatnonzero(front & (uv >= 0.0).all(axis=1) & (uv <= [width, height]).all(axis=1))
