"""Cameras and sparse points of a reconstruction, and their reader from COLMAP's files."""

import dataclasses
import logging
import shutil
import struct
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pycolmap
from jaxtyping import Float, Int

from nsff.errors import InputError, reason_of
from nsff.images import natural_order
from nsff.input_checks import check_common
from nsff.scene_folder import SceneFolder

log = logging.getLogger("nsff")

POINT_BYTES = 43  # Size of a point in points3D.bin before its track: id, xyz, rgb, error.
COUNT_BYTES, TRACK_ELEMENT_BYTES = 8, 8
MODEL_FILES = ("cameras", "images", "points3D")


@dataclasses.dataclass(frozen=True)
class SparseModel:
    """A reconstruction with one ideal camera; n frames in natural order, m points.

    Attributes:
        names: file names of the frames.
        size: (width, height).
        focal: (fx, fy) in pixels; median of the frames.
        principal_point: (right, down) in pixels; median of the frames.
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


def common_intrinsics(
    where: str, names: list[str], sizes: list[tuple[int, int]], intrinsics: Float[np.ndarray, "n 4"]
) -> tuple[tuple[int, int], tuple[float, float], tuple[float, float]]:
    """Reduce the cameras of all frames to one.

    Args:
        where: the file or folder, for messages.
        names: of the frames.
        sizes: (width, height) of each.
        intrinsics: fx, fy, cx, cy of each, pixels.

    Returns:
        Size, focal lengths and principal point: those that all have, or their median where they differ a little.

    Raises:
        InputError: the frames have several sizes, or very different focal lengths or principal points.
    """
    areas = [width * height for width, height in sizes]
    least, most = areas.index(min(areas)), areas.index(max(areas))
    if len(set(sizes)) > 1:
        other = most if sizes[most] != sizes[least] else next(k for k in range(len(sizes)) if sizes[k] != sizes[least])
        raise InputError(
            f"{where}: the images differ in size, {_text(sizes[least])} ({names[least]}) to {_text(sizes[other])} "
            f"({names[other]}); bring them to one size before the reconstruction, and let them share one camera"
        )
    width, height = sizes[0]
    columns = (
        ("focal length", None), ("vertical focal length", None), ("principal point (right)", float(width)),
        ("principal point (down)", float(height)),
    )  # fmt: skip
    remedy = (
        "film without zoom, or reconstruct with one camera for all (COLMAP: --ImageReader.single_camera 1; "
        "run_colmap.py does so)"
    )
    for (what, scale), values in zip(columns, intrinsics.T, strict=True):
        check_common(f"{where}: {what}", values.tolist(), names, "the median is used", remedy, scale)
    fx, fy, cx, cy = np.median(intrinsics, axis=0).tolist()
    return (width, height), (fx, fy), (cx, cy)


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def find_colmap_models(folder: SceneFolder) -> list[tuple[Path, str]]:
    """List the COLMAP models of a scene: in `sparse/`, in its folders (`sparse/0`), or beside `images/`.

    Returns:
        Folder and suffix (".bin" or ".txt") of each.
    """
    sparse = folder.root / "sparse"
    below = sorted((path for path in sparse.rglob("*") if path.is_dir()), key=lambda path: natural_order(str(path)))
    models = []
    for place in [sparse, *below, folder.root]:
        complete = (
            suffix for suffix in (".bin", ".txt") if all((place / f"{name}{suffix}").is_file() for name in MODEL_FILES)
        )
        if (suffix := next(complete, None)) is not None:
            models.append((place, suffix))
    return models


def read_colmap_model(folder: SceneFolder, models: list[tuple[Path, str]]) -> SparseModel:
    """Read the model with most frames.

    Args:
        folder: the scene.
        models: at least one, see `find_colmap_models`.

    Raises:
        InputError: no model is readable, or the cameras have distortion or differ.
    """
    remedy = f"run run_colmap.py --data_path {folder.root.parent}"
    read: dict[Path, pycolmap.Reconstruction] = {}
    for place, suffix in models:
        try:
            read[place] = _read_reconstruction(place, suffix, remedy)
        except InputError as error:
            if len(models) == 1:
                raise
            log.warning("%s", error)
    if not read:
        raise InputError(f"{folder.root} has {len(models)} COLMAP models, none can be read; {remedy}")
    place = max(read, key=lambda path: read[path].num_reg_images())
    if len(read) > 1:
        others = ", ".join(f"{path} has {read[path].num_reg_images()}" for path in read if path != place)
        log.info("%s is taken, with most frames: %d (%s)", place, read[place].num_reg_images(), others)
    return _to_model(read[place], place, folder, remedy)


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
                reason = reason_of(error)
                raise InputError(f"{place} cannot be read as a COLMAP model ({reason}); {remedy}") from error
    log.info("the tracks of %s contradict its images and are ignored", place)
    return model


def _drop_tracks(path: Path) -> None:
    """Rewrite a points3D file with empty tracks; the images file holds the observations as well."""
    if path.suffix == ".txt":
        text = path.read_text(encoding="utf-8")
        lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
        path.write_text("".join(" ".join(words[:8]) + "\n" for words in lines), encoding="utf-8")
        return
    data, points, offset = path.read_bytes(), [], COUNT_BYTES
    for _ in range(struct.unpack_from("<Q", data)[0]):
        (track_length,) = struct.unpack_from("<Q", data, offset + POINT_BYTES)
        points.append(data[offset : offset + POINT_BYTES] + struct.pack("<Q", 0))
        offset += POINT_BYTES + COUNT_BYTES + TRACK_ELEMENT_BYTES * track_length
    path.write_bytes(data[:COUNT_BYTES] + b"".join(points))


def _to_model(model: pycolmap.Reconstruction, place: Path, folder: SceneFolder, remedy: str) -> SparseModel:
    images = [image for image in model.images.values() if image.has_pose]
    images.sort(key=lambda image: natural_order(image.name))
    names = [image.name for image in images]
    if not images:
        raise InputError(f"{place} has no registered frame; {remedy}")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{place}: {count} images are named {name}; COLMAP's text format cuts names at blanks: export the model as "
            "binary (colmap model_converter --output_type BIN), or rename the images"
        )
    cameras = [model.cameras[image.camera_id] for image in images]
    for camera in cameras:
        if not camera.is_undistorted():
            raise InputError(
                f"{place}: camera {camera.camera_id} has lens distortion ({camera.model_name}); undistort frames and "
                f"model: colmap image_undistorter --image_path IMAGES --input_path {place} --output_path {folder.root}"
            )
    size, focal, principal_point = common_intrinsics(
        str(place), names, [(camera.width, camera.height) for camera in cameras],
        np.array(
            [[c.focal_length_x, c.focal_length_y, c.principal_point_x, c.principal_point_y] for c in cameras]
        ),
    )  # fmt: skip
    order = {point_id: k for k, point_id in enumerate(model.points3D)}
    return SparseModel(
        names=names,
        size=size,
        focal=focal,
        principal_point=principal_point,
        w2c=np.stack([image.cam_from_world().matrix() for image in images]),
        points=np.array([point.xyz for point in model.points3D.values()]).reshape(-1, 3),
        observed=[
            np.array([order[point.point3D_id] for point in image.points2D if point.has_point3D()], int)
            for image in images
        ],
    )
