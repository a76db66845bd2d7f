"""Files made from the cameras and points of a reconstruction: poses_bounds.npy and scene.json."""

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nsff.errors import InputError
from nsff.geometry.camera_fit import CameraFit
from nsff.geometry.poses import from_llff, to_llff
from nsff.images import image_size, natural_order
from nsff.input_checks import check_aspect, check_rows
from nsff.io import read_array, write_array, write_text
from nsff.prep.sparse_model import SparseModel, find_colmap_models, read_colmap_model
from nsff.prep.transforms_json import TRANSFORMS, read_transforms
from nsff.scene_folder import SceneFolder

log = logging.getLogger("nsff")

NEAR_PERCENTILE, FAR_PERCENTILE = 5.0, 95.0  # Of the depths of the points that a frame observes, as published.
INNER_FRACTION = 0.95  # Of the points; outer ones, per axis, do not extend the box of scene.json. As published.
NEAR_FRACTION = 0.6  # `bd_factor` of the configs for videos; it decides which space fits the cameras.
MAX_DEVIATION = 0.01  # Of the size or focal length; warn about cameras that deviate more from the ideal one.


def read_model(folder: SceneFolder) -> SparseModel:
    """Read the COLMAP model of a scene, else nerfstudio's `transforms.json`.

    Raises:
        InputError: there is neither, it cannot be read, or its cameras have distortion or differ.
    """
    if models := find_colmap_models(folder):
        return read_colmap_model(folder, models)
    if (folder.root / TRANSFORMS).is_file():
        return read_transforms(folder)
    raise InputError(
        f"{folder.root / 'sparse'} holds no COLMAP model (cameras, images, points3D as .bin or .txt), and "
        f"{folder.root} no {TRANSFORMS}; run run_colmap.py --data_path {folder.root.parent}"
    )


def poses_bounds(model: SparseModel) -> Float[np.ndarray, "n 17"]:
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


def scene_box(model: SparseModel) -> dict[str, Any]:
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


def camera_warnings(model: SparseModel) -> list[str]:
    """Describe deviations from the camera that the method assumes: one focal length, a centred principal point."""
    (width, height), (fx, fy), (cx, cy), warnings = model.size, model.focal, model.principal_point, []
    centre = f"({width / 2:.1f}, {height / 2:.1f})"
    if abs(fx - fy) > MAX_DEVIATION * fx:
        warnings.append(f"focal lengths differ by {abs(fx - fy) / fx:.1%} (fx {fx:.1f}, fy {fy:.1f}); fx is used")
    if abs(cx - width / 2) > MAX_DEVIATION * width or abs(cy - height / 2) > MAX_DEVIATION * height:
        warnings.append(
            f"principal point ({cx:.1f}, {cy:.1f}) is off the centre {centre} of the frames; the "
            f"method takes the centre, so that all rays are off by {_angle_off_centre(model):.1f} degrees"
        )
    return warnings


def _angle_off_centre(model: SparseModel) -> float:
    """Angle in degrees between the optical axis and the ray through the centre of the frame."""
    offset = np.array(model.principal_point) - np.array(model.size) / 2
    return math.degrees(math.atan(float(np.linalg.norm(offset / model.focal))))


def _match_images(model: SparseModel, images: list[Path], folder: SceneFolder) -> None:
    """Check that there is one image per pose; names may differ in the suffix, as after a conversion.

    Raises:
        InputError: an image has no pose, or a pose no image.
    """
    by_name = {path.name: path.name for path in images}, {name: name for name in model.names}
    by_stem = {path.stem: path.name for path in images}, {Path(name).stem: name for name in model.names}
    is_unique = all(len(stems) == len(names) for stems, names in zip(by_stem, by_name, strict=True))
    files, posed = by_stem if is_unique else by_name
    if missing := sorted(files.keys() - posed.keys(), key=natural_order):
        raise InputError(
            f"{len(missing)} of {len(files)} frames have no pose, {files[missing[0]]} first; "
            f"run run_colmap.py --data_path {folder.root.parent}, or move them out of {folder.images}"
        )
    if missing := sorted(posed.keys() - files.keys(), key=natural_order):
        raise InputError(f"{folder.images} lacks {posed[missing[0]]}, which the reconstruction has; put it back")


def save_poses(folder: SceneFolder) -> SparseModel:
    """Write `poses_bounds.npy`, with one row per file of `images/`, and `scene.json`.

    Beyond the published box, the latter says how far the cameras turn and which space of the fields fits them.

    Raises:
        InputError: the reconstruction is missing, frames have no pose, or their aspect ratio is not that of the camera.
    """
    model = read_model(folder)
    images = folder.list_images()
    _match_images(model, images, folder)
    for path in images:
        remedy = f"put back the images of the reconstruction, or run run_colmap.py --data_path {folder.root.parent}"
        check_aspect(str(path), image_size(path), "the camera", model.size, remedy)
    rows = poses_bounds(model)
    fit = CameraFit.in_ndc(rows, NEAR_FRACTION)
    for text in camera_warnings(model):
        log.warning("%s", text)
    if fit.blind:
        log.warning("%s: train with --no_ndc", fit.describe())
    else:
        log.info("%s", fit.describe())
    cameras = {"turn_degrees": round(fit.turn, 1), "beyond_ndc": len(fit.blind), "space": fit.space}
    write_array(folder.poses_bounds, rows)
    write_text(folder.root / "scene.json", json.dumps(scene_box(model) | {"cameras": cameras}, indent=2) + "\n")
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
        InputError: the file is missing or broken, has not one row per frame, or its sizes or focal lengths contradict
            each other or the images.
    """
    remedy = f"run save_poses_nerf.py --data_path {folder.root}"
    rows = read_array(folder.poses_bounds, remedy)
    images = folder.list_images()
    if rows.ndim != 2 or rows.shape != (len(images), 17) or not np.isfinite(rows).all():
        raise InputError(
            f"{folder.poses_bounds} must be ({len(images)}, 17) numbers, it has shape {rows.shape}; {remedy}"
        )
    c2w, sizes_and_focals, bounds = from_llff(rows)
    size = check_rows(folder.poses_bounds, sizes_and_focals)
    check_aspect(
        str(folder.poses_bounds), size, f"{images[0].parent.name}/{images[0].name}", image_size(images[0]), remedy
    )
    right, up, back, centre = (c2w[:, :, k] for k in range(4))
    rotation = np.stack([right, -up, -back], axis=1)
    translation = -np.einsum("nij,nj->ni", rotation, centre)
    height, width, focal = sizes_and_focals[0]
    w2c = np.concatenate([rotation, translation[..., None]], axis=2)
    return Cameras(w2c, (round(width), round(height)), float(focal), bounds)
