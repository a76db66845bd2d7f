"""Which views are compared with the truth, and by which rules. A protocol is one entry of `PROTOCOLS`.

| protocol | views | rules | source |
| --- | --- | --- | --- |
| `nsff` | at every time 12 cameras, with the poses of the first 12 frames, but for the training view | as published: SSIM for a range of 2, LPIPS without its input scaling, an empty mask counts as 0, renders not rounded | evaluation of the published code |
| `nsff-fixed` | the same | SSIM range 1, LPIPS scaled, empty masks left out, renders rounded to 8 bits | the above, mended |
| `dynamicnerf` | the camera of frame 0 at times 0 to 11, the training view at time 0 among them; a time without a frame in `heldout` is a missing file | renders truncated to 8 bits, PSNR as OpenCV has it (equal images: 361 dB), SSIM range 1, LPIPS scaled and on BGR images | `utils/evaluation.py` of DynamicNeRF (Gao et al. 2021) |
| `view0` | the camera of frame 0 at every time for which `heldout` has a frame, but time 0 | those of `nsff-fixed` | the above, stricter |
| `dynibar` | those of `nsff` at times 3 to N - 4 | those of `nsff`; black pixels of the render become black in the truth too, and the whole image is what is left | `eval_nvidia.py` of DynIBaR (Li et al. 2023) |
| `dycheck` | those of `nsff` | only pixels that the video has seen too (`covisible/`); key points carried over time by scene flow | DyCheck (Gao et al. 2022) |

Note:
    DynamicNeRF's evaluation has figures of the whole image only. Those of the moving and the still part, under
    `dynamicnerf` as under `view0`, are this project's: moving is a pixel that differs from the camera's median over
    time. They have no published counterpart.
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
from nsff.data.scene import MOVING_FROM
from nsff.errors import InputError, UsageError
from nsff.evaluation.metrics import OPENCV_PSNR, Image, Mask, Rules
from nsff.io import list_images, read_pixels, to_float

log = logging.getLogger("nsff")

N_CAMERAS = 12
N_TIMES = 12  # of DynamicNeRF's selection of every scene
HELDOUT_NAME = re.compile(r"(?:v000_t)?(\d+)")  # 00003.png, or v000_t003.png in DynamicNeRF's results
CHANGE_ABOVE = 0.1  # camera of frame 0: a pixel moves where it differs by more from its median over time
VALID_MARGIN = 3  # frames at both ends that `dynibar` leaves out
OTHER_SHAPE = 0.03  # relative difference of two aspect ratios from which it is not the same picture any more


@dataclasses.dataclass(frozen=True)
class View:
    """One held-out view: what camera `camera` (a frame whose pose it has) saw at frame `frame`.

    `visible`: pixels that count at all; None for all of them. `absent`: its files that are not there.
    """

    name: str
    frame: int
    camera: int
    truth: Callable[[], Image]
    mask: Callable[[], Mask]
    visible: Callable[[], Mask] | None = None
    absent: tuple[Path, ...] = ()


@dataclasses.dataclass(frozen=True)
class Views:
    """The views to score, the files of others that are missing, and how many views the protocol has without `every`."""

    there: list[View]
    missing: list[Path]
    n_all: int


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Views, the rules of their comparison, and whether key points are carried over time as well."""

    views: Callable[[Config, Cameras], list[View]]
    rules: Rules
    keypoints: bool = False


def _camera_views(config: Config, cameras: Cameras, margin: int = 0, covisible: bool = False) -> list[View]:
    """The views of 12 cameras at every time, `margin` frames left out at both ends."""
    folder, n_frames = Path(config.datadir), len(cameras.c2w)
    if n_frames < N_CAMERAS:
        raise InputError(
            f"protocol {config.protocol} needs the poses of {N_CAMERAS} frames, {folder} has {n_frames} of them in use"
        )
    for needed in ["mv_images", "mv_masks", *(["covisible"] if covisible else [])]:
        if not (folder / needed).is_dir():
            remedy = "run make_covisibility.py" if needed == "covisible" else "try --protocol view0"
            raise InputError(
                f"{folder / needed} is missing: protocol {config.protocol} needs held-out cameras; {remedy}"
            )
    size, views = (cameras.intrinsics.width, cameras.intrinsics.height), []
    for frame in range(margin, n_frames - margin):
        for pose in range(N_CAMERAS):
            if pose == frame % N_CAMERAS:
                continue  # the training view
            camera = (config.start_frame + pose) % N_CAMERAS  # frame t of the video was taken by camera t mod 12
            name = f"{config.start_frame + frame:05d}/cam{camera + 1:02d}"
            image, mask, seen = (
                folder / "mv_images" / f"{name}.jpg", folder / "mv_masks" / f"{name}.png",
                folder / "covisible" / f"{name}.png",
            )  # fmt: skip
            absent = tuple(path for path in (image, mask, *([seen] if covisible else [])) if not path.is_file())
            truth, moving = partial(_truth, image, size), partial(_mask, mask, size)
            visible = partial(_mask, seen, size) if covisible else None
            views.append(View(name, frame, pose, truth, moving, visible, absent))
    return views


