"""Cameras and points of a COLMAP model, and the files made of them: poses_bounds.npy and scene.json."""

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
from nsff.io import read_array, write_array, write_text
from nsff.scene_folder import SceneFolder

log = logging.getLogger("nsff")

NEAR_PERCENTILE, FAR_PERCENTILE = 5.0, 95.0  # of the depths of the points that a frame sees, as published
INNER_SHARE = 0.95  # of the points: what the bounding box of scene.json holds, axis by axis, as published
ODD_SHARE = 0.01  # of the size or focal length: from here on an ideal camera is a poor model
POINT_BYTES = 43  # of a point in points3D.bin before its track: id, xyz, rgb, error


@dataclasses.dataclass(frozen=True)
class Model:
    """A COLMAP model with one ideal camera; n frames sorted by name, m points."""

    names: list[str]
    size: tuple[int, int]  # width, height
    focal: tuple[float, float]  # fx, fy in pixels
    centre: tuple[float, float]  # principal point, pixels
    w2c: Float[np.ndarray, "n 3 4"]  # axes right, down, forward
    points: Float[np.ndarray, "m 3"]
    seen: list[Int[np.ndarray, "..."]]  # which points each frame sees

    @property
    def centres(self) -> Float[np.ndarray, "n 3"]:
        """Where the cameras stand."""
        return -np.einsum("nji,nj->ni", self.w2c[:, :, :3], self.w2c[:, :, 3])

    def depths(self, frame: int) -> Float[np.ndarray, " k"]:
        """Depth of the points that a frame sees."""
        rotation, shift = self.w2c[frame, 2, :3], self.w2c[frame, 2, 3]
        return self.points[self.seen[frame]] @ rotation + shift


def read_model(folder: SceneFolder) -> Model:
    """The model in `sparse/` or `sparse/0/`, binary or text.

    Raises:
        InputError: there is none, it cannot be read, or its cameras are not one ideal camera.
    """
    remedy = f"run run_colmap.py --data_path {folder.root.parent}"
    places = [folder.root / "sparse", folder.root / "sparse" / "0"]
    for place in places:
        for suffix in (".bin", ".txt"):
            if all((place / f"{name}{suffix}").is_file() for name in ("cameras", "images", "points3D")):
                return _model_of(_read_reconstruction(place, suffix, remedy), place, remedy)
    raise InputError(f"{places[0]} holds no COLMAP model (cameras, images, points3D as .bin or .txt); {remedy}")


def _read_reconstruction(place: Path, suffix: str, remedy: str) -> pycolmap.Reconstruction:
    try:
        return pycolmap.Reconstruction(place)
    except Exception as error:
        with tempfile.TemporaryDirectory() as aside:
            for name in ("cameras", "images", "points3D"):
                shutil.copy(place / f"{name}{suffix}", aside)
            try:
                _drop_tracks(Path(aside) / f"points3D{suffix}")
                model = pycolmap.Reconstruction(aside)
            except Exception:
                raise InputError(f"{place} cannot be read as a COLMAP model ({_short(error)}); {remedy}") from error
    log.info("the tracks of %s contradict its images and are ignored", place)
    return model


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _drop_tracks(path: Path) -> None:
    """Rewrite a points3D file with empty tracks: which frame sees a point stands in the images file as well."""
    if path.suffix == ".txt":
        lines = [line.split() for line in path.read_text().splitlines() if line and not line.startswith("#")]
        path.write_text("".join(" ".join(words[:8]) + "\n" for words in lines))
        return
    data, kept, at = path.read_bytes(), [], 8
    for _ in range(struct.unpack_from("<Q", data)[0]):
        (length,) = struct.unpack_from("<Q", data, at + POINT_BYTES)
        kept.append(data[at : at + POINT_BYTES] + struct.pack("<Q", 0))
        at += POINT_BYTES + 8 + 8 * length
    path.write_bytes(data[:8] + b"".join(kept))


def _model_of(model: pycolmap.Reconstruction, place: Path, remedy: str) -> Model:
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
    return Model(
        names=[image.name for image in images],
        size=(first.width, first.height),
        focal=(first.focal_length_x, first.focal_length_y),
        centre=(first.principal_point_x, first.principal_point_y),
        w2c=np.stack([image.cam_from_world().matrix() for image in images]),
        points=np.array([point.xyz for point in model.points3D.values()]).reshape(-1, 3),
        seen=[
            np.array([order[point.point3D_id] for point in image.points2D if point.has_point3D()], int)
            for image in images
        ],
    )


