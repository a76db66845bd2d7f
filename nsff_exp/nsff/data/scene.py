"""Read a scene folder (layout: docs/files.md), check it, and hold it on the device."""

import dataclasses
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from nsff.config import Config
from nsff.data.cameras import Cameras, load_cameras
from nsff.data.frame_store import FrameCache
from nsff.data.timeline import FlowDirection, Timeline
from nsff.errors import InputError
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import Camera
from nsff.geometry.space import Space
from nsff.images import IMAGE_SUFFIXES, list_images, read_pixels
from nsff.input_checks import check_aspect
from nsff.io import read_or_raise, real_numbers
from nsff.masks import RULES as MASK_RULES
from nsff.masks import MaskFolder
from nsff.scene_folder import FLOW_FOLDERS, SceneFolder, frame_files

log = logging.getLogger("nsff")

Frame = int | Int[Tensor, ""]  # index of a loaded frame; a tensor of the device where no step may wait for its value
MASK_MARGIN = 0.01  # fraction of the image width; pixels closer to a motion mask are not background

PRIOR_FOLDERS = ("disp", *FLOW_FOLDERS, "motion_masks")  # each holds one or two files per frame
CPU_CACHE_GB, FREE_FRACTION = (
    1.0,
    0.25,
)  # limit of what is held in memory by default: GB, or of the free memory of a GPU
# Half precision rounds flow of up to 64 pixels by at most 1/64 of a pixel, far less than optical flow is off.
HALF_ON_CUDA = ("flow_fwd", "flow_bwd")
MAX_FLOW_BYTES = 64  # per pixel, unpacked; float64 flow and a mask take 17, a file beyond this may be a zip bomb
NETWORK_ROUNDING = 16.0  # pixels by which a disparity may be off: sizes of networks are multiples of 32