def _first_camera_views(config: Config, cameras: Cameras, times: range | None = None) -> list[View]:
    """The views of the camera of frame 0 at `times`; by default at all of which there is a frame, but time 0."""
    if not config.heldout:
        raise UsageError(f"protocol {config.protocol} needs --heldout DIR: frames seen from the camera of frame 0")
    if config.start_frame:
        raise UsageError(f"protocol {config.protocol} needs start_frame = 0: the held-out camera is that of frame 0")
    folder, n_frames = Path(config.heldout), len(cameras.c2w)
    size = (cameras.intrinsics.width, cameras.intrinsics.height)
    files = heldout_frames(folder)
    wanted = range(1, n_frames) if times is None else times
    found = [time for time in wanted if time in files]
    if not found:
        raise InputError(f"{folder} has no frame {wanted[0]:05d} to {wanted[-1]:05d} named by its time")
    still = np.median(np.stack([_truth(path, size) for path in files.values()]), axis=0)
    views = []
    for time in found if times is None else times:
        path = files.get(time, folder / f"{time:05d}.png")
        truth = partial(_truth, path, size)
        absent = () if time in files else (path,)
        views.append(View(f"{time:05d}", time, 0, truth, partial(_moving, truth, still), absent=absent))
    return views


def _dynamicnerf_views(config: Config, cameras: Cameras) -> list[View]:
    """The views of DynamicNeRF's evaluation; a warning where figures are not comparable with those published."""
    n_frames, size = len(cameras.c2w), (cameras.intrinsics.width, cameras.intrinsics.height)
    if n_frames < N_TIMES:
        raise InputError(f"protocol dynamicnerf needs {N_TIMES} frames, {config.datadir} has {n_frames} of them in use")
    views = _first_camera_views(config, cameras, range(N_TIMES))
    if n_frames > N_TIMES:
        log.warning("protocol dynamicnerf: published figures are of %d frames, %d are in use", N_TIMES, n_frames)
    assert config.heldout  # or there would be no views
    files = heldout_frames(Path(config.heldout))
    height, width = read_pixels(files[min(files)]).shape[:2]
    if (width, height) != size:
        log.warning("protocol dynamicnerf: published figures are at %dx%d, renders at %dx%d", width, height, *size)
    return views


def heldout_frames(folder: Path) -> dict[int, Path]:
    """The images of a folder by their time, `00003.png` or `v000_t003.png`; other names are left out.

    Raises:
        InputError: two of them are of one time.
    """
    files: dict[int, Path] = {}
    for path in list_images(folder):
        if not (match := HELDOUT_NAME.fullmatch(path.stem)):
            continue
        time = int(match[1])
        if time in files:
            raise InputError(f"{files[time]} and {path.name} are both of time {time}; remove one")
        files[time] = path
    return files


def _truth(path: Path, size: tuple[int, int]) -> Image:
    """A held-out image at the size of the renders: area average, rounded to 8 bits, as published."""
    return to_float(cv2.resize(_of_shape(path, size), size, interpolation=cv2.INTER_AREA))


def _mask(path: Path, size: tuple[int, int]) -> Mask:
    pixels = cv2.resize(_of_shape(path, size), size, interpolation=cv2.INTER_NEAREST)[..., 0]
    return pixels >= MOVING_FROM


def _of_shape(path: Path, size: tuple[int, int]) -> np.ndarray:
    """An image file of the same shape as the renders; any resolution.

    Raises:
        InputError: it is wider or narrower.
    """
    pixels = read_pixels(path)
    height, width = pixels.shape[:2]
    if abs(width * size[1] - height * size[0]) > OTHER_SHAPE * width * size[1]:
        raise InputError(f"{path} is {width}x{height}, the frames are {size[0]}x{size[1]}: not the same picture")
    return pixels


def _moving(truth: Callable[[], Image], still: Image) -> Mask:
    """Where a frame of a fixed camera differs from its median over time, without specks, a little widened."""
    change = (np.abs(truth() - still).max(-1) > CHANGE_ABOVE).astype(np.uint8)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    return cv2.dilate(cv2.morphologyEx(change, cv2.MORPH_OPEN, disk), disk) > 0


_PUBLISHED = Rules(quantise="none", ssim_range=2.0, scaled_lpips=False, empty_counts_zero=True)
_FIXED = Rules()
PROTOCOLS = {
    "nsff": Protocol(_camera_views, _PUBLISHED),
    "nsff-fixed": Protocol(_camera_views, _FIXED),
    "dynamicnerf": Protocol(
        _dynamicnerf_views, dataclasses.replace(_FIXED, quantise="truncate", lpips_order="BGR", psnr_limit=OPENCV_PSNR)
    ),
    "view0": Protocol(_first_camera_views, _FIXED),
    "dynibar": Protocol(
        partial(_camera_views, margin=VALID_MARGIN), dataclasses.replace(_PUBLISHED, valid_from_render=True)
    ),
    "dycheck": Protocol(partial(_camera_views, covisible=True), _FIXED, keypoints=True),
}


def find_views(config: Config, cameras: Cameras) -> Views:
    """The views of the protocol of `config`, every `every`-th of them.

    Raises:
        InputError: the protocol's files are not there.
        UsageError: an option that it needs was not given.
    """
    views = PROTOCOLS[config.protocol].views(config, cameras)
    chosen = views[:: max(1, config.every)]
    there, missing = [view for view in chosen if not view.absent], [path for view in chosen for path in view.absent]
    if not there:
        raise InputError(f"protocol {config.protocol}: no view has all its files; {missing[0]} is missing")
    return Views(there, missing, len(views))
