"""Load the cameras of a scene folder, scaled and recentred over the frames in use."""

import dataclasses
import functools
import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from nsff.config import Config
from nsff.data.timeline import Timeline
from nsff.errors import InputError
from nsff.geometry.poses import Intrinsics, Pose, average, from_llff, homogeneous, recentre, scene_scale
from nsff.geometry.rays import Camera
from nsff.geometry.space import NdcSpace, Space, space_kind
from nsff.images import IMAGE_SUFFIXES, image_size, read_pixels
from nsff.input_checks import check_aspect, check_rows
from nsff.io import read_or_raise, real_numbers
from nsff.scene_folder import SceneFolder, frame_files


@dataclasses.dataclass(frozen=True)
class Cameras:
    """Poses and bounds of the frames in use, in scene coordinates.

    Scene coordinates are those of `poses_bounds.npy` ("the world"), scaled by `scale` and expressed in the average
    camera.
    """

    intrinsics: Intrinsics
    c2w: Float[np.ndarray, "n 3 4"]
    bounds: Float[np.ndarray, "n 2"]  # (near, far) per frame, in scene units
    scale: float  # scene units per unit of poses_bounds.npy
    origin: Pose  # average camera: its axes and centre in the world, the centre times `scale`
    kind: type[Space] = NdcSpace  # of the space of the fields
    digest: str = ""  # of the rows of poses_bounds.npy in use; empty for cameras that are not from a file

    @functools.cached_property
    def space(self) -> Space:
        """The space of the fields."""
        return self.kind.around(self.c2w, self.intrinsics)

    @property
    def timeline(self) -> Timeline:
        return Timeline(len(self.c2w))

    def camera(self, frame: int, device: torch.device, intrinsics: Intrinsics | None = None) -> Camera:
        """Camera of a frame, at the training size or with other intrinsics, on a device."""
        return Camera(torch.from_numpy(self.c2w[frame]).to(device), intrinsics or self.intrinsics, self.space)

    def from_world(self, pose: Pose) -> Pose:
        """Convert a pose from the world to scene coordinates."""
        scaled = np.concatenate([pose[:, :3], self.scale * pose[:, 3:]], axis=1)
        return (np.linalg.inv(homogeneous(self.origin)) @ homogeneous(scaled))[:3]

    def to_world(self, pose: Pose) -> Pose:
        """Convert a pose from scene coordinates to the world."""
        scaled = (homogeneous(self.origin) @ homogeneous(pose))[:3]
        return np.concatenate([scaled[:, :3], scaled[:, 3:] / self.scale], axis=1)


def load_cameras(config: Config) -> Cameras:
    """Load the cameras of frames `start_frame` to `end_frame` at the training size, scaled and recentred.

    Raises:
        InputError: Poses or frames are missing, or their numbers differ.

    Note:
        Computed in float32, as published.
    """
    folder = Path(config.datadir)
    frames_folder = SceneFolder(folder).frames_folder(config.final_height)
    c2w, hwf, bounds = from_llff(_read_poses_bounds(folder))
    images = SceneFolder(folder).list_images()
    size = check_rows(SceneFolder(folder).poses_bounds, hwf)
    if len(images) != len(c2w):
        raise InputError(
            f"{folder / 'poses_bounds.npy'} has {len(c2w)} poses, {folder / 'images'} has {len(images)} frames; "
            f"run save_poses_nerf.py --data_path {folder}"
        )
    rows = slice(config.frame_range.start, config.frame_range.stop)
    c2w, bounds = c2w[rows].astype(np.float32), bounds[rows].astype(np.float32)
    scale = scene_scale(bounds, config.bd_factor)
    c2w[:, :, 3] *= scale
    remedy = f"run run_midas.py --data_path {folder}"
    frames = frame_files(frames_folder, images, config.frame_range, IMAGE_SUFFIXES, remedy)
    height, width = read_pixels(frames[0]).shape[:2]
    first, save = f"{images[0].parent.name}/{images[0].name}", f"run save_poses_nerf.py --data_path {folder}"
    check_aspect(str(folder / "poses_bounds.npy"), size, first, image_size(images[0]), save)
    check_aspect(str(frames[0]), (width, height), "poses_bounds.npy", size, remedy)
    intrinsics = Intrinsics(height, width, float(hwf[0, 2] * height / hwf[0, 0]))
    recentred, bounds = recentre(c2w).astype(np.float32), (bounds * scale).astype(np.float32)
    return Cameras(intrinsics, recentred, bounds, scale, average(c2w), space_kind(config.no_ndc), camera_digest(config))


def camera_digest(config: Config) -> str:
    """Hash of the poses, bounds and focal length of the frames in use, 16 hexadecimal digits.

    Raises:
        InputError: `poses_bounds.npy` is missing or broken.
    """
    rows = _read_poses_bounds(Path(config.datadir))[config.frame_range.start : config.frame_range.stop]
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()[:16]


def _read_poses_bounds(folder: Path) -> Float[np.ndarray, "n 17"]:
    path = folder / "poses_bounds.npy"
    remedy = f"run save_poses_nerf.py --data_path {folder}"
    rows = read_or_raise(path, lambda: real_numbers(np.load(path, allow_pickle=False)).astype(np.float64), remedy)
    if rows.ndim != 2 or rows.shape[1] != 17:
        raise InputError(f"{path} has shape {rows.shape}, expected (frames, 17); {remedy}")
    invalid = np.flatnonzero(~np.isfinite(rows).all(1) | (rows[:, [4, 9, 14, 15]] <= 0).any(1))
    if len(invalid):
        raise InputError(
            f"{path}: row {invalid[0]} has NaN or infinity, or a size, focal length or near plane <= 0; {remedy}"
        )
    return rows
