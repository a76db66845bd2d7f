"""A scene folder (layout: docs/files.md) read, checked, and held on the device."""

import dataclasses
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nsff.config import Config
from nsff.data.cameras import Cameras, load_cameras
from nsff.data.frame_store import FrameCache
from nsff.data.timeline import Timeline
from nsff.errors import InputError
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import Camera
from nsff.io import IMAGE_SUFFIXES, list_images, read_or_raise, read_pixels, real_numbers, to_float
from nsff.scene_folder import SceneFolder, frame_files

log = logging.getLogger("nsff")

MASK_MARGIN = 0.01  # of the width: so near to a motion mask, a pixel is not taken for background either

PARTS = ("disp", "flow_i1", "motion_masks")  # folders with a file a frame
MOST_FLOW_BYTES = 64  # a pixel, unpacked: float64 flow and a mask take 17; a zip bomb takes more
MOVING_FROM = 1  # grey level (0..255) of a mask from which a pixel counts as moving, as published


@dataclasses.dataclass(frozen=True)
class Scene:
    """What training and evaluation know of a scene: N frames of H x W pixels.

    Colours are 0..1. Flow is (right, down) in pixels of this size; forward flow of the last frame and backward flow of
    the first are zero with an empty mask. Poses are scaled and recentred over the loaded frames.
    """

    cameras: Cameras
    c2w: Float[Tensor, "N 3 4"]  # of `cameras`, on the device
    images: Float[Tensor, "N H W 3"]
    disparity: Float[Tensor, "N H W"]
    motion_masks: Bool[Tensor, "N H W"]
    background: Bool[Tensor, "N H W"]  # well outside the motion masks
    flow_fwd: Float[Tensor, "N H W 2"]
    flow_fwd_mask: Bool[Tensor, "N H W"]
    flow_bwd: Float[Tensor, "N H W 2"]
    flow_bwd_mask: Bool[Tensor, "N H W"]
    forget: Callable[[], None] = lambda: None  # pages of mapped files: see `cache`

    @property
    def device(self) -> torch.device:
        """Compute device. Memory-mapped scenes keep their arrays on the CPU."""
        return self.c2w.device

    @property
    def intrinsics(self) -> Intrinsics:
        return self.cameras.intrinsics

    @property
    def timeline(self) -> Timeline:
        return self.cameras.timeline

    def camera(self, frame: int, intrinsics: Intrinsics | None = None) -> Camera:
        """The camera of a frame; `intrinsics` for another size than that of training."""
        return self.cameras.camera(frame, self.device, intrinsics)


