"""Cameras and points of a COLMAP model, and the files made from them: poses_bounds.npy and scene.json."""

import dataclasses
import json
import logging
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from jaxtyping import Float, Int

from nsff.errors import InputError
from nsff.geometry.poses import from_llff, to_llff
from nsff.io import read_array, write_array, write_text
from nsff.scene_folder import SceneFolder

log = logging.getLogger("nsff")

NEAR_PERCENTILE, FAR_PERCENTILE = 5.0, 95.0  # Of the depths of the points that a frame observes, as published.
INNER_FRACTION = 0.95  # Of the points; outer ones, per axis, do not extend the box of scene.json. As published.
MAX_DEVIATION = 0.01  # Of the size or focal length; warn about cameras that deviate more from the ideal one.
POINT_BYTES = 43  # Size of a point in points3D.bin before its track: id, xyz, rgb, error.
COUNT_BYTES, TRACK_ELEMENT_BYTES = 8, 8
MODEL_FILES = ("cameras", "images", "points3D")


@dataclasses.dataclass(frozen=True)
class ColmapModel:
    """A COLMAP model with one ideal camera; n frames sorted by name, m points.

    Attributes:
        names: file names of the frames.
        size: (width, height).
        focal: (fx, fy) in pixels.
        principal_point: (right, down) in pixels.
        w2c: poses, axes right, down, forward.
        points: 3-D points.
        observed: indices of the points that each frame observes.
    """

    names: list[str]
    size: tuple[int, int]
    focal: tuple[float, float]
    principal_point: tuple[float, float]
    w2c: Float[np.ndarray, "n 3 4"]
    points: Float[np.ndarray, "m 3"]
    observed: list[Int[np.ndarray, "..."]]

    @property
    def centres(self) -> Float[np.ndarray, "n 3"]:
        """Camera centres in the world."""
        return -np.einsum("nji,nj->ni", self.w2c[:, :, :3], self.w2c[:, :, 3])

    def depths(self, frame: int) -> Float[np.ndarray, " k"]:
        """Depths of the points that a frame observes."""
        forward, offset = self.w2c[frame, 2, :3], self.w2c[frame, 2, 3]
        return self.points[self.observed[frame]] @ forward + offset


def read_model(folder: SceneFolder) -> ColmapModel:
    """Read the model in `sparse/` or `sparse/0/`, binary or text.

    Raises:
        InputError: the model is missing or unreadable, or its cameras have distortion or different sizes.
    """
    remedy = f"run run_colmap.py --data_path {folder.root.parent}"
    places = [folder.root / "sparse", folder.root / "sparse" / "0"]
    for place in places:
        for suffix in (".bin", ".txt"):
            if all((place / f"{name}{suffix}").is_file() for name in MODEL_FILES):
                return _to_model(_read_reconstruction(place, suffix, remedy), place, remedy)
    raise InputError(f"{places[0]} holds no COLMAP model (cameras, images, points3D as .bin or .txt); {remedy}")


def _read_reconstruction(place: Path, suffix: str, remedy: str) -> pycolmap.Reconstruction:
    try:
        return pycolmap.Reconstruction(place)
    except Exception as error:
        with tempfile.TemporaryDirectory() as copy:
            for name in MODEL_FILES:
                shutil.copy(place / f"{name}{suffix}", copy)
            try:
                _drop_tracks(Path(copy) / f"points3D{suffix}")
                model = pycolmap.Reconstruction(copy)
            except Exception:
                reason = " ".join(str(error).split())[:120]
                raise InputError(f"{place} cannot be read as a COLMAP model ({reason}); {remedy}") from error
    log.info("the tracks of %s contradict its images and are ignored", place)
    return model


def _drop_tracks(path: Path) -> None:
    """Rewrite a points3D file with empty tracks; the images file holds the observations as well."""
    if path.suffix == ".txt":
        lines = [
            line.split() for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
        ]
        path.write_text("".join(" ".join(words[:8]) + "\n" for words in lines), encoding="utf-8")
        return
    data, points, offset = path.read_bytes(), [], COUNT_BYTES
    for _ in range(struct.unpack_from("<Q", data)[0]):
        (track_length,) = struct.unpack_from("<Q", data, offset + POINT_BYTES)
        points.append(data[offset : offset + POINT_BYTES] + struct.pack("<Q", 0))
        offset += POINT_BYTES + COUNT_BYTES + TRACK_ELEMENT_BYTES * track_length
    path.write_bytes(data[:COUNT_BYTES] + b"".join(points))


def _to_model(model: pycolmap.Reconstruction, place: Path, remedy: str) -> ColmapModel:
    images = sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name)
    if not images:
        raise InputError(f"{place} has no registered frame; {remedy}")
    cameras = {image.camera_id: model.cameras[image.camera_id] for image in images}
    first = cameras[images[0].camera_id]
    for camera in cameras.values():
        if not camera.is_undistorted():
            raise InputError(f"{place}: camera {camera.camera_id} has lens distortion ({camera.model_name}); {remedy}")
        if (camera.width, camera.height) != (first.width, first.height):
            raise InputError(f"{place}: cameras of different sizes; {remedy}")
    order = {point_id: k for k, point_id in enumerate(model.points3D)}
    return ColmapModel(
        names=[image.name for image in images],
        size=(first.width, first.height),
        focal=(first.focal_length_x, first.focal_length_y),
        principal_point=(first.principal_point_x, first.principal_point_y),
        w2c=np.stack([image.cam_from_world().matrix() for image in images]),
        points=np.array([point.xyz for point in model.points3D.values()]).reshape(-1, 3),
        observed=[
            np.array([order[point.point3D_id] for point in image.points2D if point.has_point3D()], int)
            for image in images
        ],
    )


