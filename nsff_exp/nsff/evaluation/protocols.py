"""Evaluation protocols: which held-out views are scored, and by which rules. Each is one entry of `PROTOCOLS`.

| protocol | views | rules | source |
| --- | --- | --- | --- |
| `nsff` | 12 cameras at every time, with the poses of the first 12 frames, without the training view | as published: SSIM for a range of 2, LPIPS without its input scaling, an empty mask scores 0, renders not quantised | evaluation of the published code |
| `nsff-fixed` | the same | SSIM range 1, LPIPS scaled, empty masks left out, renders rounded to 8 bits | the above, corrected |
| `dynamicnerf` | the camera of frame 0 at times 0 to 11, including the training view at time 0; a time without an image in `--heldout` is a missing file | renders truncated to 8 bits, PSNR as in OpenCV (equal images: 361 dB), SSIM range 1, LPIPS scaled and on BGR images | `utils/evaluation.py` of DynamicNeRF (Gao et al. 2021) |
| `view0` | the camera of frame 0 at every time with an image in `--heldout`, except time 0 | those of `nsff-fixed` | the above, stricter |
| `dynibar` | those of `nsff` at times 3 to N - 4 | those of `nsff`; black pixels of the render are blackened in the truth too, and full-image scores are taken over the remaining pixels | `eval_nvidia.py` of DynIBaR (Li et al. 2023) |
| `dycheck` | those of `nsff` | only pixels that the video observes too (`covisible/`); key points transferred over time by scene flow | DyCheck (Gao et al. 2022) |

Note:
    DynamicNeRF's evaluation scores the whole image only. The scores of the moving and the static part, under
    `dynamicnerf` as under `view0`, are this project's and have no published counterpart: a pixel is moving where it
    differs from the camera's median over time.

    `dycheck` follows the paper, not the authors' code, which averages SSIM over the whole map, takes LPIPS at full
    resolution, calls a pixel covisible from more observations and by other flow, and pools PCK-T per pair of frames.
"""  # noqa: E501 (a table)

import dataclasses
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from nsff.config import Config
from nsff.data.cameras import Cameras
from nsff.errors import InputError, UsageError
from nsff.evaluation.metrics import OPENCV_PSNR, Image, Mask, Rules
from nsff.images import find_image, is_image, list_images, read_pixels, to_float
from nsff.input_checks import check_aspect
from nsff.masks import MaskFolder
from nsff.scene_folder import N_CAMERAS

log = logging.getLogger("nsff")

N_TIMES = 12  # frames per scene in DynamicNeRF's selection
HELDOUT_NAME = re.compile(r"(?:v000_t)?(\d+)")  # 00003.png, or v000_t003.png in DynamicNeRF's results
MOVING_ABOVE = 0.1  # fixed camera: a pixel moves if a channel differs by more from its median over time
DYNIBAR_MARGIN = 3  # frames at both ends of the video that `dynibar` leaves out
NO_RIG = "try --protocol view0, or diagnose.py where only the video itself is there"
UNCROPPED = "use the uncropped images of the same rig"


@dataclasses.dataclass(frozen=True)
class HeldOutView:
    """One held-out image and the pose and time to render it from.

    Attributes:
        name: like `00003/cam06` or `00003`; the name of its render.
        frame: index of the frame at whose time it was taken.
        camera: index of the frame with its pose.
        read_truth: reads the image at the size of the renders.
        read_moving: reads the mask of its moving part.
        read_visible: reads the mask of the pixels that count; None for all.
        missing: its files that do not exist.
    """

    name: str
    frame: int
    camera: int
    read_truth: Callable[[], Image]
    read_moving: Callable[[], Mask]
    read_visible: Callable[[], Mask] | None = None
    missing: tuple[Path, ...] = ()


