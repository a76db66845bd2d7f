"""Cameras of a scene folder: poses scaled and recentred over the frames in use."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from nsff.config import Config
from nsff.data.timeline import Timeline
from nsff.errors import InputError
from nsff.geometry.poses import Intrinsics, Pose, average, from_llff, homogeneous, recentre, scene_scale
from nsff.geometry.rays import Camera
from nsff.io import IMAGE_SUFFIXES, read_or_raise, read_pixels, real_numbers
from nsff.scene_folder import SceneFolder, frame_files


@dataclasses.dataclass(frozen=True)
class Cameras:
    """Poses and bounds of a scene, scaled and recentred over the frames used, without any image."""

    intrinsics: Intrinsics
    c2w: Float[np.ndarray, "n 3 4"]
    bounds: Float[np.ndarray, "n 2"]
    scale: float  # units here for one of the world, that of poses_bounds.npy
    origin: Pose  # where poses here start: the average camera, in the world's axes and units here

    @property
    def timeline(self) -> Timeline:
        return Timeline(len(self.c2w))

    def camera(self, frame: int, device: torch.device, intrinsics: Intrinsics | None = None) -> Camera:
        """The camera of a frame; `intrinsics` for another size than that of training."""
        return Camera(torch.from_numpy(self.c2w[frame]).to(device), intrinsics or self.intrinsics, self.intrinsics)

    def from_world(self, pose: Pose) -> Pose:
        """A pose of the world, here."""
        scaled = np.concatenate([pose[:, :3], self.scale * pose[:, 3:]], axis=1)
        return (np.linalg.inv(homogeneous(self.origin)) @ homogeneous(scaled))[:3]

    def to_world(self, pose: Pose) -> Pose:
        """A pose from here, in the world."""
        scaled = (homogeneous(self.origin) @ homogeneous(pose))[:3]
        return np.concatenate([scaled[:, :3], scaled[:, 3:] / self.scale], axis=1)


def load_cameras(config: Config) -> Cameras:
    """Cameras of frames `start_frame` to `end_frame`, scaled by the near planes and recentred, at the training size.

    In float32, as published.

    Raises:
        InputError: poses or frames are missing or do not fit together.
    """
    folder = Path(config.datadir)
    frames_folder = SceneFolder(folder).frames_folder(config.final_height)
    c2w, hwf, bounds = from_llff(_read_poses_bounds(folder))
    images = SceneFolder(folder).list_images()
    if len(images) != len(c2w):
        raise InputError(
            f"{folder / 'poses_bounds.npy'} has {len(c2w)} poses, {folder / 'images'} has {len(images)} frames; "
            f"run save_poses_nerf.py --data_path {folder}"
        )
    used = slice(config.frame_range.start, config.frame_range.stop)
    c2w, bounds = c2w[used].astype(np.float32), bounds[used].astype(np.float32)
    scale = scene_scale(bounds, config.bd_factor)
    c2w[:, :, 3] *= scale
    remedy = f"run run_midas.py --data_path {folder}"
    frames = frame_files(frames_folder, images, config.frame_range, IMAGE_SUFFIXES, remedy)
    height, width = read_pixels(frames[0]).shape[:2]
    intrinsics = Intrinsics(height, width, float(hwf[0, 2] * height / hwf[0, 0]))
    recentred, bounds = recentre(c2w).astype(np.float32), (bounds * scale).astype(np.float32)
    return Cameras(intrinsics, recentred, bounds, scale, average(c2w))


def _read_poses_bounds(folder: Path) -> Float[np.ndarray, "n 17"]:
    path = folder / "poses_bounds.npy"
    remedy = f"run save_poses_nerf.py --data_path {folder}"
    rows = read_or_raise(path, lambda: real_numbers(np.load(path, allow_pickle=False)).astype(np.float64), remedy)
    if rows.ndim != 2 or rows.shape[1] != 17:
        raise InputError(f"{path} has shape {rows.shape}, expected (frames, 17); {remedy}")
    bad = np.flatnonzero(~np.isfinite(rows).all(1) | (rows[:, [4, 9, 14, 15]] <= 0).any(1))
    if len(bad):
        raise InputError(f"{path}: row {bad[0]} has NaN, or a size, focal length or near plane <= 0; {remedy}")
    return rows
