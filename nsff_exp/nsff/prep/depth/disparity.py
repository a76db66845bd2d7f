"""The stage that makes frames at training size and a disparity for each."""

import dataclasses
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float

from nsff.cli import progress_bar
from nsff.errors import InputError
from nsff.io import Image, read_frames, read_image, write_array, write_image
from nsff.prep.depth.midas import MidasDepth
from nsff.prep.flow import DisFlow
from nsff.prep.multiview.inpaint_depth import fill
from nsff.prep.multiview.triangulate import measure
from nsff.prep.network_sizes import NO_LIMITS, Limits
from nsff.prep.poses_bounds import load_cameras
from nsff.prep.previews import chosen, disparity_picture, mask_picture, write_contact_sheet
from nsff.prep.weights import MIDAS, find_weights
from nsff.scene_folder import SceneFolder

log = logging.getLogger("nsff")

METHODS = ("midas", "dpt", "depth_anything", "multiview")
MODELS = {"dpt": "Intel/dpt-large", "depth_anything": "depth-anything/Depth-Anything-V2-Small-hf"}

Disparity = Float[np.ndarray, "H W"]


@dataclasses.dataclass(frozen=True)
class DepthSettings:
    """Settings of the disparity.

    `model`: file of weights (midas), or folder or name for transformers; None = the usual one. `limits`: widest and
    highest input of MiDaS, pixels; without any, its long side is fixed.
    """

    method: str = "midas"
    model: str | None = None
    limits: Limits = NO_LIMITS
    height: int = 288


def make_frames(folder: SceneFolder, height: int) -> list[Path]:
    """Write `images_<W>x<height>`, area average."""
    paths = folder.list_images()
    made = []
    for index, frame in enumerate(progress_bar(read_frames(paths), total=len(paths), desc="frames", unit="frame")):
        size = (round(frame.shape[1] * height / frame.shape[0]), height)
        path = folder.frames(*size) / f"{index:05d}.png"
        write_image(path, cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
        made.append(path)
    for path in made[0].parent.glob("*.png"):
        if path not in made:
            path.unlink()  # of an earlier, longer video
    for other in folder.root.glob(f"images_*x{height}"):
        if other != made[0].parent and re.fullmatch(r"images_\d+x\d+", other.name):
            shutil.rmtree(other)  # of frames of another shape: training wants one folder of a height
    return made


def make_disparity(folder: SceneFolder, settings: DepthSettings, device: torch.device) -> str:
    """Write frames at training size, `disp/`, picture sheets and, from neighbours, `moving/`; returns a line about it.

    Raises:
        InputError: frames, poses or weights are missing.
    """
    folder.list_images()  # before weights are read: there may be none
    estimate = None if settings.method == "multiview" else _estimator(settings, device)  # first: weights may be bad
    paths = make_frames(folder, settings.height)
    (folder.root / "sheets" / "multiview.jpg").unlink(missing_ok=True)  # what an earlier run made of neighbours
    shutil.rmtree(folder.moving(0).parent, ignore_errors=True)
    if estimate is None:
        summary = _from_neighbours(folder, paths)
    else:
        for index, image in enumerate(
            progress_bar(read_frames(folder.list_images()), total=len(paths), desc=settings.method)
        ):
            size = read_image(paths[index]).shape[1::-1]
            disparity = cv2.resize(estimate(image), size, interpolation=cv2.INTER_AREA)
            write_array(folder.disparity(index), disparity.astype(np.float32))
        summary = f"depth: {settings.method} on {len(paths)} frames"
    rows = [[read_image(paths[k]), disparity_picture(np.load(folder.disparity(k)))] for k in chosen(len(paths))]
    write_contact_sheet(folder.root / "sheets" / "disparity.jpg", rows)
    log.info("%s", summary)
    return summary


def _from_neighbours(folder: SceneFolder, paths: list[Path]) -> str:
    if len(paths) < 2:
        raise InputError(
            f"{folder.images} holds one frame: depth cannot be measured from neighbours; take another --depth"
        )
    frames, cameras, method = list(read_frames(paths)), load_cameras(folder), DisFlow()
    height, width = frames[0].shape[:2]
    intrinsics, shares, pictures = cameras.intrinsics(width, height), [], []
    shown, nearest = set(chosen(len(frames))), float(cameras.bounds[:, 0].min())
    for index in progress_bar(range(len(frames)), desc="multiview", unit="frame"):
        measured = measure(frames, index, cameras.w2c, intrinsics, nearest, method)
        disparity = fill(measured, frames[index])
        write_array(folder.disparity(index), disparity.astype(np.float32))
        write_image(folder.moving(index), measured.moves.astype(np.uint8) * 255)
        shares.append(measured.fits.mean())
        if index in shown:
            pictures.append([mask_picture(frames[index], measured.moves), mask_picture(frames[index], ~measured.fits)])
    write_contact_sheet(folder.root / "sheets" / "multiview.jpg", pictures)
    share = float(np.mean(shares))
    if share < 0.3:
        log.warning("depth was measured on %.0f %% of the pixels only; the rest is a guess", 100 * share)
    return f"depth: {share:.0%} of the pixels measured from neighbouring frames, {1 - share:.0%} filled in"


def _estimator(settings: DepthSettings, device: torch.device) -> Callable[[Image], Disparity]:
    if settings.method == "midas":
        return MidasDepth(find_weights(settings.model or MIDAS), device, settings.limits)
    try:
        from transformers import pipeline  # optional: hundreds of megabytes, for these methods only
    except ImportError as error:
        raise InputError(f"--depth {settings.method} needs transformers; run pip install transformers") from error
    name = settings.model or MODELS[settings.method]
    try:
        estimator = pipeline("depth-estimation", model=name, device=device)
    except Exception as error:  # no network, no such folder, a broken file
        raise InputError(f"{name} cannot be loaded ({type(error).__name__}); give --depth_model FOLDER") from error

    def estimate(image: Image) -> Disparity:
        from PIL import Image as Pictures

        predicted = estimator(Pictures.fromarray(image))["predicted_depth"].squeeze().cpu().numpy()
        return cv2.resize(predicted.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_CUBIC)

    return estimate