@dataclasses.dataclass(frozen=True)
class HeldOutViews:
    """The views to score.

    Attributes:
        complete: views with all their files.
        missing: files of the other views that do not exist.
        n_of_protocol: number of views of the full protocol, without `--every`.
    """

    complete: list[HeldOutView]
    missing: list[Path]
    n_of_protocol: int


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Held-out views, the rules of their comparison, and whether key points are transferred as well."""

    list_views: Callable[[Config, Cameras], list[HeldOutView]]
    rules: Rules
    keypoints: bool = False


@dataclasses.dataclass(frozen=True)
class _RigMasks:
    """Masks of all views of the rig: of what moves, and of what counts (None for all)."""

    moving: MaskFolder
    visible: MaskFolder | None


def _masks_of(folder: Path, of_motion: bool) -> MaskFolder:
    return MaskFolder(sorted(path for path in folder.glob("*/*") if is_image(path)), of_motion)


def _rig_views(config: Config, cameras: Cameras, margin: int = 0, covisible: bool = False) -> list[HeldOutView]:
    """List views of the 12 cameras of the Dynamic Scene data at every time but for `margin` frames at both ends."""
    folder, n_frames = Path(config.datadir), len(cameras.c2w)
    if n_frames < N_CAMERAS:
        raise InputError(
            f"protocol {config.protocol} needs the poses of {N_CAMERAS} frames, {folder} has {n_frames} in use"
        )
    for needed in ["mv_images", "mv_masks", *(["covisible"] if covisible else [])]:
        if not (folder / needed).is_dir():
            remedy = "run make_covisibility.py" if needed == "covisible" else NO_RIG
            raise InputError(
                f"{folder / needed} is missing: protocol {config.protocol} needs held-out cameras; {remedy}"
            )
    visible = _masks_of(folder / "covisible", of_motion=False) if covisible else None
    masks = _RigMasks(_masks_of(folder / "mv_masks", of_motion=True), visible)
    return [
        _rig_view(config, cameras, frame, pose, masks)
        for frame in range(margin, n_frames - margin)
        for pose in range(N_CAMERAS)
        if pose != frame % N_CAMERAS  # the training view
    ]


def _rig_view(config: Config, cameras: Cameras, frame: int, pose: int, masks: _RigMasks) -> HeldOutView:
    """The view at the time of `frame` from the pose of frame `pose`."""
    folder, size = Path(config.datadir), (cameras.intrinsics.width, cameras.intrinsics.height)
    camera = (config.start_frame + pose) % N_CAMERAS  # frame t of the video was taken by camera t mod 12
    time, stem = config.start_frame + frame, f"cam{camera + 1:02d}"
    image = find_image(folder / "mv_images" / f"{time:05d}", stem, ".jpg")
    mask = find_image(folder / "mv_masks" / f"{time:05d}", stem, ".png")
    files, read_visible = [image, mask], None
    if masks.visible is not None:
        visible = find_image(folder / "covisible" / f"{time:05d}", stem, ".png")
        files, read_visible = [*files, visible], partial(_read_mask, masks.visible, visible, size)
    read_moving = partial(_read_mask, masks.moving, mask, size)
    return HeldOutView(
        f"{time:05d}/{stem}", frame, pose, partial(_read_truth, image, size), read_moving, read_visible,
        missing=tuple(path for path in files if not path.is_file()),
    )  # fmt: skip


def _first_camera_views(config: Config, cameras: Cameras, times: range | None = None) -> list[HeldOutView]:
    """List the views of the camera of frame 0 at `times`; by default at all times with an image, except time 0."""
    if not config.heldout:
        raise UsageError(f"protocol {config.protocol} needs --heldout DIR: images taken by the camera of frame 0")
    if config.start_frame:
        raise UsageError(f"protocol {config.protocol} needs start_frame = 0: the held-out camera is that of frame 0")
    folder, n_frames = Path(config.heldout), len(cameras.c2w)
    size = (cameras.intrinsics.width, cameras.intrinsics.height)
    files = heldout_frames(folder)
    candidates = range(1, n_frames) if times is None else times
    available = [time for time in candidates if time in files]
    if not available:
        raise InputError(
            f"{folder} has no image of times {candidates[0]} to {candidates[-1]}; name them by their time, "
            f"{candidates[0]:05d}.png to {candidates[-1]:05d}.png"
        )
    median = np.median(np.stack([_read_truth(path, size) for path in files.values()]), axis=0)
    views = []
    for time in available if times is None else times:
        path = files.get(time, folder / f"{time:05d}.png")
        read_truth = partial(_read_truth, path, size)
        missing = () if time in files else (path,)
        views.append(
            HeldOutView(f"{time:05d}", time, 0, read_truth, partial(_moving, read_truth, median), missing=missing)
        )
    return views


def _dynamicnerf_views(config: Config, cameras: Cameras) -> list[HeldOutView]:
    """List the views of DynamicNeRF's evaluation; warn where scores cannot be compared with those published."""
    n_frames, size = len(cameras.c2w), (cameras.intrinsics.width, cameras.intrinsics.height)
    if n_frames < N_TIMES:
        raise InputError(f"protocol dynamicnerf needs {N_TIMES} frames, {config.datadir} has {n_frames} in use")
    views = _first_camera_views(config, cameras, range(N_TIMES))
    if n_frames > N_TIMES:
        log.warning("protocol dynamicnerf: published scores are for %d frames, %d are in use", N_TIMES, n_frames)
    assert config.heldout  # checked by _first_camera_views
    files = heldout_frames(Path(config.heldout))
    height, width = read_pixels(files[min(files)]).shape[:2]
    if (width, height) != size:
        log.warning("protocol dynamicnerf: published scores are at %dx%d, renders at %dx%d", width, height, *size)
    return views