def poses_bounds(model: ColmapModel) -> Float[np.ndarray, "n 17"]:
    """Rows of `poses_bounds.npy` (see `to_llff`); near and far are percentiles of the depths that a frame observes.

    Raises:
        InputError: a frame observes no point in front of it.
    """
    bounds = []
    for frame, name in enumerate(model.names):
        depths = model.depths(frame)
        if not len(depths) or np.percentile(depths, NEAR_PERCENTILE) <= 0.0:
            raise InputError(f"frame {name} has no points in front of it: its pose is wrong; run run_colmap.py again")
        bounds.append(np.percentile(depths, [NEAR_PERCENTILE, FAR_PERCENTILE]))
    right, down, forward = (model.w2c[:, k, :3] for k in range(3))
    c2w = np.stack([right, -down, -forward, model.centres], axis=-1)
    size_and_focal = [float(model.size[1]), float(model.size[0]), model.focal[0]]
    return to_llff(c2w, np.tile(size_and_focal, (len(c2w), 1)), np.array(bounds))


def scene_box(model: ColmapModel) -> dict[str, Any]:
    """Content of `scene.json`: the box around cameras and inner points, its centre, and 1 / its diagonal."""
    edge = (1.0 - INNER_FRACTION) / 2.0
    low, high = np.quantile(model.points, [edge, 1.0 - edge], axis=0)
    inner = model.points[((model.points >= low) & (model.points <= high)).all(axis=1)]
    content = np.concatenate([inner, model.centres])
    corners = np.stack([content.min(axis=0), content.max(axis=0)])
    return {
        "scale": float(1.0 / np.linalg.norm(corners[1] - corners[0])),
        "center": corners.mean(axis=0).tolist(),
        "bbox": corners.tolist(),
    }


def camera_warnings(model: ColmapModel) -> list[str]:
    """Describe deviations from the camera that the method assumes: one focal length, a centred principal point."""
    (width, height), (fx, fy), (cx, cy), warnings = model.size, model.focal, model.principal_point, []
    if abs(fx - fy) > MAX_DEVIATION * fx:
        warnings.append(f"focal lengths differ by {abs(fx - fy) / fx:.1%} (fx {fx:.1f}, fy {fy:.1f}); fx is used")
    if abs(cx - width / 2) > MAX_DEVIATION * width or abs(cy - height / 2) > MAX_DEVIATION * height:
        warnings.append(
            f"principal point ({cx:.1f}, {cy:.1f}) is off the centre ({width / 2:.1f}, {height / 2:.1f}) of the frames"
        )
    return warnings


def save_poses(folder: SceneFolder) -> ColmapModel:
    """Write `poses_bounds.npy`, with one row per file of `images/`, and `scene.json`.

    Raises:
        InputError: the model is missing, or frames have no pose.
    """
    model = read_model(folder)
    files = [path.name for path in folder.list_images()]
    if missing := sorted(set(files) - set(model.names)):
        raise InputError(
            f"{len(missing)} of {len(files)} frames have no pose, {missing[0]} first; "
            f"run run_colmap.py --data_path {folder.root.parent}, or move them out of {folder.images}"
        )
    if missing := sorted(set(model.names) - set(files)):
        raise InputError(f"{folder.images} lacks {missing[0]}, which the COLMAP model has; put it back")
    rows = poses_bounds(model)
    for text in camera_warnings(model):
        log.warning("%s", text)
    write_array(folder.poses_bounds, rows)
    write_text(folder.root / "scene.json", json.dumps(scene_box(model), indent=2) + "\n")
    return model


@dataclasses.dataclass(frozen=True)
class Cameras:
    """Cameras of `poses_bounds.npy`, at the size of `images/` and in the units of the reconstruction.

    Attributes:
        w2c: poses, axes right, down, forward.
        size: (width, height).
        focal: focal length, pixels.
        bounds: near and far depth per frame.
    """

    w2c: Float[np.ndarray, "n 3 4"]
    size: tuple[int, int]
    focal: float
    bounds: Float[np.ndarray, "n 2"]

    def intrinsics(self, width: int, height: int) -> Float[np.ndarray, "3 3"]:
        """Intrinsics of frames resized to this size; the principal point is the centre, as published."""
        focal = self.focal * width / self.size[0]
        return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def load_cameras(folder: SceneFolder) -> Cameras:
    """Read `poses_bounds.npy`.

    Raises:
        InputError: the file is missing or broken, or has not one row per frame.
    """
    remedy = f"run save_poses_nerf.py --data_path {folder.root}"
    rows = read_array(folder.poses_bounds, remedy)
    n_images = len(folder.list_images())
    if rows.ndim != 2 or rows.shape != (n_images, 17) or not np.isfinite(rows).all():
        raise InputError(f"{folder.poses_bounds} must be ({n_images}, 17) numbers, it has shape {rows.shape}; {remedy}")
    c2w, sizes_and_focals, bounds = from_llff(rows)
    right, up, back, centre = (c2w[:, :, k] for k in range(4))
    rotation = np.stack([right, -up, -back], axis=1)
    translation = -np.einsum("nij,nj->ni", rotation, centre)
    height, width, focal = sizes_and_focals[0]
    w2c = np.concatenate([rotation, translation[..., None]], axis=2)
    return Cameras(w2c, (round(width), round(height)), float(focal), bounds)
