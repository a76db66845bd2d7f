"""Which views are compared with the truth, and by which rules. A protocol is one entry of `PROTOCOLS`.

| protocol | views | rules | source |
| --- | --- | --- | --- |
| `nsff` | at every time 12 cameras, with the poses of the first 12 frames, but for the training view | as published: SSIM for a range of 2, LPIPS without its input scaling, an empty mask counts as 0, renders not rounded | evaluation of the published code |
| `nsff-fixed` | the same | SSIM range 1, LPIPS scaled, empty masks left out, renders rounded to 8 bits | the above, mended |
| `view0` | the camera of frame 0 at every time for which `heldout` has a frame, but time 0 | those of `nsff-fixed`; moving is what differs from the camera's median over time | DynamicNeRF (Gao et al. 2021) |
| `dynibar` | those of `nsff` at times 3 to N - 4 | those of `nsff-fixed` | DynIBaR (Li et al. 2023) |
| `dycheck` | those of `nsff` | only pixels that the video has seen too (`covisible/`); key points carried over time by scene flow | DyCheck (Gao et al. 2022) |
"""  # noqa: E501 (a table)

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from nsff.config import Config, InputError, UsageError
from nsff.metrics import Image, Mask
from nsff.scene import Cameras, list_images, read_pixels, to_float

N_CAMERAS = 12
MASK_ABOVE = 1e-3  # share of white in a held-out mask from which a pixel counts as moving, as published
CHANGE_ABOVE = 0.1  # protocol view0: a pixel moves where it differs so much from its median over time
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
    """The views to score, and the files of others that are missing."""

    there: list[View]
    missing: list[Path]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The rules of a protocol.

    `ssim_range`, `scaled_lpips`: see `metrics`. `quantised`: renders are rounded to 8 bits before they are compared.
    `empty_counts_zero`: figures of an empty mask are 0, as published, instead of missing. `keypoints`: carry them.
    """

    views: Callable[[Config, Cameras], list[View]]
    ssim_range: float = 1.0
    scaled_lpips: bool = True
    quantised: bool = True
    empty_counts_zero: bool = False
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


def _view0_views(config: Config, cameras: Cameras) -> list[View]:
    if not config.heldout:
        raise UsageError("protocol view0 needs --heldout DIR: frames seen from the camera of frame 0")
    if config.start_frame:
        raise UsageError("protocol view0 needs start_frame = 0: the held-out camera is that of frame 0")
    size = (cameras.intrinsics.width, cameras.intrinsics.height)
    files = {int(path.stem): path for path in list_images(Path(config.heldout)) if path.stem.isdigit()}
    frames = [frame for frame in sorted(files) if 0 < frame < len(cameras.c2w)]
    if not frames:
        raise InputError(f"{config.heldout} has no frame 00001 to {len(cameras.c2w) - 1:05d} named by its time")
    still = np.median(np.stack([_truth(path, size) for path in files.values()]), axis=0)
    views = []
    for frame in frames:
        truth = partial(_truth, files[frame], size)
        views.append(View(f"{frame:05d}", frame, 0, truth, lambda truth=truth: _change(truth(), still)))
    return views


def _truth(path: Path, size: tuple[int, int]) -> Image:
    """A held-out image at the size of the renders: area average, rounded to 8 bits, as published."""
    return to_float(cv2.resize(_of_shape(path, size), size, interpolation=cv2.INTER_AREA))


def _mask(path: Path, size: tuple[int, int]) -> Mask:
    pixels = cv2.resize(_of_shape(path, size), size, interpolation=cv2.INTER_NEAREST)[..., 0]
    return pixels > MASK_ABOVE * 255.0


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


def _change(image: Image, still: Image) -> Mask:
    """Where a frame of a fixed camera differs from its median over time, without specks, a little widened."""
    change = (np.abs(image - still).max(-1) > CHANGE_ABOVE).astype(np.uint8)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    return cv2.dilate(cv2.morphologyEx(change, cv2.MORPH_OPEN, disk), disk) > 0


PROTOCOLS = {
    "nsff": Protocol(_camera_views, ssim_range=2.0, scaled_lpips=False, quantised=False, empty_counts_zero=True),
    "nsff-fixed": Protocol(_camera_views),
    "view0": Protocol(_view0_views),
    "dynibar": Protocol(partial(_camera_views, margin=VALID_MARGIN)),
    "dycheck": Protocol(partial(_camera_views, covisible=True), keypoints=True),
}


def find_views(config: Config, cameras: Cameras) -> Views:
    """The views of the protocol of `config`, every `every`-th of them.

    Raises:
        InputError: the protocol's files are not there.
        UsageError: an option that it needs was not given.
    """
    chosen = PROTOCOLS[config.protocol].views(config, cameras)[:: max(1, config.every)]
    there, missing = [view for view in chosen if not view.absent], [path for view in chosen for path in view.absent]
    if not there:
        raise InputError(f"protocol {config.protocol}: no view has all its files; {missing[0]} is missing")
    return Views(there, missing)