def load_scene(config: Config, device: torch.device) -> Scene:
    """Read frames `start_frame` to `end_frame` of `datadir` with all priors.

    Raises:
        InputError: a file is missing, broken, of another size, or holds NaN; the line names it and the script to run.
    """
    folder, indices = Path(config.datadir), config.frame_range
    cameras, frames_folder = load_cameras(config), SceneFolder(folder).frames_folder(config.final_height)
    size = cameras.intrinsics.height, cameras.intrinsics.width
    nothing = np.zeros((*size, 2), np.float32), np.zeros(size, bool)
    images, flow_remedy = SceneFolder(folder).list_images(), f"run run_flows_video.py --data_path {folder}"
    depth_remedy = f"run run_midas.py --data_path {folder}"

    def used(name: str, suffixes: tuple[str, ...], remedy: str) -> list[Path]:
        paths = frame_files(folder / name, images, indices, suffixes, remedy)
        if paths[0].stem not in (f"{indices.start:05d}", images[indices.start].stem):
            log.info("%s: files are taken in the order of their names, %s first", folder / name, paths[0].name)
        return paths

    def flow(row: int, direction: str) -> tuple[np.ndarray, np.ndarray]:
        if row == (len(indices) - 1 if direction == "fwd" else 0):
            return nothing
        return _read_flow(folder, f"{indices[row]:05d}_{direction}", size)

    def mask(row: int) -> Bool[np.ndarray, "H W"]:
        return _read_motion_mask(masks[row], size)

    frames = used(frames_folder.name, IMAGE_SUFFIXES, depth_remedy)
    disparities = used("disp", (".npy",), depth_remedy)
    masks = used("motion_masks", IMAGE_SUFFIXES, flow_remedy)
    name = f".cache_{config.final_height}_F{indices.start:02d}-{indices.stop:02d}"
    sources = [path for part in PARTS for path in sorted((folder / part).glob("*"))] + list_images(frames_folder)
    cache = FrameCache(folder / name, len(indices), config.cache_gb, sources, f"{MASK_MARGIN} {MOVING_FROM}")
    arrays = cache.fill({
        "images": lambda row: _read_frame(frames[row], frames[0], size, folder),
        "disparity": lambda row: _read_disparity(disparities[row], size, depth_remedy),
        "motion_masks": mask,
        "background": lambda row: background_of(mask(row)),
        "flow_fwd": lambda row: flow(row, "fwd")[0],
        "flow_fwd_mask": lambda row: flow(row, "fwd")[1],
        "flow_bwd": lambda row: flow(row, "bwd")[0],
        "flow_bwd_mask": lambda row: flow(row, "bwd")[1],
    })  # fmt: skip
    if not cache.maps:  # what is mapped stays where it is: pixels go to the device one batch at a time
        arrays = {name: array.to(device) for name, array in arrays.items()}
    return Scene(cameras, torch.from_numpy(cameras.c2w).to(device), forget=cache.forget, **arrays)


def background_of(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """What is farther than `MASK_MARGIN` from everything that moves: masks are coarse, and shadows lie around them."""
    size = 2 * round(MASK_MARGIN * mask.shape[1]) + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.dilate(mask.astype(np.uint8), disk) == 0


def _read_frame(path: Path, first: Path, size: tuple[int, int], folder: Path) -> Float[np.ndarray, "H W 3"]:
    """A frame, which must have the size of the first."""
    frame = to_float(read_pixels(path))
    if frame.shape[:2] != size:
        (height, width), (other_height, other_width) = size, frame.shape[:2]
        raise InputError(
            f"{path} is {other_width}x{other_height}, {first.name} is {width}x{height}; "
            f"run run_midas.py --data_path {folder} to make them one size"
        )
    return frame


def _read_disparity(path: Path, size: tuple[int, int], remedy: str) -> Float[np.ndarray, "H W"]:
    disparity = read_or_raise(path, lambda: real_numbers(np.load(path, allow_pickle=False)).astype(np.float32), remedy)
    if disparity.ndim != 2 or not np.isfinite(disparity).all():
        raise InputError(f"{path} must be (H, W) without NaN (found shape {disparity.shape}); {remedy}")
    return cv2.resize(disparity, size[::-1], interpolation=cv2.INTER_NEAREST)


def _read_motion_mask(path: Path, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    pixels = cv2.resize(read_pixels(path)[..., 0], size[::-1], interpolation=cv2.INTER_NEAREST)
    return pixels >= MOVING_FROM


def _read_flow(
    folder: Path, name: str, size: tuple[int, int]
) -> tuple[Float[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"]]:
    path, remedy = folder / "flow_i1" / f"{name}.npz", f"run run_flows_video.py --data_path {folder}"

    def read() -> tuple[np.ndarray, np.ndarray]:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MOST_FLOW_BYTES * size[0] * size[1] + 4096:
            raise ValueError(f"unpacks to {unpacked / 1e6:.0f} MB")
        with np.load(path, allow_pickle=False) as data:
            return real_numbers(data["flow"]).astype(np.float32), data["mask"].astype(bool)

    flow, mask = read_or_raise(path, read, remedy)
    if flow.shape != (*size, 2) or mask.shape != size:
        raise InputError(f"{path} has flow of shape {flow.shape}, the frames ask for {(*size, 2)}; {remedy}")
    if not np.isfinite(flow).all():
        raise InputError(f"{path} holds NaN or infinity; {remedy}")
    return flow, mask