@dataclasses.dataclass(frozen=True)
class Scene:
    """Cameras, frames and priors of a scene: N frames of H x W pixels.

    Frames are of 8 bits, as their files; `image` and `colours` have them as 0..1. Flow is (right, down) in pixels of
    this size, on CUDA in half precision; forward flow of the last frame and backward flow of the first are zero with an
    empty mask. Poses are scaled and recentred over the loaded frames. Disparity is as the depth network gave it, up to
    scale and shift.
    """

    cameras: Cameras
    c2w: Float[Tensor, "N 3 4"]  # poses of `cameras`, on the compute device
    images: UInt8[Tensor, "N H W 3"]
    disparity: Float[Tensor, "N H W"]
    motion_masks: Bool[Tensor, "N H W"]
    background: Bool[Tensor, "N H W"]  # farther than MASK_MARGIN from the motion masks
    flow_fwd: Float[Tensor, "N H W 2"]
    flow_fwd_mask: Bool[Tensor, "N H W"]
    flow_bwd: Float[Tensor, "N H W 2"]
    flow_bwd_mask: Bool[Tensor, "N H W"]
    release_pages: Callable[[], None] = lambda: None  # see FrameCache.release_pages; no-op for a scene in memory
    is_mapped: bool = False  # frames and priors are memory-mapped files, on the CPU
    # Indices found so far, see `moving_pixels`; a scene with other masks begins without any.
    moving: dict[int, Tensor] = dataclasses.field(default_factory=dict, init=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Compute device. Memory-mapped scenes keep their arrays on the CPU."""
        return self.c2w.device

    @property
    def intrinsics(self) -> Intrinsics:
        return self.cameras.intrinsics

    @property
    def space(self) -> Space:
        """The space of the fields."""
        return self.cameras.space

    @property
    def timeline(self) -> Timeline:
        return self.cameras.timeline

    @property
    def n_pixels(self) -> int:
        """Pixels of a frame."""
        return self.intrinsics.height * self.intrinsics.width

    def pose(self, frame: Frame) -> Float[Tensor, "3 4"]:
        """Pose of a frame; beyond the ends of the sequence that of the frame at its end."""
        last = self.timeline.n_frames - 1
        if isinstance(frame, int):
            return self.c2w[min(max(frame, 0), last)]
        return self.c2w.index_select(0, frame.clamp(0, last).view(1))[0]

    def image(self, frame: int) -> Float[Tensor, "H W 3"]:
        """Colours of a frame, 0..1."""
        return self.images[frame] / 255.0

    def colours(self, index: Int[Tensor, " n"]) -> Float[Tensor, "n 3"]:
        """Colours of pixels, 0..1, on the compute device; `index` is flat (row-major) over all frames."""
        return self.pick(self.images, index) / 255.0

    def flow(self, index: Int[Tensor, " n"], direction: FlowDirection) -> Float[Tensor, "n 2"]:
        """Optical flow of pixels to the next or the previous frame in float32; `index` as in `colours`."""
        return self.pick(self.flow_fwd if direction == "forward" else self.flow_bwd, index).float()

    def pick(self, values: Shaped[Tensor, "N H W *c"], index: Int[Tensor, " n"]) -> Shaped[Tensor, " n *c"]:
        """Values at pixels on the compute device; `index` is flat (row-major) over all frames."""
        return values.flatten(0, 2)[index.to(values.device)].to(self.device)

    def pixel_coordinates(self, index: Int[Tensor, " n"]) -> Float[Tensor, "n 2"]:
        """Coordinates (right, down) of pixels; `index` is flat (row-major) over all frames."""
        width = self.intrinsics.width
        return torch.stack([index % width, index % self.n_pixels // width], dim=-1).to(self.c2w.dtype)

    def camera(self, frame: int, intrinsics: Intrinsics | None = None) -> Camera:
        """Camera of a frame, at the training size or with other intrinsics."""
        return self.cameras.camera(frame, self.device, intrinsics)


def load_scene(config: Config, device: torch.device) -> Scene:
    """Read frames `start_frame` to `end_frame` of `datadir` with all priors.

    Raises:
        InputError: A file is missing, broken, of the wrong size or holds NaN; the message names the file and the script
            to run.
    """
    folder, indices = Path(config.datadir), config.frame_range
    cameras, frames_folder = load_cameras(config), SceneFolder(folder).frames_folder(config.final_height)
    size = cameras.intrinsics.height, cameras.intrinsics.width
    no_flow = np.zeros((*size, 2), np.float32), np.zeros(size, bool)
    images, flow_remedy = SceneFolder(folder).list_images(), f"run run_flows_video.py --data_path {folder}"
    depth_remedy = f"run run_midas.py --data_path {folder}"

    def files_in(name: str, suffixes: tuple[str, ...], remedy: str) -> list[Path]:
        """List the files of the frames in use, and say where their order stands in for numbers."""
        paths = frame_files(folder / name, images, indices, suffixes, remedy)
        if paths[0].stem not in (f"{indices.start:05d}", images[indices.start].stem):
            log.info(
                "%s: files are matched to frames in the order of their names; the first is %s",
                folder / name,
                paths[0].name,
            )
        return paths

    def flow(row: int, direction: str) -> tuple[np.ndarray, np.ndarray]:
        if row == (len(indices) - 1 if direction == "fwd" else 0):
            return no_flow
        path = SceneFolder(folder).find_flow(indices[row], 1 if direction == "fwd" else -1)
        return _read_flow(path, size, flow_remedy)

    def mask(row: int) -> Bool[np.ndarray, "H W"]:
        return _read_motion_mask(motion_masks, masks[row], size, flow_remedy)

    frames = files_in(frames_folder.name, IMAGE_SUFFIXES, depth_remedy)
    disparities = files_in("disp", (".npy",), depth_remedy)
    masks = files_in("motion_masks", IMAGE_SUFFIXES, flow_remedy)
    motion_masks = MaskFolder(list_images(folder / "motion_masks", flow_remedy))
    cache_name = f".cache_{config.final_height}_F{indices.start:02d}-{indices.stop:02d}"
    sources = [path for name in PRIOR_FOLDERS for path in sorted((folder / name).glob("*"))] + list_images(
        frames_folder
    )
    rules = f"{MASK_MARGIN} masks {MASK_RULES} frames of 8 bits"
    cache = FrameCache(folder / cache_name, len(indices), cache_limit_gb(config, device), sources, rules)
    arrays = cache.fill({
        "images": lambda row: _read_frame(frames[row], frames[0], size, folder),
        "disparity": lambda row: _read_disparity(disparities[row], size, depth_remedy),
        "motion_masks": mask,
        "background": lambda row: background_of(mask(row)),
        "flow_fwd": lambda row: flow(row, "fwd")[0],
        "flow_fwd_mask": lambda row: flow(row, "fwd")[1],
        "flow_bwd": lambda row: flow(row, "bwd")[0],
        "flow_bwd_mask": lambda row: flow(row, "bwd")[1],
    }, device)  # fmt: skip
    if device.type == "cuda" and not cache.maps:
        arrays |= {name: arrays[name].half() for name in HALF_ON_CUDA}
    c2w = torch.from_numpy(cameras.c2w).to(device)
    return Scene(cameras, c2w, **arrays, release_pages=cache.release_pages, is_mapped=bool(cache.maps))


def cache_limit_gb(config: Config, device: torch.device) -> float:
    """GB of frames and priors that are held in memory, on CUDA in that of the GPU; `auto` resolved."""
    if config.cache_gb != "auto":
        return float(config.cache_gb)
    if device.type == "cuda":
        return FREE_FRACTION * torch.cuda.mem_get_info(device)[0] / 1e9
    return CPU_CACHE_GB


def background_of(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Mask the pixels farther than `MASK_MARGIN` from the motion mask, which is coarse and misses shadows around it."""
    size = 2 * round(MASK_MARGIN * mask.shape[1]) + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.dilate(mask.astype(np.uint8), disk) == 0


def _read_frame(path: Path, first: Path, size: tuple[int, int], folder: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Read a frame and check that it has the size of the first."""
    frame = read_pixels(path)
    if frame.shape[:2] != size:
        (height, width), (frame_height, frame_width) = size, frame.shape[:2]
        raise InputError(
            f"{path} is {frame_width}x{frame_height}, {first.name} is {width}x{height}; "
            f"run run_midas.py --data_path {folder} to resize all frames alike"
        )
    return frame


def _read_disparity(path: Path, size: tuple[int, int], remedy: str) -> Float[np.ndarray, "H W"]:
    disparity = read_or_raise(path, lambda: real_numbers(np.load(path, allow_pickle=False)).astype(np.float32), remedy)
    if disparity.ndim != 2 or not np.isfinite(disparity).all():
        raise InputError(f"{path} must be (H, W) without NaN or infinity (its shape is {disparity.shape}); {remedy}")
    check_aspect(str(path), disparity.shape[::-1], "its frame", size[::-1], remedy, rounding=NETWORK_ROUNDING)
    return cv2.resize(disparity, size[::-1], interpolation=cv2.INTER_NEAREST)


def _read_motion_mask(masks: MaskFolder, path: Path, size: tuple[int, int], remedy: str) -> Bool[np.ndarray, "H W"]:
    mask = masks.read(path)
    check_aspect(str(path), mask.shape[::-1], "its frame", size[::-1], remedy)
    return cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) > 0


def _read_flow(
    path: Path, size: tuple[int, int], remedy: str
) -> tuple[Float[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"]]:
    def read() -> tuple[np.ndarray, np.ndarray]:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_FLOW_BYTES * size[0] * size[1] + 4096:
            raise ValueError(f"unpacks to {unpacked / 1e6:.0f} MB, too much for a flow of this size")
        with np.load(path, allow_pickle=False) as data:
            return real_numbers(data["flow"]).astype(np.float32), data["mask"].astype(bool)

    flow, mask = read_or_raise(path, read, remedy)
    if flow.shape != (*size, 2) or mask.shape != size:
        raise InputError(
            f"{path} has flow of shape {flow.shape} and a mask of shape {mask.shape}, "
            f"expected {(*size, 2)} and {size}; {remedy}"
        )
    if not np.isfinite(flow).all():
        raise InputError(f"{path}: the flow has NaN or infinity; {remedy}")
    return flow, mask