def poses_bounds(model: Model) -> Float[np.ndarray, "n 17"]:
    """Rows of `poses_bounds.npy`: 3x5 matrix [down, right, back, centre, (h, w, f)], then near and far.

    Raises:
        InputError: a frame sees no point in front of it.
    """
    (width, height), rows = model.size, []
    for frame, (name, w2c, centre) in enumerate(zip(model.names, model.w2c, model.centres, strict=True)):
        right, down, forward = w2c[:, :3]
        depths = model.depths(frame)
        if not len(depths) or np.percentile(depths, NEAR_PERCENTILE) <= 0.0:
            raise InputError(f"frame {name} sees no points in front of it: its pose is wrong; run run_colmap.py again")
        near, far = np.percentile(depths, [NEAR_PERCENTILE, FAR_PERCENTILE])
        matrix = np.stack([down, right, -forward, centre, [height, width, model.focal[0]]], axis=1)
        rows.append([*matrix.ravel(), near, far])
    return np.array(rows)


def scene_box(model: Model) -> dict[str, Any]:
    """`scene.json`: the box around cameras and points, without the outermost points, its centre and 1 / diagonal."""
    edge = (1.0 - INNER_SHARE) / 2.0
    low, high = np.quantile(model.points, [edge, 1.0 - edge], axis=0)
    inner = model.points[((model.points >= low) & (model.points <= high)).all(axis=1)]
    content = np.concatenate([inner, model.centres])
    corners = np.stack([content.min(axis=0), content.max(axis=0)])
    return {
        "scale": float(1.0 / np.linalg.norm(corners[1] - corners[0])),
        "center": corners.mean(axis=0).tolist(),
        "bbox": corners.tolist(),
    }


def camera_warnings(model: Model) -> list[str]:
    """What of the camera the method cannot follow: it knows one focal length, and a centre in the middle."""
    (width, height), (fx, fy), (cx, cy), found = model.size, model.focal, model.centre, []
    if abs(fx - fy) > ODD_SHARE * fx:
        found.append(f"focal lengths differ by {abs(fx - fy) / fx:.1%} (fx {fx:.1f}, fy {fy:.1f}); fx is used")
    if abs(cx - width / 2) > ODD_SHARE * width or abs(cy - height / 2) > ODD_SHARE * height:
        found.append(
            f"principal point ({cx:.1f}, {cy:.1f}) is off the centre ({width / 2:.1f}, {height / 2:.1f}) of the frames"
        )
    return found


def save_poses(folder: SceneFolder) -> Model:
    """Write `poses_bounds.npy` and `scene.json` of a scene, a row for each file of `images/`.

    Raises:
        InputError: no model, or frames without a pose.
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
    """What `poses_bounds.npy` says, at the size of `images/`."""

    w2c: Float[np.ndarray, "n 3 4"]  # axes right, down, forward
    size: tuple[int, int]  # width, height
    focal: float
    bounds: Float[np.ndarray, "n 2"]

    def intrinsics(self, width: int, height: int) -> Float[np.ndarray, "3 3"]:
        """Of frames resized to this width; the principal point in the middle, as published."""
        focal = self.focal * width / self.size[0]
        return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def load_cameras(folder: SceneFolder) -> Cameras:
    """Read `poses_bounds.npy`.

    Raises:
        InputError: missing, broken, or not as many rows as frames.
    """
    remedy = f"run save_poses_nerf.py --data_path {folder.root}"
    rows = read_array(folder.poses_bounds, remedy)
    n_images = len(folder.list_images())
    if rows.ndim != 2 or rows.shape != (n_images, 17) or not np.isfinite(rows).all():
        raise InputError(f"{folder.poses_bounds} must be ({n_images}, 17) numbers, it has shape {rows.shape}; {remedy}")
    matrix = rows[:, :15].reshape(-1, 3, 5)
    down, right, back, centre = (matrix[:, :, k] for k in range(4))
    rotation = np.stack([right, down, -back], axis=1)
    shift = -np.einsum("nij,nj->ni", rotation, centre)
    height, width, focal = matrix[0, :, 4]
    return Cameras(
        np.concatenate([rotation, shift[..., None]], axis=2), (round(width), round(height)), focal, rows[:, 15:]
    )