def heldout_frames(folder: Path) -> dict[int, Path]:
    """The images of a folder by their time, `00003.png` or `v000_t003.png`; other names are ignored.

    Raises:
        InputError: two images have the same time.
    """
    files: dict[int, Path] = {}
    for path in list_images(folder, "--heldout needs a folder of images named by their time, like 00003.png"):
        if not (match := HELDOUT_NAME.fullmatch(path.stem)):
            continue
        time = int(match[1])
        if time in files:
            raise InputError(f"{files[time]} and {path.name} are both of time {time}; remove one")
        files[time] = path
    return files


def _read_truth(path: Path, size: tuple[int, int]) -> Image:
    """A held-out image at the size of the renders: area average, rounded to 8 bits, as published."""
    pixels = read_pixels(path)
    check_aspect(str(path), pixels.shape[1::-1], "a frame", size, UNCROPPED)
    return to_float(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def _read_mask(masks: MaskFolder, path: Path, size: tuple[int, int]) -> Mask:
    """A mask at the size of the renders."""
    mask = masks.read(path)
    check_aspect(str(path), mask.shape[::-1], "a frame", size, UNCROPPED)
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0


def _moving(read_truth: Callable[[], Image], median: Image) -> Mask:
    """Pixels of a fixed camera that differ from their median over time, without specks, dilated by 2 pixels."""
    change = (np.abs(read_truth() - median).max(-1) > MOVING_ABOVE).astype(np.uint8)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    return cv2.dilate(cv2.morphologyEx(change, cv2.MORPH_OPEN, disk), disk) > 0


_PUBLISHED = Rules(quantise="none", ssim_range=2.0, scaled_lpips=False, empty_counts_zero=True)
_FIXED = Rules()
_DYNAMICNERF = dataclasses.replace(_FIXED, quantise="truncate", lpips_order="BGR", psnr_limit=OPENCV_PSNR)
_DYNIBAR = dataclasses.replace(_PUBLISHED, valid_from_render=True)
PROTOCOLS = {
    "nsff": Protocol(_rig_views, _PUBLISHED),
    "nsff-fixed": Protocol(_rig_views, _FIXED),
    "dynamicnerf": Protocol(_dynamicnerf_views, _DYNAMICNERF),
    "view0": Protocol(_first_camera_views, _FIXED),
    "dynibar": Protocol(partial(_rig_views, margin=DYNIBAR_MARGIN), _DYNIBAR),
    "dycheck": Protocol(partial(_rig_views, covisible=True), _FIXED, keypoints=True),
}


def find_heldout_views(config: Config, cameras: Cameras) -> HeldOutViews:
    """Find the held-out views of the protocol of `config`, every `config.every`-th of them.

    Raises:
        InputError: files of the protocol are missing.
        UsageError: an option that the protocol needs was not given.
    """
    views = PROTOCOLS[config.protocol].list_views(config, cameras)
    selected = views[:: max(1, config.every)]
    complete = [view for view in selected if not view.missing]
    missing = [path for view in selected for path in view.missing]
    if not complete:
        raise InputError(f"protocol {config.protocol}: no view has all its files; {missing[0]} is missing")
    return HeldOutViews(complete, missing, len(views))
